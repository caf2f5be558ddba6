"""Contrastive class activation maps and class-sensitivity tests for saliency methods, in JAX and Flax.

The short way, compiled for you:

    import case_jax as cj

    model = cj.load("digit_resnet")                             # or cj.tap_nnx(...) of a model of your own
    image = model.read("photo.png")
    maps = cj.explain(model, image, "case", targets=[3, 7])     # (2, H, W), in [0, 1]
    cj.show(image, maps, model=model, targets=[3, 7])

The long way, functions of one image to batch with `jax.vmap` and compile with `jax.jit`:

    view = model.view(model.params, image)                      # one forward pass
    query = cj.ask(view, targets, cj.topk_logits(5, model.num_classes))
    maps = cj.case(view, query)                                 # (targets, h, w)

Here stand the names that most people need. The rest is in its room: `cj.methods.rise`, `cj.metrics.arcc`, `cj.contrast.random_sets`, …
"""

import importlib
from typing import TYPE_CHECKING, Any

from case_jax._checks import CaseJaxError
from case_jax.contrast import Query, ask, confusion_sets, topk_logits
from case_jax.front.explaining import explain
from case_jax.imageops import finish_maps
from case_jax.methods import METHODS, all_class_maps, case, finer_cam, grad_cam, softmax_contrast
from case_jax.metrics import METRICS, agreement
from case_jax.tap import TappedModel, View, tag, tap_equinox, tap_function, tap_haiku, tap_keras, tap_linen, tap_nnx

if TYPE_CHECKING:
    from case_jax import (
        data as data,
    )
    from case_jax import (
        evaluation as evaluation,
    )
    from case_jax import (
        masking as masking,
    )
    from case_jax import (
        models as models,
    )
    from case_jax import (
        report as report,
    )
    from case_jax import (
        stats as stats,
    )
    from case_jax import (
        training as training,
    )
    from case_jax.front.evaluating import evaluate
    from case_jax.front.exploring import explore
    from case_jax.front.showing import show
    from case_jax.models import load

__version__ = "0.2.0"

_ON_USE = {
    "evaluate": "case_jax.front.evaluating",
    "explore": "case_jax.front.exploring",
    "load": "case_jax.models",
    "show": "case_jax.front.showing",
}
_ROOMS_ON_USE = ("data", "evaluation", "masking", "models", "report", "stats", "training")
"""What imports more than JAX does: files of images and weights, tables, figures."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS_ON_USE:
        return importlib.import_module(f"case_jax.{name}")
    if name in _ON_USE:
        return getattr(importlib.import_module(_ON_USE[name]), name)
    raise AttributeError(f"module 'case_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE, *_ROOMS_ON_USE})


__all__ = [
    "METHODS",
    "METRICS",
    "CaseJaxError",
    "Query",
    "TappedModel",
    "View",
    "agreement",
    "all_class_maps",
    "ask",
    "case",
    "confusion_sets",
    "evaluate",
    "explain",
    "explore",
    "finer_cam",
    "finish_maps",
    "grad_cam",
    "load",
    "show",
    "softmax_contrast",
    "tag",
    "tap_equinox",
    "tap_function",
    "tap_haiku",
    "tap_keras",
    "tap_linen",
    "tap_nnx",
    "topk_logits",
]

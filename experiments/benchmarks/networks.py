"""What class maps of all 1,000 classes cost on the full-size networks, against their plain forward pass.

Question   How much dearer than a forward pass are CASE maps of all classes, and how much memory do they take?
Command    python -m experiments.benchmarks.networks [--models resnet50 …] [--quick] [--out FILE.json]
Cost       about ten minutes on 2 CPU cores, most of it ConvNeXt-L; weights are random, which changes no time
Expected   ResNet-50 ≤ 1.10, DenseNet-201 ≤ 1.15, VGG-19 ≤ 2.5, ConvNeXt-L ≤ 30; ResNet-50 ≤ 40 MB an image
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from tabulate import tabulate

from case_jax import METHODS, all_class_maps, ask, topk_logits
from case_jax.models import model as entry_of
from case_jax.tap import tap_nnx
from experiments.benchmarks.random_network import random_network
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.timing import interleaved, temporary_bytes

BATCH = {"convnext_large": 1, "vgg19_bn": 4}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks."""

    models: tuple[str, ...] = ("resnet50", "densenet201", "vgg19_bn", "convnext_large")
    """Names from `case-jax list models`; each is tapped at the CASE paper's layer."""
    repeats: int = 7
    """Rounds of which the median is taken."""
    quick: bool = False
    """One image, one round, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def measure(name: str, *, batch: int, repeats: int) -> dict[str, Any]:
    """One network at the paper's layer: milliseconds, the ratio, temporary memory, and closed form against pullback."""
    entry = entry_of(name)
    layer = list(entry.taps.layers)[-1]
    images = jax.random.normal(jax.random.key(0), (batch, 224, 224, 3))
    module = random_network(name)
    model = tap_nnx(module, layer, images[0], **entry.taps.options(layer))
    contrast = topk_logits(5, model.num_classes)
    functions = {
        "forward": jax.vmap(model.apply, (None, 0)),
        "maps": jax.vmap(partial(all_class_maps, METHODS["case"].maps, model, contrast=contrast), (None, 0)),
    }
    compiled = {key: jax.jit(f).lower(model.params, images).compile() for key, f in functions.items()}
    seconds = interleaved({key: partial(f, model.params, images) for key, f in compiled.items()}, repeats)
    extra = [temporary_bytes(compiled[key]) for key in ("maps", "forward")]
    return {
        "model": name,
        "layer": layer,
        "route": "closed form" if model.head_kernel else "pullback",
        "batch": batch,
        "forward_ms": 1e3 * seconds["forward"] / batch,
        "ratio_to_forward": seconds["maps"] / seconds["forward"],
        "extra_temporary_mb_per_image": (extra[0] - extra[1]) / batch / 1e6,
        "largest_difference_to_pullback": difference(model, images[0]),
        "repeats": repeats,
    }


def difference(model: Any, image: jax.Array) -> float:
    """The timed maps against those of every twentieth class from weights that are pulled back, a chunk of classes at a time.

    As a share of the largest value. Where the timed route pulls back too, this compares all classes with a few.
    """
    some, contrast = jnp.arange(0, model.num_classes, 20), topk_logits(5, model.num_classes)
    pulled = dataclasses.replace(model, head_kernel=None)

    def of_some(params: Any, x: jax.Array) -> jax.Array:
        view = pulled.view(params, x)
        return METHODS["case"].maps(view, ask(view, some, contrast))

    every = jax.jit(partial(all_class_maps, METHODS["case"].maps, model, contrast=contrast))(model.params, image)[some]
    one = jax.jit(of_some)(model.params, image)
    return float(jnp.abs(every - one).max() / jnp.abs(one).max())


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    rows = [
        measure(name, batch=1 if config.quick else BATCH.get(name, 8), repeats=1 if config.quick else config.repeats)
        for name in config.models
    ]
    print(tabulate(rows, headers="keys", floatfmt=".3g"))
    result = {
        **circumstances(),
        "networks": rows,
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

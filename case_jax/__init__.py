"""Contrastive class activation maps and class-sensitivity tests for saliency methods, in JAX and Flax.

The functions here work on one image; batch them with `jax.vmap`, compile them with `jax.jit`:

    model = case_jax.tap_nnx(module, "blocks.2", image, linear_head="head")
    view = model.view(model.params, image)                      # one forward pass
    query = case_jax.ask(view, targets, case_jax.topk_logits(5, model.num_classes))
    maps = case_jax.case(view, query)                           # (targets, h, w)
"""

from case_jax._checks import CaseJaxError
from case_jax.contrast import (
    ConfusionSets,
    ContrastSet,
    Query,
    all_sets,
    ask,
    confusion_sets,
    explicit,
    orthogonal_to,
    orthogonal_to_span,
    random_sets,
    table,
    topk_logits,
)
from case_jax.imageops import finish_maps, is_degenerate
from case_jax.methods import (
    METHODS,
    all_class_maps,
    case,
    case_span,
    centre_gaussian,
    class_maps,
    finer_cam,
    grad_cam,
    random_map,
    softmax_contrast,
    top_class_maps,
)
from case_jax.metrics import METRICS, agreement, evidence_shares, points_at_own, removed_probabilities
from case_jax.ranking import top_mask
from case_jax.tap import TappedModel, View, tag, tag_head_input, tap_function, tap_linen, tap_nnx

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "METRICS",
    "CaseJaxError",
    "ConfusionSets",
    "ContrastSet",
    "Query",
    "TappedModel",
    "View",
    "agreement",
    "all_class_maps",
    "all_sets",
    "ask",
    "case",
    "case_span",
    "centre_gaussian",
    "class_maps",
    "confusion_sets",
    "evidence_shares",
    "explicit",
    "finer_cam",
    "finish_maps",
    "grad_cam",
    "is_degenerate",
    "orthogonal_to",
    "orthogonal_to_span",
    "points_at_own",
    "random_map",
    "random_sets",
    "removed_probabilities",
    "softmax_contrast",
    "table",
    "tag",
    "tag_head_input",
    "tap_function",
    "tap_linen",
    "tap_nnx",
    "top_class_maps",
    "top_mask",
    "topk_logits",
]

"""Contrast sets (which classes) and contrast operators (how they are taken out)."""

from case_jax.contrast.asking import ask
from case_jax.contrast.choice import CONTRASTS, ContrastChoice, choose_contrast
from case_jax.contrast.operators import (
    difference,
    maximum,
    mean,
    mean_orthogonal,
    none,
    orthogonal_to,
    orthogonal_to_span,
    softmax,
    span_orthogonal,
)
from case_jax.contrast.sets import (
    ConfusionSets,
    ContrastSet,
    Query,
    against,
    all_sets,
    confusion_sets,
    explicit,
    random_sets,
    table,
    topk_logits,
)

__all__ = [
    "CONTRASTS",
    "ConfusionSets",
    "ContrastChoice",
    "ContrastSet",
    "Query",
    "against",
    "all_sets",
    "ask",
    "choose_contrast",
    "confusion_sets",
    "difference",
    "explicit",
    "maximum",
    "mean",
    "mean_orthogonal",
    "none",
    "orthogonal_to",
    "orthogonal_to_span",
    "random_sets",
    "softmax",
    "span_orthogonal",
    "table",
    "topk_logits",
]

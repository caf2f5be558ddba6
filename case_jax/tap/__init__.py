"""A classifier split at a named layer: logits, activation and class weights from one forward pass."""

from case_jax.tap.equinox_modules import tap_equinox
from case_jax.tap.flax_linen import tap_linen
from case_jax.tap.flax_nnx import tap_nnx
from case_jax.tap.function import tag_head_input, tag_head_output, tap_function
from case_jax.tap.haiku_functions import tap_haiku
from case_jax.tap.head import Head
from case_jax.tap.keras_models import tap_keras
from case_jax.tap.link import LINKS, Link
from case_jax.tap.relu import count_gates
from case_jax.tap.split import split, tag
from case_jax.tap.tapping import check_closed_form
from case_jax.tap.view import TappedModel, View

__all__ = [
    "LINKS",
    "Head",
    "Link",
    "TappedModel",
    "View",
    "check_closed_form",
    "count_gates",
    "split",
    "tag",
    "tag_head_input",
    "tag_head_output",
    "tap_equinox",
    "tap_function",
    "tap_haiku",
    "tap_keras",
    "tap_linen",
    "tap_nnx",
]

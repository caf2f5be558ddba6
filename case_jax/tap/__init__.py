"""A classifier split at a named layer: logits, activation and class weights from one forward pass."""

from case_jax.tap.flax_linen import tap_linen
from case_jax.tap.flax_nnx import tap_nnx
from case_jax.tap.function import tag_head_input, tag_head_output, tap_function
from case_jax.tap.head import Head
from case_jax.tap.link import LINKS, Link
from case_jax.tap.split import split, tag
from case_jax.tap.view import TappedModel, View, check_closed_form

__all__ = [
    "LINKS",
    "Head",
    "Link",
    "TappedModel",
    "View",
    "check_closed_form",
    "split",
    "tag",
    "tag_head_input",
    "tag_head_output",
    "tap_function",
    "tap_linen",
    "tap_nnx",
]

"""What the classifier says of altered copies of an image."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.head import at_least_float32
from case_jax.tap.view import View


def altered_probabilities(
    view: View, alter: Callable[[Any], Float[Array, "*space D"]], items: Any, target: Int[Array, ""]
) -> Float[Array, " n"]:
    """The target's softmax probability for `alter(item)` in place of the image, for each item along the leading axis.

    No more than `view.chunk` altered copies are in memory at once.
    """

    def altered(item):
        return probability(view.predict(alter(item).astype(view.image.dtype)), target)

    return map_in_chunks(altered, items, chunk=view.chunk)


def probability(logits: Float[Array, " C"], target: Int[Array, ""]) -> Float[Array, ""]:
    """The target's softmax probability, computed in float32 at least."""
    return jax.nn.softmax(at_least_float32(logits))[target]

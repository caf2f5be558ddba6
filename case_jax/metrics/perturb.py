"""What the classifier says of perturbed copies of an image."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int

from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.link import probability, require_classes, require_probabilities
from case_jax.tap.view import View

Alter = Callable[[Any], Float[Array, "*space D"]]


def perturbed_logits(view: View, alter: Alter, items: Any) -> Float[Array, "n C"]:
    """The logits of `alter(item)` in place of the image, for each item along the leading axis.

    No more than `view.chunk` altered copies are in memory at once.
    """
    return map_in_chunks(lambda item: view.predict(alter(item).astype(view.image.dtype)), items, chunk=view.chunk)


def perturbed_probabilities(view: View, alter: Alter, items: Any, target: Int[Array, ""] | int) -> Float[Array, " n"]:
    """The target's probability, by the model's link, for `alter(item)` in place of the image, for each item along the leading axis.

    No more than `view.chunk` altered copies are in memory at once. NaN for a traced class that the model does not have.

    Raises:
        CaseJaxError: for the link `identity`, and for a class that does not exist where that is known.
    """
    require_probabilities(view.link)
    require_classes("target", target, view.logits.shape[0])

    def altered(item):
        return probability(view.predict(alter(item).astype(view.image.dtype)), target, view.link)

    return map_in_chunks(altered, items, chunk=view.chunk)

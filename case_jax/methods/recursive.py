"""A method's map as a mask on the image, explained and masked again."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.imageops import resize_map, space_axes
from case_jax.methods.cam import of_existing
from case_jax.methods.gradient_x_sign import gradient_x_sign, gradient_x_sign_attribution
from case_jax.methods.input_x_gradient import input_x_gradient, input_x_gradient_attribution
from case_jax.methods.integrated_gradients import integrated_gradients, integrated_gradients_attribution
from case_jax.methods.naming import MapFunction, bare, name_of
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.tap.view import View, at_least_float32

BY_CHANNEL: dict[Any, Any] = {
    gradient_x_sign: gradient_x_sign_attribution,
    input_x_gradient: input_x_gradient_attribution,
    integrated_gradients: integrated_gradients_attribution,
}
"""Methods whose maps are made of a signed number for each colour of each pixel, and what gives these numbers."""


class Rounds(NamedTuple):
    """What masking an image with its own explanations, round by round, comes to."""

    mask: Float[Array, "*space D"]
    """P_n, the product of all masks."""
    logits: Float[Array, "rounds C"]
    """Of `x ⊙ P_i`, i = 0 … n: first those of the image itself."""


def by_channel(method: MapFunction) -> MapFunction:
    """What a method says of each colour, `(view, query) -> (T, *space, D)`, where it says that; else the method itself."""
    function = BY_CHANNEL.get(bare(method))
    if function is None:
        return method
    options = dict(method.keywords) if isinstance(method, partial) else {}
    sign = options.pop("sign", 1)
    return lambda view, query: sign * function(view, query.targets, **options)


def rescaled(attribution: Float[Array, "*space D"]) -> Float[Array, "*space D"]:
    """Each channel shifted and divided to reach from 0 to 1 over all positions; a flat channel becomes 0."""
    shifted = attribution - attribution.min(space_axes(attribution))
    top = shifted.max(space_axes(attribution))
    return shifted / jnp.where(top > 0, top, jnp.ones_like(top))


def masked_rounds(view: View, query: Query, method: MapFunction, rounds: int = 3) -> Rounds:
    """Explain, mask the image with the explanation, explain what is left, and so on, for the first class of a query.

    `P_0 = 1`, `P_{i+1} = P_i ⊙ n(E(x ⊙ P_i, c))`: E is the method's signed attribution of each colour where it has one, else its map, enlarged; n maps
    minimum and maximum over all positions to 0 and 1, of each channel by itself. What is masked becomes the data set's mean.

    Args:
        view: one image's view.
        query: its target, and a second one where the method needs a pair; its contrast set, which stays that of the whole image, and key, where the
            method needs them.
        method: a map function.
        rounds: n.

    Returns:
        P_n and the logits of all rounds. Where an explanation is flat, everything is masked from there on. No gradient flows through the rounds, as each
        explanation is a number.

    Raises:
        CaseJaxError: for fewer than 0 rounds, or more than two targets.

    Lee and Chang, 2021 (arXiv 2102.07332), and their public code.
    """
    require(rounds >= 0, "rounds", rounds, "a number of rounds of at least 0")
    count = len(query.targets)
    require(count in (1, 2), "targets", f"{count} targets", "one, or two for a method of a pair")
    image, maps = at_least_float32(view.image), by_channel(method)

    def masked(mask: Array) -> Array:
        return (image * mask).astype(view.image.dtype)

    def step(mask: Array, _: None) -> tuple[Array, Array]:
        seen = view.of(masked(mask))
        explained = maps(seen, query)[0]
        if explained.ndim < image.ndim:
            explained = resize_map(explained, image.shape[:-1])[..., None]
        return mask * rescaled(at_least_float32(explained)), seen.logits

    mask, logits = jax.lax.scan(cpu_convolutions(step), jnp.ones_like(image), length=rounds)
    last = view.predict(masked(mask))
    return Rounds(mask, jnp.concatenate([logits, last[None]]))


def recursive_maps(view: View, query: Query, method: MapFunction, rounds: int) -> Float[Array, "T *space"]:
    """The mean over channels of P_n for each target, see `masked_rounds`; NaN for a class that the model does not have."""

    def one(asked: tuple[Array, Array | None]) -> Array:
        target, contrast = asked
        alone = Query(target[None], None if contrast is None else contrast[None], query.key, query.members)
        return masked_rounds(view, alone, method, rounds).mask.mean(-1)

    found = map_in_chunks(one, (query.targets, query.contrast), chunk=view.chunk)
    return of_existing(view, query, found)


@dataclass(frozen=True)
class Recursive:
    """A method whose map is applied as a mask, and asked again; from `recursive`."""

    method: MapFunction
    rounds: int
    mask = True

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{name_of(self.method)}, {self.rounds} rounds"

    def __call__(self, view: View, query: Query) -> Float[Array, "T *space"]:
        """One mask per target, in [0, 1], at the image's resolution; raises as the method."""
        return recursive_maps(view, query, self.method, self.rounds)


def recursive(method: MapFunction, rounds: int = 3) -> Recursive:
    """The method applied to its own result: explain, mask the image with that, explain again.

    The map is the mean over channels of the product of the masks of all rounds (`masked_rounds`). It costs `rounds` times what the method costs, and a pass.

    Args:
        method: a map function `(view, query) -> maps`. Of `gradient_x_sign`, `input_x_gradient` and `integrated_gradients` the mask has a
            number for each colour; maps of a layer are enlarged.
        rounds: how often; the authors take 3 to 20.

    Returns:
        A map function whose maps are masks, in [0, 1]: they say how much is seen of each pixel, and are not rescaled. All zero after a round that explains nothing.

    Raises:
        CaseJaxError: for fewer than 1 round.

    Lee and Chang, Recursive Explanation with Attribution Mask, 2021 (arXiv 2102.07332). A mask made for a class carries the class's name: that the classifier
    sees the class through it is no evidence that the class is in the image. See the metric `masked_accuracy`.
    """
    require(rounds >= 1, "rounds", rounds, "a number of rounds of at least 1")
    return Recursive(method, rounds)

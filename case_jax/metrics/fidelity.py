"""Fidelity: does the predicted class lose its probability when a map's top pixels are removed?"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from case_jax._checks import require, unknown
from case_jax.imageops import Fill, filling
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.perturb import perturbed_probabilities
from case_jax.metrics.removals import Removal, removed_from, stacked
from case_jax.ranking import pixel_count, top_mask
from case_jax.tap.link import probability
from case_jax.tap.view import View

PERCENTS = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90)
Region = Literal["top", "reference-transposed"]
REGIONS: tuple[Region, ...] = get_args(Region)


def removal_mask(
    saliency: Float[Array, "*space"], count: int | Int[Array, ""], *, region: Region = "top"
) -> Bool[Array, "*space"]:
    """The pixels that the test removes.

    Args:
        saliency: one finished map.
        count: how many of its highest-ranked pixels.
        region: `top` removes them; `reference-transposed` removes the pixels with row and column exchanged, as the paper's
            public code does by mistake (square maps only). For comparison with its numbers, never for use.

    Raises:
        CaseJaxError: for an unknown region, or `reference-transposed` on a map that is not square.
    """
    if region not in REGIONS:
        raise unknown("region", region, REGIONS)
    if region == "top":
        return top_mask(saliency, count)
    square = saliency.ndim == 2 and saliency.shape[0] == saliency.shape[1]
    require(square, "region", f"{region!r} for a map of shape {saliency.shape}", "a square map")
    return top_mask(saliency, count).T


def removed_probabilities(
    view: View,
    saliency: Float[Array, "*space"],
    target: Int[Array, ""] | int,
    *,
    percents: Sequence[float] = PERCENTS,
    fill: Fill = "mean",
    region: Region = "top",
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, " P"]:
    """The target's probability, by the model's link, after a map's top pixels are replaced.

    Args:
        view: one image's view.
        saliency: one finished map of that image, at its resolution.
        target: the class whose probability is watched.
        percents: how many of the pixels to remove, in percent.
        fill: what is put in their place; `mean` is zero in normalised space.
        region: see `removal_mask`.
        black: a black pixel in normalised units, for the fill `zero-pixel`.
        key: this image's random key, for the fill `noise`.

    Returns:
        One probability per percentage; the drop is `max(p − p', 0)/p`.

    Raises:
        CaseJaxError: for a percentage outside (0, 100] or of less than a pixel, an unknown fill or region, or a fill without the
            `black` or `key` that it needs.

    What wins it without merit: a map of the whole object, or of pixels to which the classifier overreacts, whether they speak for the class or
    not; beyond 20% removed nearly every map does well.
    """
    counts = jnp.asarray([pixel_count(p, saliency.shape) for p in percents])
    image = view.image
    other = filling(fill, image, black=black, key=key)

    def without(count):
        return jnp.where(removal_mask(saliency, count, region=region)[..., None], other, image)

    return perturbed_probabilities(view, without, counts, target)


def column(percent: float) -> str:
    """Name of the column that holds the probability after removing this percentage."""
    return f"p_removed_{percent:g}"


def removal(*, percents: Sequence[float] = PERCENTS, fill: Fill = "mean", region: Region = "top") -> Removal | None:
    """What is removed: the top of the first map; None where that is another region. Options as `fidelity_columns`."""
    return Removal(fill, first=tuple(percents)) if region == "top" else None


def fidelity_columns(
    inputs: MetricInputs, *, percents: Sequence[float] = PERCENTS, fill: Fill = "mean", region: Region = "top"
) -> dict[str, Array]:
    """One column `p_removed_<percent>` for each percentage: the top-1 class's probability after the removal."""
    view, target, asked = inputs.view, inputs.targets[0], removal(percents=percents, fill=fill, region=region)
    if asked is None:
        how = {"percents": percents, "fill": fill, "region": region, "black": inputs.black, "key": inputs.key}
        left = removed_probabilities(view, inputs.maps[0], target, **how)
    else:
        logits = stacked(removed_from(inputs, asked)[0], percents).logits
        left = jax.vmap(lambda y: probability(y, target, view.link))(logits)
    left = jnp.where(inputs.degenerate[0], jnp.nan, left)
    return {column(percent): left[i] for i, percent in enumerate(percents)}

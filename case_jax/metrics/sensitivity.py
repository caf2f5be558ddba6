"""Class sensitivity: do a method's maps of the two likeliest classes mark the same pixels?"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from case_jax.metrics.inputs import MetricInputs
from case_jax.ranking import pixel_count, require_pair, top_mask


class Agreement(NamedTuple):
    """Overlap of the top pixels of two maps."""

    F: Float[Array, ""]
    """Share of the top pixels that both maps have in common, 0 to 1."""
    F_plus: Float[Array, ""]
    """The same over positive pixels only."""
    zeros_in_top: Bool[Array, ""]
    """Whether either map has fewer positive pixels than the top holds, so that ties among zeros decide F."""


def agreement(
    first: Float[Array, "*space"], second: Float[Array, "*space"], *, percent: float = 5.0, space: int = 2
) -> Agreement:
    """Top-k% agreement of two maps.

    `F = |T₁ ∩ T₂| / n` with `T` the n = ⌊percent/100 · pixels⌋ highest-ranked pixels (ties to the lower index);
    `F⁺ = |T₁⁺ ∩ T₂⁺| / max(|T₁⁺|, |T₂⁺|)` with `T⁺` the positive pixels of T, and 0 where no map has any. F⁺ equals F
    when no zeros lie inside the top.

    Args:
        first: one finished map.
        second: another of the same image.
        percent: k, in percent of the pixels.
        space: how many axes a map has: 2 for pictures, 1 for signals, 3 for volumes.

    Returns:
        F, F⁺ and whether zeros decided F. Degenerate maps rank nothing: two all-zero maps agree in all their ties (F = 1,
        F⁺ = 0), so leave them out (`is_degenerate`), as an evaluation does.

    Raises:
        CaseJaxError: for a percentage outside (0, 100], or one that is less than a pixel, or maps of other shapes.

    Williamson, Dwyer, Ji, CASE (arXiv 2506.07327), section on the class-sensitivity diagnostic; F⁺ introduced here. What wins it without
    merit: noise that is drawn anew for every class, and the subtraction of the rival's map, of whatever it is made; maps exchanged have the same F.
    """
    require_pair(first, second, space)
    count = pixel_count(percent, first.shape)
    tops = [top_mask(m, count) for m in (first, second)]
    positive = [t & (m > 0) for t, m in zip(tops, (first, second), strict=True)]
    larger = jnp.maximum(positive[0].sum(), positive[1].sum())
    both_positive = (positive[0] & positive[1]).sum()
    return Agreement(
        (tops[0] & tops[1]).sum() / count,
        both_positive / jnp.maximum(larger, 1),
        jnp.minimum(positive[0].sum(), positive[1].sum()) < count,
    )


def sensitivity_columns(inputs: MetricInputs, *, percent: float = 5.0) -> dict[str, Array]:
    """The row's columns `F`, `F_plus` and `zeros_in_top`; F and F⁺ are NaN where either map is degenerate."""
    found = agreement(inputs.maps[0], inputs.maps[1], percent=percent, space=inputs.maps.ndim - 1)
    unusable = inputs.degenerate[:2].any()
    return {
        "F": jnp.where(unusable, jnp.nan, found.F),
        "F_plus": jnp.where(unusable, jnp.nan, found.F_plus),
        "zeros_in_top": found.zeros_in_top,
    }

"""Similarity: how alike are two maps of one image, over all pixels?"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.imageops import require_pictures
from case_jax.metric_column import MetricColumn
from case_jax.metrics.hog import hog_correlation
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.ssim import ssim
from case_jax.ranking import spearman

COLUMNS = (
    MetricColumn(
        "spearman",
        "Spearman ρ, top-1 and top-2",
        "rank correlation of the maps of the two likeliest classes; low is class-sensitive, 1 is one map for both",
        better="low",
        maps="both",
        percent=False,
    ),
    MetricColumn(
        "ssim",
        "SSIM, top-1 and top-2",
        "structural similarity of the maps of the two likeliest classes; low is class-sensitive, 1 is one map for both",
        better="low",
        maps="both",
        percent=False,
    ),
)


def similarity_columns(inputs: MetricInputs) -> dict[str, Array]:
    """Columns `spearman` and `ssim` of the maps of the two likeliest classes; NaN where either map is degenerate.

    What wins it (a low similarity) without merit: noise that is drawn anew for every class, and the subtraction of the rival's map.
    """
    require_pictures("SSIM", inputs.maps.ndim - 1)
    first, second = inputs.maps[0], inputs.maps[1]
    unusable = inputs.degenerate[:2].any()
    found = {"spearman": spearman(first, second), "ssim": ssim(first, second)}
    return {name: jnp.where(unusable, jnp.nan, value) for name, value in found.items()}


SIMILARITIES = ("spearman", "spearman_abs", "ssim", "hog")


class TwoForms(NamedTuple):
    """One map at input resolution."""

    raw: Float[Array, "H W"]
    """As the method gave it, with its signs."""
    shown: Float[Array, "H W"]
    """Its positive part, rescaled to [0, 1]: what a reader sees."""


def map_similarities(first: TwoForms, second: TwoForms) -> dict[str, Array]:
    """How alike are two maps of one image, in the four ways of Adebayo et al.?

    `spearman` is the rank correlation of the maps with their signs, `spearman_abs` that of their magnitudes (the same number, where no map
    has negative values), `ssim` and `hog` are the structural similarity and the correlation of the gradient histograms of the maps as they are
    shown. Each is 1 for equal maps and near 0 for unrelated ones.

    Returns:
        The four numbers. `spearman` and `spearman_abs` are NaN where a map is constant or not finite; leave degenerate maps out.

    Raises:
        CaseJaxError: for maps of other shapes, or with a side below 12 pixels.

    Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv 1810.03292). What wins it (a low similarity to the map of a changed
    network) without merit: noise; what makes it high without fault: edges of the image, which many maps follow.
    """
    found = (
        spearman(first.raw, second.raw),
        spearman(jnp.abs(first.raw), jnp.abs(second.raw)),
        ssim(first.shown, second.shown),
        hog_correlation(first.shown, second.shown),
    )
    return dict(zip(SIMILARITIES, found, strict=True))

"""Similarity: how alike are a method's maps of the two likeliest classes, over all pixels?"""

import jax.numpy as jnp
from jaxtyping import Array

from case_jax.imageops import ssim
from case_jax.measure import Measure
from case_jax.metrics.scored import Scored
from case_jax.ranking import spearman

MEASURES = (
    Measure(
        "spearman",
        "Spearman ρ, top-1 and top-2",
        "rank correlation of the maps of the two likeliest classes; low is class-sensitive, 1 is one map for both",
        better="low",
        maps="both",
        percent=False,
    ),
    Measure(
        "ssim",
        "SSIM, top-1 and top-2",
        "structural similarity of the maps of the two likeliest classes; low is class-sensitive, 1 is one map for both",
        better="low",
        maps="both",
        percent=False,
    ),
)


def similarity_columns(scored: Scored) -> dict[str, Array]:
    """Columns `spearman` and `ssim` of the maps of the two likeliest classes; NaN where either map is degenerate."""
    first, second = scored.maps[0], scored.maps[1]
    unusable = scored.degenerate[:2].any()
    found = {"spearman": spearman(first, second), "ssim": ssim(first, second)}
    return {name: jnp.where(unusable, jnp.nan, value) for name, value in found.items()}

"""Which pixels of a map rank highest: the one tie rule of the project; and how well two rankings agree.

Pixels are ranked by value, descending, and among equal values by flat (row-major) index, ascending. A rank correlation has to
treat equal values alike, and there alone ties share their average rank.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt32

from case_jax._checks import require, require_percent


def pixel_count(percent: float, shape: tuple[int, ...]) -> int:
    """How many pixels are the top `percent` % of a map of this shape, rounded down.

    Raises:
        CaseJaxError: for a percentage outside (0, 100], or of less than one pixel.
    """
    require_percent("percent", [percent])
    height, width = shape
    count = math.floor(percent * height * width / 100 + 1e-9)  # 47% of 100 pixels are 47, whatever 0.47 · 100 rounds to
    require(count >= 1, "percent", f"{percent:g}% of {height}×{width} pixels", "at least one pixel")
    return count


def _ordered(values: Float[Array, "*s"]) -> UInt32[Array, "*s"]:
    """float32 to uint32, keeping the order; -0 and 0 become the same."""
    values = values.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.uint32)
    top = jnp.uint32(1 << 31)
    return jnp.where(bits >= top, ~bits, bits | top)


def top_mask(saliency: Float[Array, "H W"], count: int | Int[Array, ""]) -> Bool[Array, "H W"]:
    """The `count` highest-ranked pixels of a map, exactly `count` of them.

    The threshold is found by bisection on the bits of the values: no sort, cost independent of `count`.

    Args:
        saliency: one map; compared in float32. the rank of NaN is undefined: exclude degenerate maps first.
        count: number of pixels, 0 ≤ count ≤ H·W; may be traced.

    Returns:
        True on the selected pixels. Ties go to the lower flat index.
    """
    keys = _ordered(saliency).ravel()

    def bit(i, threshold):
        candidate = threshold | (jnp.uint32(1) << jnp.uint32(31 - i))
        return jnp.where((keys >= candidate).sum() >= count, candidate, threshold)

    threshold = jax.lax.fori_loop(0, 32, bit, jnp.zeros_like(keys[0]))
    above, equal = keys > threshold, keys == threshold
    taken = above | (equal & (jnp.cumsum(equal) <= count - above.sum()))
    return taken.reshape(saliency.shape)


def places(saliency: Float[Array, "H W"]) -> Int[Array, "H W"]:
    """The place of every pixel in the ranking of a map, 0 for the highest: `places(m) < n` is `top_mask(m, n)`, for every n at once.

    One sort, where `top_mask` needs none; use it when many counts of one map are wanted.
    """
    order = jnp.argsort(~_ordered(saliency).ravel(), stable=True)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype), unique_indices=True)
    return place.reshape(saliency.shape)


def average_ranks(values: Float[Array, " n"]) -> Float[Array, " n"]:
    """Ranks from 1 (the lowest) to n; equal values share the average of their ranks, as `scipy.stats.rankdata`. Exact for n < 2²³."""
    order = jnp.argsort(values)
    ordered, place = values[order], jnp.arange(len(values))
    differs = ordered[1:] != ordered[:-1]
    end = jnp.ones(1, bool)
    first = jax.lax.cummax(jnp.where(jnp.concatenate([end, differs]), place, 0))
    last = jax.lax.cummin(jnp.where(jnp.concatenate([differs, end]), place, len(values) - 1), reverse=True)
    average = (first + last).astype(_wide(values)) / 2 + 1
    return jnp.zeros_like(average).at[order].set(average, unique_indices=True)


def correlation(first: Float[Array, "H W"], second: Float[Array, "H W"]) -> Float[Array, ""]:
    """Pearson's correlation of two maps over their pixels, −1 to 1.

    `ρ = Σ (a − ā)(b − b̄) / √(Σ (a − ā)² · Σ (b − b̄)²)`.

    Args:
        first: one map.
        second: another of the same shape.

    Returns:
        ρ, computed in float32 at least; NaN where either map is constant or not finite.

    Raises:
        CaseJaxError: for maps of other shapes.
    """
    _require_same_shape(first, second)
    dtype = _wide(first, second)
    a, b = (m.astype(dtype) - m.astype(dtype).mean() for m in (first, second))
    product, scale = (a * b).mean(), jnp.sqrt((a * a).mean()) * jnp.sqrt((b * b).mean())
    varies = (first != first.ravel()[0]).any() & (second != second.ravel()[0]).any() & (scale > 0)
    return jnp.where(varies, jnp.clip(product / jnp.where(varies, scale, 1.0), -1.0, 1.0), jnp.nan)


def spearman(first: Float[Array, "H W"], second: Float[Array, "H W"]) -> Float[Array, ""]:
    """Spearman's rank correlation of two maps over their pixels, −1 to 1: `correlation` of their average ranks.

    Args:
        first: one map.
        second: another of the same shape.

    Returns:
        ρ, equal to `scipy.stats.spearmanr` of the flattened maps to about 1e-6; NaN where either map is constant or not finite.

    Raises:
        CaseJaxError: for maps of other shapes.
    """
    _require_same_shape(first, second)
    ranks = [average_ranks(m.ravel()).reshape(m.shape) / m.size for m in (first, second)]
    finite = jnp.isfinite(first).all() & jnp.isfinite(second).all()
    return jnp.where(finite, correlation(*ranks), jnp.nan)


def _wide(*arrays: Array) -> DTypeLike:
    return jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32


def _require_same_shape(first: Array, second: Array) -> None:
    """Raise unless these are two maps of one shape (H, W)."""
    proper = first.ndim == 2 and first.shape == second.shape and first.size > 0
    accepted = "two maps of one shape (H, W); batch with jax.vmap"
    require(proper, "first, second", f"shapes {first.shape} and {second.shape}", accepted)

"""Which pixels of a map rank highest: the one tie rule of the project.

Pixels are ranked by value, descending, and among equal values by flat (row-major) index, ascending.
"""

import math

import jax
import jax.numpy as jnp
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

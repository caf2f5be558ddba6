"""Which pixels of a map rank highest: the one tie rule of the project; and how well two rankings agree.

Pixels are ranked by value, descending, and among equal values by flat (row-major) index, ascending. A rank correlation has to
treat equal values alike, and there alone ties share their average rank.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt, UInt32

from case_jax._checks import require, require_percent


def pixel_count(percent: float, shape: tuple[int, ...]) -> int:
    """How many pixels are the top `percent` % of a map of this shape, rounded down.

    Raises:
        CaseJaxError: for a percentage outside (0, 100], or of less than one pixel.
    """
    require_percent("percent", [percent])
    of_all = functools.reduce(operator.mul, shape, percent)
    count = math.floor(of_all / 100 + 1e-9)  # 47% of 100 pixels are 47, whatever 0.47 · 100 rounds to
    require(count >= 1, "percent", f"{percent:g}% of {'×'.join(map(str, shape))} pixels", "at least one pixel")
    return count


def _ordered(values: Float[Array, "*s"]) -> UInt32[Array, "*s"]:
    """float32 to uint32, keeping the order; -0 and 0 become the same."""
    values = values.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.uint32)
    top = jnp.uint32(1 << 31)
    return jnp.where(bits >= top, ~bits, bits | top)


WORD = 32
"""Pixels in a word of a packed mask."""
_BLOCK = 128
"""Words of a mask that are unpacked at once."""
_SIDE = 128
"""Rows in which pixels are counted: fewer than 256, so that a column's count fits eight bits."""


def pack(mask: Bool[Array, " P"]) -> UInt32[Array, " W"]:
    """A mask as bits: pixel `32 w + i` is bit i of word w; the last word is filled with zeros."""
    bits = jnp.pad(mask, (0, -len(mask) % WORD)).reshape(-1, WORD).astype(jnp.uint32)
    return (bits << np.arange(WORD, dtype=np.uint32)).sum(1, dtype=jnp.uint32)


def unpack(words: UInt32[Array, "*n W"]) -> Bool[Array, "*n P"]:
    """The mask of packed bits, P = 32 W: `pack` backwards, with the zeros that fill the last word."""
    bits = (words[..., None] >> np.arange(WORD, dtype=np.uint32)) & np.uint32(1)
    return bits.astype(bool).reshape(*words.shape[:-1], -1)


def top_mask(saliency: Float[Array, "*space"], count: int | Int[Array, ""]) -> Bool[Array, "*space"]:
    """The `count` highest-ranked pixels of a map, exactly `count` of them; arguments as `top_words`.

    Returns:
        True on the selected pixels. Ties go to the lower flat index.
    """
    return unpack(top_words(saliency, count))[: saliency.size].reshape(saliency.shape)


def top_words(saliency: Float[Array, "*space"], count: int | Int[Array, ""]) -> UInt32[Array, " w"]:
    """The `count` highest-ranked pixels of a map, exactly `count` of them, as a packed mask.

    The threshold is found by bisection on the bits of the values: no sort, cost independent of `count`.

    Args:
        saliency: one map; compared in float32. the rank of NaN is undefined: exclude degenerate maps first.
        count: number of pixels, from 0 to all of them; may be traced.

    Returns:
        ⌈P / 32⌉ words for P pixels, see `pack`. Ties go to the lower flat index.
    """
    keys, count = _ordered(saliency).ravel(), jnp.asarray(count, jnp.int32)
    threshold = _threshold(keys, count)
    above, equal = pack(keys > threshold), pack(keys == threshold)
    sizes = _ones(equal)
    upto = jnp.cumsum(sizes, dtype=jnp.int32)
    left = count - _ones(above).sum(dtype=jnp.int32)
    whole = upto <= left  # words of which all equal pixels are taken; of the next one the first few
    place = jnp.minimum(whole.sum(dtype=jnp.int32), len(equal) - 1)
    bits = np.uint32(1) << np.arange(WORD, dtype=np.uint32)
    early = _ones(equal[place] & (bits - np.uint32(1))) < left - (upto - sizes)[place]
    few = jnp.where(early, equal[place] & bits, np.uint32(0)).sum(dtype=jnp.uint32)
    at_place = jnp.arange(len(equal), dtype=jnp.int32) == place
    return above | jnp.where(whole, equal, jnp.where(at_place, few, np.uint32(0)))


def shared_pixels(rows: UInt32[Array, "R W"], columns: UInt32[Array, "C W"]) -> Int[Array, "R C"]:
    """`|T_r ∩ T_c|` of every row with every column of packed masks, exact up to 2³¹ − 1.

    Products of zeros and ones in int8, summed in int32, a block of pixels at a time: what matrix units of GPUs, TPUs and CPUs are built
    for. Counting the bits of `rows & columns` is the same number, and slower wherever such a unit is used; see BUILD_NOTES.md.
    """
    size = min(_BLOCK, rows.shape[1])

    def blocks(words: UInt32[Array, "n W"]) -> UInt32[Array, "b n size"]:
        padded = jnp.pad(words, ((0, 0), (0, -words.shape[1] % size)))
        return jnp.moveaxis(padded.reshape(len(words), -1, size), 1, 0)

    def add(total: Int[Array, "R C"], block: tuple[Array, Array]) -> tuple[Array, None]:
        a, b = (unpack(words).astype(jnp.int8) for words in block)
        return total + jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32), None

    start = jnp.zeros((len(rows), len(columns)), jnp.int32)
    return jax.lax.scan(add, start, (blocks(rows), blocks(columns)))[0]


def _ones(words: UInt32[Array, "*n"]) -> Int[Array, "*n"]:
    return jax.lax.population_count(words).astype(jnp.int32)


def _threshold(keys: UInt32[Array, " P"], count: Int[Array, ""]) -> UInt32[Array, ""]:
    """The `count`-th largest key: bisection on its upper 16 bits, then, among the keys that share these, on the lower.

    Half as wide a number is twice as many in a register, and counts of eight bits are four times as many.
    """
    keys = jnp.pad(keys, (0, -len(keys) % _SIDE)).reshape(_SIDE, -1)  # zeros come last and are never needed
    high = (keys >> np.uint32(16)).astype(jnp.uint16)
    upper = _kth(high, count)
    low = jnp.where(high == upper, keys.astype(jnp.uint16), np.uint16(0))
    lower = _kth(low, count - _total(high > upper))
    return (upper.astype(jnp.uint32) << np.uint32(16)) | lower.astype(jnp.uint32)


def _kth(values: UInt[Array, "128 n"], count: Int[Array, ""]) -> UInt[Array, ""]:
    """The `count`-th largest of 16-bit values."""

    def bit(i, found):
        candidate = found | (np.uint16(1) << (np.uint16(15) - i.astype(jnp.uint16)))
        return jnp.where(_total(values >= candidate) >= count, candidate, found)

    return jax.lax.fori_loop(0, 16, bit, jnp.zeros_like(values[0, 0]))


def _total(mask: Bool[Array, "128 n"]) -> Int[Array, ""]:
    return mask.astype(jnp.uint8).sum(0, dtype=jnp.uint8).sum(dtype=jnp.int32)


def places(saliency: Float[Array, "*space"]) -> Int[Array, "*space"]:
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


def correlation(first: Float[Array, "*space"], second: Float[Array, "*space"], *, space: int = 2) -> Float[Array, ""]:
    """Pearson's correlation of two maps over their pixels, −1 to 1.

    `ρ = Σ (a − ā)(b − b̄) / √(Σ (a − ā)² · Σ (b − b̄)²)`.

    Args:
        first: one map.
        second: another of the same shape.
        space: how many axes a map has: 2 for pictures, 1 for signals, 3 for volumes.

    Returns:
        ρ, computed in float32 at least; NaN where either map is constant or not finite.

    Raises:
        CaseJaxError: for maps of other shapes.
    """
    require_pair(first, second, space)
    dtype = _wide(first, second)
    a, b = (m.astype(dtype) - m.astype(dtype).mean() for m in (first, second))
    product, scale = (a * b).mean(), jnp.sqrt((a * a).mean()) * jnp.sqrt((b * b).mean())
    varies = (first != first.ravel()[0]).any() & (second != second.ravel()[0]).any() & (scale > 0)
    return jnp.where(varies, jnp.clip(product / jnp.where(varies, scale, 1.0), -1.0, 1.0), jnp.nan)


def spearman(first: Float[Array, "*space"], second: Float[Array, "*space"], *, space: int = 2) -> Float[Array, ""]:
    """Spearman's rank correlation of two maps over their pixels, −1 to 1: `correlation` of their average ranks.

    Args:
        first: one map.
        second: another of the same shape.
        space: how many axes a map has: 2 for pictures, 1 for signals, 3 for volumes.

    Returns:
        ρ, equal to `scipy.stats.spearmanr` of the flattened maps to about 1e-6; NaN where either map is constant or not finite.

    Raises:
        CaseJaxError: for maps of other shapes.
    """
    require_pair(first, second, space)
    ranks = [average_ranks(m.ravel()).reshape(m.shape) / m.size for m in (first, second)]
    finite = jnp.isfinite(first).all() & jnp.isfinite(second).all()
    return jnp.where(finite, correlation(*ranks, space=space), jnp.nan)


def _wide(*arrays: Array) -> DTypeLike:
    return jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32


def require_pair(first: Array, second: Array, space: int) -> None:
    """Raise unless these are two maps of one shape, with as many axes as said: several maps of pictures are not one of a volume."""
    proper = first.ndim == space and first.shape == second.shape and first.size > 0
    kind = (
        "(H, W); batch with jax.vmap, and give space=1 for signals, space=3 for volumes"
        if space == 2
        else f"with {space} axes"
    )
    accepted = f"two maps of one shape {kind}"
    require(proper, "first, second", f"shapes {first.shape} and {second.shape}", accepted)

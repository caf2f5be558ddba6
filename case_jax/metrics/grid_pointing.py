"""Grid pointing: in a mosaic of images of different classes, does a map lie in the cell of its own class?

Cells are numbered in row-major order, from 0 at the top left to n² − 1 at the bottom right.
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from case_jax._checks import require
from case_jax.tap.view import at_least_float32


def require_grid(n: int) -> None:
    """Raise unless n × n cells make a mosaic."""
    require(n >= 2, "n", n, "at least 2 rows and columns of images in a mosaic, for example 2 or 3")


def join_cells(cells: Shaped[Any, "N H W D"]) -> Shaped[Any, "h w D"]:
    """One mosaic of n² images (or activations) of one size, in row-major order; the inverse of `split_cells`.

    Args:
        cells: NumPy or JAX array; a mosaic of the same kind is returned.

    Raises:
        CaseJaxError: for an array of other rank, or a number of cells that is no square of at least 2².
    """
    n = math.isqrt(len(cells))
    require(
        cells.ndim == 4 and n * n == len(cells) and n >= 2,
        "cells",
        f"shape {cells.shape}",
        "(n², height, width, channels) with n of at least 2",
    )
    _, height, width, depth = cells.shape
    return cells.reshape(n, n, height, width, depth).swapaxes(1, 2).reshape(n * height, n * width, depth)


def split_cells(mosaic: Shaped[Any, "h w D"], n: int) -> Shaped[Any, "{n}*{n} H W D"]:
    """The n² cells of a mosaic, in row-major order.

    Args:
        mosaic: NumPy or JAX array; cells of the same kind are returned.
        n: rows and columns of cells.

    Raises:
        CaseJaxError: for n below 2, or a mosaic whose height or width is no multiple of n.
    """
    require_grid(n)
    fits = mosaic.ndim == 3 and mosaic.shape[0] % n == 0 and mosaic.shape[1] % n == 0
    require(fits, "mosaic", f"shape {mosaic.shape}", f"(height, width, channels), both sides multiples of n = {n}")
    height, width, depth = mosaic.shape[0] // n, mosaic.shape[1] // n, mosaic.shape[2]
    return mosaic.reshape(n, height, n, width, depth).swapaxes(1, 2).reshape(n * n, height, width, depth)


@lru_cache
def _coverage(n: int, size: int) -> np.ndarray:
    """Which share of each of `size` pixels lies in each of n equal cells."""
    starts, edges = np.arange(size) * n, np.arange(n)[:, None] * size
    overlap = np.minimum(starts + n, edges + size) - np.maximum(starts, edges)
    return np.maximum(overlap, 0) / n


def cell_shares(saliency: Float[Array, "h w"], n: int) -> Float[Array, " {n}*{n}"]:
    """Shares of a map's positive mass in the n × n cells of its mosaic.

    `share_i = Σ_{(y,x) ∈ cell i} max(m[y,x], 0) / Σ_{(y,x)} max(m[y,x], 0)`, which add up to 1.

    Args:
        saliency: one map at any resolution, at least n × n. A pixel that straddles cells counts in each by its area there.
        n: rows and columns of cells.

    Returns:
        One share per cell, row-major, in float32 or the map's wider type. A constant positive map has 1/n² in each cell, and
        so have the shares of any class-blind map on average over the cells. All NaN for a map without positive mass or with
        values that are not finite.

    Raises:
        CaseJaxError: for n below 2, or a map that is not one map of at least n × n pixels.

    Böhle, Fritz, Schiele, "Convolutional Dynamic Alignment Networks", CVPR 2021 (arXiv 2104.00032); Rao, Böhle,
    Schiele, "Towards Better Understanding Attribution Methods", CVPR 2022 (arXiv 2205.10435). What wins it without merit: subtraction of the other
    cells' classes, which sharpens any map, and concentration on one pixel of the right cell.
    """
    require_grid(n)
    proper = saliency.ndim == 2 and min(saliency.shape) >= n
    require(proper, "saliency", f"shape {saliency.shape}", f"one map of at least {n}×{n} pixels; batch with jax.vmap")
    positive = at_least_float32(jax.nn.relu(saliency))
    top = positive.max()
    scaled = positive / jnp.where(top > 0, top, 1)  # sums of very large or small values stay in range
    rows, columns = (jnp.asarray(_coverage(n, size), scaled.dtype) for size in saliency.shape)
    mass = jnp.einsum("ah,hw,bw->ab", rows, scaled, columns, precision=jax.lax.Precision.HIGHEST).ravel()
    total = mass.sum()
    known = jnp.isfinite(saliency).all() & (total > 0)
    return jnp.where(known, mass / jnp.where(known, total, 1), jnp.nan)


def grid_pointing_scores(maps: Float[Array, "T h w"], cells: Int[Array, " T"], n: int) -> Float[Array, " T"]:
    """Each map's share of positive mass in its own class's cell, see `cell_shares`.

    Args:
        maps: one map per target.
        cells: the cell that shows each target's class, from 0 to n² − 1.
        n: rows and columns of cells.

    Returns:
        Scores in [0, 1]: 1 when all lies in the own cell, 1/n² where cells are met by chance; NaN for degenerate maps, as in
        `cell_shares`, and for cells that do not exist.

    Raises:
        CaseJaxError: as `cell_shares`.
    """
    shares = jax.vmap(lambda saliency: cell_shares(saliency, n))(maps)
    exists = (cells >= 0) & (cells < n * n)
    own = jnp.take_along_axis(shares, jnp.clip(cells, 0, n * n - 1)[:, None], axis=1)[:, 0]
    return jnp.where(exists, own, jnp.nan)

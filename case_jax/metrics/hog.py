"""Histograms of oriented gradients: the edges of a map, summed up place by place."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.imageops import require_pictures
from case_jax.ranking import correlation, require_pair

ORIENTATIONS, BLOCK = 9, 3
SMALLEST_CELL, CELLS = 4, 14
CLIP, EPSILON = 0.2, 1e-5


def cell_side(shape: tuple[int, ...]) -> int:
    """Pixels on the side of a cell: a fourteenth of the map's shorter side (16 of 224, as in Adebayo et al.), and at least 4."""
    return max(SMALLEST_CELL, min(shape) // CELLS)


def hog(saliency: Float[Array, "H W"], *, cell: int | None = None) -> Float[Array, "R C 9 9"]:
    """Histograms of oriented gradients of one map.

    Gradients `(m[i+1] − m[i−1], m[j+1] − m[j−1])`, zero at the border; in each cell of `cell`×`cell` pixels the mean magnitude of those that
    point into each of nine sectors of 20° (opposite directions are one); cells are taken together in overlapping blocks of 3×3, each
    divided by its length, cut at 0.2 and divided by its length again ("L2-Hys"). This is scikit-image's
    `hog(orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(3, 3), block_norm="L2-Hys")`.

    Args:
        saliency: one map; rows and columns that fill no cell are left out.
        cell: pixels on a cell's side; None takes `cell_side`.

    Returns:
        One number per block, cell in it and sector; all zero for a constant map, NaN where the map is not finite.

    Raises:
        CaseJaxError: for a map of fewer than 3×3 cells.

    Dalal, Triggs, Histograms of oriented gradients for human detection (2005).
    """
    require_pictures("a histogram of oriented gradients", saliency.ndim)
    cell = cell_side(saliency.shape) if cell is None else cell
    rows, columns = (side // cell for side in saliency.shape)
    given = f"a map of {saliency.shape} with cells of {cell}×{cell} pixels"
    require(min(rows, columns) >= BLOCK, "saliency", given, f"at least {BLOCK}×{BLOCK} cells")
    wide = saliency.astype(jnp.float64 if saliency.dtype == jnp.float64 else jnp.float32)
    down = jnp.pad(wide[2:] - wide[:-2], ((1, 1), (0, 0)))
    across = jnp.pad(wide[:, 2:] - wide[:, :-2], ((0, 0), (1, 1)))
    angle = jnp.degrees(jnp.arctan2(down, across)) % 180
    sector = jnp.clip(jnp.floor(angle * (ORIENTATIONS / 180)), 0, ORIENTATIONS - 1).astype(jnp.int32)
    votes = jnp.where(
        sector[..., None] == np.arange(ORIENTATIONS, dtype=np.int32), jnp.hypot(down, across)[..., None], 0.0
    )
    whole = votes[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell, ORIENTATIONS)
    cells, places = whole.mean((1, 3)), range(BLOCK)
    last = (rows - BLOCK + 1, columns - BLOCK + 1)
    blocks = jnp.stack([cells[i : last[0] + i, j : last[1] + j] for i in places for j in places], 2)
    return _unit(jnp.minimum(_unit(blocks), CLIP))


def _unit(blocks: Float[Array, "R C 9 9"]) -> Float[Array, "R C 9 9"]:
    return blocks / jnp.sqrt((blocks**2).sum((-2, -1), keepdims=True) + EPSILON**2)


def hog_correlation(first: Float[Array, "H W"], second: Float[Array, "H W"]) -> Float[Array, ""]:
    """Pearson's correlation of the gradient histograms of two maps, −1 to 1: whether their edges lie and run alike.

    Args:
        first: one map.
        second: another of the same shape.

    Returns:
        The correlation of all numbers of `hog`; NaN where a map is constant or not finite.

    Raises:
        CaseJaxError: for maps of other shapes, or of fewer than 3×3 cells.

    What wins it (a low correlation) without merit: noise.
    """
    require_pair(first, second, 2)
    return correlation(hog(first).reshape(1, -1), hog(second).reshape(1, -1))

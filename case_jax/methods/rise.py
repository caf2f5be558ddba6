"""RISE."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import Query
from case_jax.imageops import along_axes
from case_jax.methods.cam import copies_at_once, of_existing
from case_jax.tap.link import probabilities
from case_jax.tap.view import View, at_least_float32

HIGHEST = jax.lax.Precision.HIGHEST


def rise(
    view: View, query: Query, *, masks: int = 4000, cells: int = 7, keep: float = 0.5, batch: int | None = None
) -> Float[Array, "T *space"]:
    """The mean probability of the target under random masks that leave a pixel visible.

    `S_c = Σ_n p_c(x ⊙ m_n) m_n / (masks · keep)`, p by the model's link; what a mask hides becomes the data set's mean. One set of masks
    serves all targets. It costs `masks` forward passes, rounded up to whole batches.

    Args:
        view: one image's view; the classifier is run on the masked image, the tapped layer is not used.
        query: targets (T,) and the image's key.
        masks: how many; the standard error falls with its square root.
        cells: cells of a mask along each axis of the image.
        keep: probability that a cell leaves the image visible.
        batch: masked images in memory at once; by default the model's `chunk`. Maps do not depend on it but for rounding.

    Returns:
        One map per target at input resolution, ≥ 0, the mean near the target's mean probability; all zero where the target's
        probability is the same under every mask, since such a map would show the sampling alone; NaN for a class that the model does not have.

    Raises:
        CaseJaxError: for a model without probabilities (link `identity`), when the query has no key, for fewer than 2 masks or cells, `keep` outside (0, 1) or a batch below 1.

    Petsiuk, Das and Saenko, RISE, BMVC 2018 (arXiv 1806.07421); masks as in the authors' code.
    """
    key = query.key
    if key is None:
        raise CaseJaxError("key: RISE needs this image's key; build the query with ask(..., key=jax.random.key(0)).")
    require(masks >= 2, "masks", masks, "a number of masks of at least 2")
    require(cells >= 2, "cells", cells, "at least 2 cells a side; a single one switches the whole image on and off")
    require(0 < keep < 1, "keep", keep, "a probability inside (0, 1)")
    most = copies_at_once(view, batch)
    image = at_least_float32(view.image)
    shape = image.shape[:-1]
    steps = -(-masks // most)
    size = -(-masks // steps)  # batches of one size with the fewest masks too many
    predict = jax.vmap(view.predict)

    def more(seen, first):
        total, low, high = seen
        number = first + jnp.arange(size)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(number)
        drawn = jax.vmap(lambda k: random_mask(k, shape, cells=cells, keep=keep, dtype=image.dtype))(keys)
        logits = predict((image * drawn[..., None]).astype(view.image.dtype))
        scores = probabilities(logits, view.link)[:, query.targets]
        counts = (number < masks)[:, None]
        total += jnp.einsum("nt,n...->t...", jnp.where(counts, scores, 0), drawn, precision=HIGHEST)
        low = jnp.minimum(low, jnp.where(counts, scores, jnp.inf).min(0))
        return (total, low, jnp.maximum(high, jnp.where(counts, scores, -jnp.inf).max(0))), None

    bounds = jnp.full(len(query.targets), jnp.inf, image.dtype)
    start = (jnp.zeros((len(query.targets), *shape), image.dtype), bounds, -bounds)
    (total, low, high), _ = jax.lax.scan(more, start, jnp.arange(steps) * size)
    return of_existing(view, query, jnp.where((high == low).reshape(-1, *(1,) * len(shape)), 0, total / (masks * keep)))


def random_mask(
    key: Key[Array, ""], shape: tuple[int, ...], *, cells: int, keep: float, dtype: DTypeLike
) -> Float[Array, "*space"]:
    """A coarse binary grid, interpolated to one cell more than the image and cropped to it at a random place.

    Every pixel's expectation is `keep`.

    Args:
        key: decides the grid and the place.
        shape: of the image, without its channels.
        cells: cells of the grid along each axis.
        keep: probability of a one.
        dtype: of the mask.
    """
    grid_key, *places = jax.random.split(key, 1 + len(shape))
    grid = (jax.random.uniform(grid_key, (cells,) * len(shape), jnp.float32) < keep).astype(dtype)

    def cropped(side: int, place: Array) -> Array:
        cell = -(-side // cells)
        offset = jax.random.randint(place, (), 0, cell, jnp.int32)
        matrix = jnp.asarray(_mirrored_interpolation(cells, (cells + 1) * cell), dtype)
        return jax.lax.dynamic_slice_in_dim(matrix, offset, side)

    return along_axes(grid, [cropped(side, place) for side, place in zip(shape, places, strict=True)])


def _mirrored_interpolation(source: int, target: int) -> np.ndarray:
    """The matrix of one-dimensional linear interpolation with half-pixel centres, mirrored about the outermost centres."""
    position = np.abs((np.arange(target) + 0.5) * source / target - 0.5)
    position = (source - 1) - np.abs(source - 1 - position)
    low = np.floor(position).astype(int)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(target), np.minimum(low + 1, source - 1)), position - low)
    return matrix

"""Occlusion."""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.imageops import along_axes
from case_jax.methods.attribution import baseline_image
from case_jax.methods.cam import copies_at_once, of_existing
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.view import View, at_least_float32

Size = int | tuple[int, ...]


def windows(size: int, window: int, stride: int) -> Bool[np.ndarray, "n {size}"]:
    """Which pixels of a row each window covers: a window every `stride` pixels until the last pixel is covered, the last one cut off."""
    starts = stride * np.arange(-(-(size - window) // stride) + 1)
    pixels = np.arange(size)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + window)


def _placed(sides: tuple[int, ...], window: Size | None, stride: Size | None) -> list[Bool[np.ndarray, "_ _"]]:
    """The windows along each axis, after the checks."""
    placed = []
    for name, size in (("window", window), ("stride", stride)):
        fits = not isinstance(size, tuple) or len(size) == len(sides)
        require(fits, name, size, f"a number of pixels, or one for each of the image's {len(sides)} axes")
    for axis, side in enumerate(sides):
        across = max(1, side // 8) if window is None else window if isinstance(window, int) else window[axis]
        step = max(1, across // 2) if stride is None else stride if isinstance(stride, int) else stride[axis]
        require(1 <= across <= side, "window", window, f"1 to {side} pixels along an axis of {side}")
        require(
            1 <= step <= across, "stride", stride, f"1 to {across} pixels, so that the windows of {across} leave no gap"
        )
        placed.append(windows(side, across, step))
    return placed


def occlusion_attribution(
    view: View,
    targets: Int[Array, " T"],
    *,
    window: Size | None = None,
    stride: Size | None = None,
    baseline: Any = None,
    batch: int | None = None,
) -> Float[Array, "T *space"]:
    """The signed fall of the logit at input resolution, one number for all colours of a pixel; arguments as in `occlusion`."""
    along = _placed(view.image.shape[:-1], window, stride)
    filling, tables = baseline_image(view, baseline), [jnp.asarray(covered) for covered in along]
    counts = tuple(len(covered) for covered in along)

    def fall(place: tuple[Array, ...]) -> Float[Array, " T"]:
        covered = (table[number] for table, number in zip(tables, place, strict=True))
        hidden = functools.reduce(operator.and_, jnp.meshgrid(*covered, indexing="ij", sparse=True))
        logits = view.predict(jnp.where(hidden[..., None], filling, view.image))
        return at_least_float32(view.logits)[targets] - at_least_float32(logits)[targets]

    places = jnp.unravel_index(jnp.arange(math.prod(counts)), counts)
    falls = map_in_chunks(fall, places, chunk=copies_at_once(view, batch))
    falls = jnp.moveaxis(falls.reshape(*counts, -1), -1, 0)
    maps = along_axes(falls, [(covered / covered.sum(0)).T for covered in along])
    return of_existing(view, Query(targets), maps)


def occlusion(
    view: View,
    query: Query,
    *,
    window: Size | None = None,
    stride: Size | None = None,
    baseline: Any = None,
    batch: int | None = None,
) -> Float[Array, "T *space"]:
    """How far the class's logit falls when a window of the image is hidden.

    `relu(mean over the windows w that cover the pixel of f_c(x) − f_c(x with w replaced by the baseline))`. A window hides all colours at
    once. The same forward passes, one for each place of the window, serve all targets.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        window: its side, or one along each axis, in pixels; by default an eighth of the image's.
        stride: pixels between neighbouring windows, at most the window's side; by default half of it. Windows that would reach beyond the
            image's end are cut off there.
        baseline: what replaces the pixels, in normalised units: a number, one pixel (3,), or an image; by default 0, the data set's
            mean.
        batch: most windows in memory at once; by default the view's chunk.

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where hiding never lowers the logit, NaN for a class that
        the model does not have.

    Raises:
        CaseJaxError: for a window larger than the image, a stride that leaves gaps, a baseline of another shape, or a batch below 1.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv 1311.2901), on logits.
    """
    maps = occlusion_attribution(view, query.targets, window=window, stride=stride, baseline=baseline, batch=batch)
    return jax.nn.relu(maps)

"""Meaningful perturbation."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.imageops import along_axes, shortest_side
from case_jax.methods.cam import copies_at_once, of_existing
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.tap.link import probabilities
from case_jax.tap.view import View, at_least_float32

REFERENCE_SIDE = 224
"""The image side for which the authors gave lengths in pixels; all of them are scaled with the shortest side."""
SPACING, MASK_BLUR, IMAGE_BLUR, JITTER = 8, 5, 10, 4


def meaningful_perturbation(
    view: View,
    query: Query,
    *,
    steps: int = 300,
    learning_rate: float = 0.1,
    area: float = 1e-4,
    variation: float = 1e-2,
    power: float = 3.0,
    jitter: int | None = None,
    batch: int | None = None,
) -> Float[Array, "T *space"]:
    """The smallest, smoothest region that, when blurred, takes away the target's probability.

    `min_d  area · Σ|d| + variation · Σ(Δ_h d² + Δ_w d²)^{power/2} + p_c(x ⊙ (1 − D) + blur(x) ⊙ D)`, d ∈ [0, 1] on a coarse grid
    of about 28 cells a side, D its copy at the image's size, smoothed. The paper's mask is `m = 1 − d`. Adam, d clipped after
    each of its updates; the image is shifted by a few pixels under the mask, the same shifts for all images and classes. It
    costs `steps` forward and backward passes of the whole classifier per target.

    The authors start from the smallest disc that removes the class. Here d starts at 0, as in common re-implementations.

    Args:
        view: one image's view; the tapped layer is not used.
        query: targets (T,); contrast sets and key are not used.
        steps: updates of the mask.
        learning_rate: Adam's.
        area: weight of the removed area in cells.
        variation: weight of the total variation.
        power: exponent of the total variation, β.
        jitter: shifts are whole pixels from a range of this length; by default 4 for images of 224 pixels, in proportion for
            others; 1 for none.
        batch: targets in memory at once; by default the model's `chunk`.

    Returns:
        D, one map per target at input resolution, in [0, 1]; all zero where blurring does not lower the probability, NaN for a
        class that the model does not have.

    Raises:
        CaseJaxError: for a model without probabilities (link `identity`), steps, a jitter or a batch below 1, a learning rate that is not positive, negative weights or a power
            below 2 (whose gradient is infinite where the mask is flat).

    Fong and Vedaldi, Interpretable Explanations of Black Boxes by Meaningful Perturbation, ICCV 2017 (arXiv 1704.03296).
    """
    most, shape = copies_at_once(view, batch), view.image.shape[:-1]
    unit = shortest_side(view.image) / REFERENCE_SIDE
    shifts = max(1, round(JITTER * unit)) if jitter is None else jitter
    require(steps >= 1, "steps", steps, "a number of updates of at least 1")
    require(learning_rate > 0, "learning_rate", learning_rate, "a positive number")
    require(area >= 0, "area", area, "a weight of at least 0")
    require(variation >= 0, "variation", variation, "a weight of at least 0")
    require(power >= 2, "power", power, "an exponent of at least 2")
    require(shifts >= 1, "jitter", shifts, "a number of pixels of at least 1, which is no jitter")
    image = at_least_float32(view.image)
    blurred = _separable(image, [_blur(side, IMAGE_BLUR * unit) for side in shape])
    before = shifts // 2
    margin = ((before, shifts - 1 - before),) * len(shape) + ((0, 0),)
    pair = jnp.stack([jnp.pad(a, margin, mode="edge") for a in (image, blurred)])
    offsets = jnp.asarray(np.random.default_rng(0).integers(0, shifts, (steps, len(shape))), jnp.int32)
    first = jnp.int32(0)
    spacing = max(1, round(SPACING * unit))
    spread = [_spread(side, spacing, MASK_BLUR * unit) for side in shape]

    def enlarged(d):
        return _separable(d[..., None], spread)[..., 0]

    def probability(d, target, offset):
        sharp, soft = jax.lax.dynamic_slice(pair, (first, *offset, first), (2, *image.shape))
        perturbed = sharp + (soft - sharp) * enlarged(d)[..., None]
        return probabilities(view.predict(perturbed.astype(view.image.dtype)), view.link)[target]

    def regulariser(d):
        steps = (jnp.diff(d, axis=axis) for axis in range(d.ndim))
        squares = [jnp.pad(step, [(0, int(i == axis)) for i in range(d.ndim)]) ** 2 for axis, step in enumerate(steps)]
        return area * jnp.abs(d).sum() + variation * (functools.reduce(operator.add, squares) ** (power / 2)).sum()

    optimiser = optax.adam(learning_rate)

    def region(target):
        def step(carry, offset):
            d, state = carry
            towards = cpu_convolutions(jax.grad(probability))(d, target, offset).astype(d.dtype)
            with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its integer count
                update, state = optimiser.update(towards + jax.grad(regulariser)(d), state)
            return (jnp.clip(d + update, 0, 1), state), None

        d = jnp.zeros([matrix.shape[1] for matrix in spread], image.dtype)
        (d, _), _ = jax.lax.scan(step, (d, optimiser.init(d)), offsets)
        return jnp.clip(enlarged(d), 0, 1)

    return of_existing(view, query, map_in_chunks(region, query.targets, chunk=most))


def _blur(side: int, sigma: float) -> np.ndarray:
    """The matrix of a one-dimensional Gaussian blur whose edges repeat the outermost pixel."""
    radius = max(1, round(4 * sigma))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((side, side))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        np.add.at(matrix, (np.arange(side), np.clip(np.arange(side) + offset, 0, side - 1)), weight)
    return matrix


def _spread(side: int, spacing: int, sigma: float) -> np.ndarray:
    """Cells of `spacing` pixels to pixels, blurred."""
    owner = np.arange(side) // spacing
    return _blur(side, sigma) @ np.eye(owner[-1] + 1)[owner]


def _separable(array: Float[Array, "*space D"], matrices: Sequence[np.ndarray]) -> Float[Array, "*Space D"]:
    """A matrix applied along each spatial axis."""
    return jnp.moveaxis(along_axes(jnp.moveaxis(array, -1, 0), matrices), 0, -1)

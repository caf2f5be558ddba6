"""Extremal perturbation."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from case_jax._checks import require, unknown
from case_jax.contrast.sets import Query
from case_jax.imageops import require_pictures
from case_jax.methods.cam import copies_at_once, of_existing
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.tap.view import View, at_least_float32

Variant = Literal["preserve", "delete", "dual"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
HIGHEST = jax.lax.Precision.HIGHEST

COLDNESS = 20.0
"""Of the smooth maximum; infinite would be the maximum."""
TIE = 1e-4
"""Mask values closer than this have no order."""
LEVELS = 8
"""Of the pyramid of blurred images."""
LEARNING_RATE, MOMENTUM = 0.01, 0.9
CONSTRAINT, CONSTRAINT_GROWTH = 300.0, 1.0035
"""Weight of the area constraint at the first step, and its factor from step to step."""


def extremal_perturbation(
    view: View,
    query: Query,
    *,
    areas: Sequence[float] = (0.1,),
    steps: int = 800,
    variant: Variant = "preserve",
    spacing: int | None = None,
    sigma: float | None = None,
    max_blur: float | None = None,
    flip: bool = False,
    batch: int | None = None,
) -> Float[Array, "T Hx Wx"]:
    """The smooth mask of a given area that keeps the target's logit highest when all outside it is blurred.

    `max_p  y_c(x_m) − λ_t mean((sort(m) − r_a)²)`: m is the smooth maximum of bumps with heights p ∈ [0, 1] on a coarse grid, r_a has
    the share a of ones behind zeros, `x_m` is the image blurred by `max_blur · (1 − m)` at every pixel, λ grows from 300 by 0.35% a
    step. Gradient ascent with momentum from p = 1. It costs `steps` forward and backward passes of the whole classifier per
    target and area, twice as many for `dual`.

    Args:
        view: one image's view; the tapped layer is not used.
        query: targets (T,); contrast sets and key are not used.
        areas: shares of the image, each with a mask of its own.
        steps: updates of each mask.
        variant: `preserve` (the logit of what the mask keeps, to be high), `delete` (of what it leaves, to be low) or `dual` (the
            difference of the two).
        spacing: pixels between bumps; by default 7 for images of 224 pixels, in proportion to the shorter side for others.
        sigma: a bump's radius in pixels; by default 3 spacings.
        max_blur: σ in pixels of the strongest blur; by default 20 for images of 224 pixels, in proportion for others.
        flip: mirror the image at every other step, as the reference does; not for classes that a mirror changes, such as digits, and
            so not by default.
        batch: pairs of target and area in memory at once; by default the model's `chunk`.

    Returns:
        The sum of the masks of all areas, one map per target at input resolution, in [0, number of areas]; all zero where no mask
        changes the logit, NaN for a class that the model does not have.

    Raises:
        CaseJaxError: for signals and volumes, an unknown variant, no areas, an area outside (0, 1), or steps, lengths or a batch that are not positive.

    Fong, Patrick and Vedaldi, Understanding Deep Networks via Extremal Perturbations and Smooth Masks, ICCV 2019 (arXiv
    1910.08485); step for step as `torchray.attribution.extremal_perturbation`, which flips.
    """
    require_pictures("extremal perturbation", view.image.ndim - 1)
    most, side = copies_at_once(view, batch), min(view.image.shape[:2])
    spacing = max(1, round(side / 32)) if spacing is None else spacing
    sigma = 3.0 * spacing if sigma is None else sigma
    max_blur = side * 20 / 224 if max_blur is None else max_blur
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    require(
        len(areas) and all(0 < a < 1 for a in areas), "areas", areas, "one or more shares of the image inside (0, 1)"
    )
    require(steps >= 1, "steps", steps, "a number of updates of at least 1")
    require(spacing >= 1, "spacing", spacing, "a whole number of pixels of at least 1")
    require(sigma > 0, "sigma", sigma, "a positive number of pixels")
    require(max_blur > 0, "max_blur", max_blur, "a positive number of pixels")
    image = at_least_float32(view.image)
    bumps = bumps_of((image.shape[0], image.shape[1]), spacing, sigma)
    pyramid = blur_pyramid(image, max_blur)

    def reward(mask, target, flipped):
        def logit(kept):
            x = perturbed(pyramid, kept)
            x = jnp.where(flipped, x[:, ::-1], x)
            return at_least_float32(view.predict(x.astype(view.image.dtype)))[target]

        kept, left = bumps.cropped(mask), 1 - bumps.cropped(mask)
        if variant == "preserve":
            return logit(kept)
        return -logit(left) if variant == "delete" else logit(kept) - logit(left)

    flips = flip & (np.arange(steps) % 2 == 0)
    count = int(np.prod(bumps.full_shape))
    zeros = jnp.asarray([int(count * (1 - a)) for a in areas], jnp.int32)
    targets, wanted = (grid.reshape(-1) for grid in jnp.meshgrid(query.targets, zeros, indexing="ij"))
    start = jnp.ones(bumps.grid_shape, image.dtype)

    def best_mask(pair):
        heights = optimise(bumps, lambda mask, flipped: reward(mask, pair[0], flipped), start, pair[1], flips)
        return bumps.cropped(bumps.full(heights))

    masks = map_in_chunks(best_mask, (targets, wanted), chunk=most)
    return of_existing(view, query, masks.reshape(len(query.targets), len(areas), *image.shape[:2]).sum(1))


class Bumps(NamedTuple):
    """Masks as smooth maxima of bumps on a coarse grid, with a margin so that bumps outside the image's edge count in the area."""

    shape: tuple[int, int]
    """Height and width of the image."""
    spacing: int
    grid_shape: tuple[int, int]
    """Of the bumps' heights."""
    padding: int
    """Rings of zero heights around the grid."""
    margin: int
    """Pixels between the full mask's edge and the image's."""
    full_shape: tuple[int, int]
    weights: Float[np.ndarray, "n n spacing spacing"]
    """Value of the n × n nearest bumps at each pixel of one grid cell."""

    def full(self, heights: Float[Array, "h w"]) -> Float[Array, "H W"]:
        """`Σ_k v_k exp(20 v_k) / Σ_k exp(20 v_k)` over the bumps' values v at each pixel, the margin included."""
        n, padded = len(self.weights), jnp.pad(heights, self.padding)
        rows, columns = (side - n + 1 for side in padded.shape)
        tall = jnp.stack([padded[i : i + rows] for i in range(n)])
        near = jnp.stack([tall[:, :, i : i + columns] for i in range(n)], axis=1)
        values = jnp.asarray(self.weights, heights.dtype)[:, :, None, :, None, :] * near[:, :, :, None, :, None]
        shares = jnp.exp(COLDNESS * values)  # at most e²⁰ each
        mask = (values * shares).sum((0, 1)) / shares.sum((0, 1))
        mask = mask.reshape(rows * self.spacing, columns * self.spacing)
        return mask[: self.full_shape[0], : self.full_shape[1]]

    def cropped(self, mask: Float[Array, "H W"]) -> Float[Array, "Hx Wx"]:
        """The part of a full mask that lies on the image."""
        return mask[self.margin : self.margin + self.shape[0], self.margin : self.margin + self.shape[1]]


def bumps_of(shape: tuple[int, int], spacing: int, sigma: float) -> Bumps:
    """Bumps `exp(−2 relu(δ/σ − ½)²)` of the distance δ, one every `spacing` pixels."""
    padding, radius = 1 + math.ceil(2 * sigma / spacing), 1 + math.ceil(sigma / spacing)
    height, width = (-(-side // spacing) for side in shape)
    full = tuple((n + 2 * padding - 2 * radius - 1) * spacing + 1 for n in (height, width))
    pixel, bump = np.arange(spacing)[None, :], np.arange(2 * radius + 1)[:, None]
    offset = pixel - sigma - spacing * (bump - padding)
    distance = np.sqrt(offset[:, None, :, None] ** 2 + offset[None, :, None, :] ** 2)
    weights = np.exp(-2 * np.maximum(distance / sigma - 0.5, 0) ** 2)
    return Bumps(shape, spacing, (height, width), padding, round(sigma), (full[0], full[1]), weights)


def blur_pyramid(image: Float[Array, "H W D"], max_blur: float) -> Float[Array, "L H W D"]:
    """The image blurred with σ from `max_blur` down to 0 in equal steps; outside the image lies zero, the data set's mean."""

    def matrices(side: int) -> Array:
        apart = np.arange(side)[:, None] - np.arange(side)[None, :]
        levels = [np.eye(side)]
        for sigma in max_blur * np.arange(1, LEVELS) / (LEVELS - 1):
            reach = math.ceil(4 * sigma)
            kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
            levels.append(np.where(abs(apart) <= reach, np.exp(-0.5 * (apart / sigma) ** 2), 0) / kernel.sum())
        return jnp.asarray(np.stack(levels[::-1]), image.dtype)

    return jnp.einsum("lHh,lWw,hwd->lHWd", *map(matrices, image.shape[:2]), image, precision=HIGHEST)


def perturbed(pyramid: Float[Array, "L H W D"], kept: Float[Array, "H W"]) -> Float[Array, "H W D"]:
    """At every pixel the pyramid at level `kept · (L − 1)`, between levels by linear interpolation: 1 is the image itself."""
    level = kept * (LEVELS - 1)
    below = jnp.clip(jnp.floor(jax.lax.stop_gradient(level)).astype(jnp.int32), 0, LEVELS - 1)
    share = (level - below.astype(level.dtype))[..., None]
    low, high = (
        jnp.take_along_axis(pyramid, jnp.minimum(n, LEVELS - 1)[None, :, :, None], axis=0)[0]
        for n in (below, below + 1)
    )
    return low + share * (high - low)


def optimise(
    bumps: Bumps,
    reward: Callable[[Float[Array, "H W"], Bool[Array, ""]], Float[Array, ""]],
    heights: Float[Array, "h w"],
    zeros: Int[Array, ""],
    flips: Bool[np.ndarray, " steps"],
) -> Float[Array, "h w"]:
    """Gradient ascent on the heights: as many mask values as `zeros` says are drawn to 0, the others to 1.

    Args:
        bumps: the masks' geometry.
        reward: a full mask and whether the image is mirrored, to the number to be high.
        heights: to start from.
        zeros: a number of pixels of the full mask.
        flips: at which steps the image is mirrored.

    Returns:
        The last heights, or all zeros where the reward never had a slope.
    """
    gradient = cpu_convolutions(jax.grad(reward))

    def step(carry, now):
        heights, velocity, answered = carry
        flipped, constraint, inertia = now
        mask, pull = jax.vjp(bumps.full, heights)
        towards = gradient(mask, flipped).astype(mask.dtype)
        (slope,) = pull(constraint * misfit_gradient(mask, zeros) - towards)
        velocity = inertia * velocity + (1 - inertia) * slope
        heights = jnp.clip(heights - LEARNING_RATE * velocity, 0, 1)
        return (heights, velocity, answered | jnp.any(towards != 0)), None

    numbers = np.arange(len(flips))
    schedule = (
        jnp.asarray(flips),
        jnp.asarray(CONSTRAINT * CONSTRAINT_GROWTH**numbers, heights.dtype),
        jnp.asarray(np.where(numbers == 0, 0, MOMENTUM), heights.dtype),  # the first step has its full gradient
    )
    (heights, _, answered), _ = jax.lax.scan(step, (heights, jnp.zeros_like(heights), jnp.asarray(False)), schedule)
    return jnp.where(answered, heights, 0)


def misfit_gradient(mask: Float[Array, "H W"], zeros: Int[Array, ""]) -> Float[Array, "H W"]:
    """Of `mean((sort(m) − r)²)`, r being `zeros` zeros before ones: `2 (m − r[rank of m]) / size`.

    Values closer than `TIE` share the mean of r over their ranks. At the start most values of the mask are equal; a sort would
    keep the last of them in reading order, or whichever rounding made larger.
    """
    flat = mask.reshape(-1)
    ordered = jnp.sort(flat)
    first = jnp.searchsorted(ordered, flat - TIE, side="left")
    behind = jnp.searchsorted(ordered, flat + TIE, side="right")
    ones = behind - jnp.clip(zeros, first, behind)
    wanted = ones.astype(flat.dtype) / (behind - first).astype(flat.dtype)
    return ((flat - wanted) * (2 / flat.size)).reshape(mask.shape)

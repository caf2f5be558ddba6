"""Images and maps, arrays to arrays, knowing no model: resizing, scaling, filling.

An image or activation has any number of spatial axes and then its channels: a signal (L, D), a picture (H, W, D), a volume (D, H, W, K). A map
has the spatial axes alone. Arrays that hold several maps are told `space`, the number of spatial axes, where no image says it.
"""

import string
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, Shaped, UInt8

from case_jax._checks import CaseJaxError, require, unknown

Fill = Literal["mean", "blur", "noise", "zero-pixel"]
FILLS: tuple[Fill, ...] = get_args(Fill)


def normalise_image(
    image: Num[Array | np.ndarray, "*B H W D"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*B H W D"]:
    """What a source gives to the classifier's input range: `(x / 255 − mean) / std` of uint8 pixels, `(x − mean) / std` of float images, per channel.

    Integers are pixels from 0 to 255, floats are in units of their own: spectrograms, for example. This is the one place that tells them apart.

    Raises:
        CaseJaxError: unless there is a mean and a deviation for each of the D channels.
    """
    depth = np.shape(image)[-1]
    given, accepted = (
        f"{len(mean)} means and {len(std)} deviations for images of {depth} channels",
        "one of each per channel",
    )
    require(len(mean) == len(std) == depth, "pixels", given, accepted)
    values = jnp.asarray(image, jnp.float32)
    scaled = values / 255.0 if jnp.issubdtype(image.dtype, jnp.integer) else values
    return (scaled - jnp.asarray(mean)) / jnp.asarray(std)


def space_axes(image: Shaped[Array, "*space D"]) -> tuple[int, ...]:
    """The spatial axes of one image or activation, channels last."""
    return tuple(range(image.ndim - 1))


def channel_means(image: Float[Array, "*space D"]) -> Float[Array, " D"]:
    """The mean of each channel over all positions."""
    return image.mean(space_axes(image))


def shortest_side(image: Shaped[Array, "*space D"]) -> int:
    """The shortest spatial axis in pixels; axes of a single pixel, along which nothing varies, do not count."""
    return min((side for side in image.shape[:-1] if side > 1), default=1)


def require_pictures(what: str, space: int) -> None:
    """Raise unless there are two spatial axes, for what is defined for pictures alone."""
    given = f"{space} spatial ax{'is' if space == 1 else 'es'}"
    require(
        space == 2,
        what,
        given,
        "pictures, (height, width), for which alone it is defined; several of them with jax.vmap",
    )


def along_axes(
    maps: Float[Array, "*n_space"], matrices: Sequence[Float[Array | np.ndarray, "_ _"]]
) -> Float[Array, "*n_Space"]:
    """Maps with a matrix (target, source) applied along each of their spatial axes, the last ones."""
    few = len(matrices)
    source, target = string.ascii_lowercase[:few], string.ascii_uppercase[:few]
    first, *others = (jnp.asarray(matrix, maps.dtype) for matrix in matrices)
    terms = [t + s for t, s in zip(target, source, strict=True)]
    subscripts = ",".join([terms[0], f"...{source}", *terms[1:]]) + f"->...{target}"
    return jnp.einsum(subscripts, first, maps, *others, precision=jax.lax.Precision.HIGHEST)


def picture(
    image: Shaped[np.ndarray, "*B H W D"], shown: Sequence[int] | None = None
) -> Shaped[np.ndarray, "*B H W 3"]:
    """An image of any number of channels as red, green and blue.

    Args:
        image: pixels, of any range.
        shown: which channels are red, green and blue, or the one that is shown in grey. By default three channels are colours, and of
            any other number the mean is shown in grey.

    Raises:
        CaseJaxError: for `shown` that are not one or three of the channels.
    """
    depth = image.shape[-1]
    if shown is None:
        return image if depth == 3 else image.mean(-1, keepdims=True).repeat(3, -1).astype(image.dtype)
    proper = len(shown) in (1, 3) and all(0 <= c < depth for c in shown)
    require(proper, "shown", tuple(shown), f"three channels (red, green, blue) or one, each from 0 to {depth - 1}")
    return image[..., list(shown) if len(shown) == 3 else list(shown) * 3]


def as_pixels(images: Num[np.ndarray, "*B H W D"]) -> UInt8[np.ndarray, "*B H W D"]:
    """Images as a screen shows them: uint8 ones as they are; of float ones each between its own lowest and highest value."""
    if images.dtype == np.uint8:
        return images
    axes = (-3, -2, -1)
    low, high = images.min(axes, keepdims=True), images.max(axes, keepdims=True)
    return np.rint(255 * (images - low) / np.where(high > low, high - low, 1)).astype(np.uint8)


@lru_cache
def _interpolation(source: int, target: int) -> np.ndarray:
    """The matrix of one-dimensional linear interpolation with half-pixel centres and edge clamping."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    fraction = position - low
    matrix = np.zeros((target, source), np.float64)
    np.add.at(matrix, (np.arange(target), low), 1 - fraction)
    np.add.at(matrix, (np.arange(target), np.minimum(low + 1, source - 1)), fraction)
    return matrix


def resize_map(saliency: Float[Array, "*n_space"], shape: tuple[int, ...]) -> Float[Array, "*n_Space"]:
    """Linear interpolation along each spatial axis with half-pixel centres and no antialias, in pictures as cv2 INTER_LINEAR (equal to 1e-6).

    Args:
        saliency: one map or several, whose last axes are as many spatial ones as `shape` has sizes.
        shape: the sizes wanted.
    """
    given = saliency.shape[-len(shape) :]
    if given == tuple(shape):
        return saliency
    return along_axes(saliency, [_interpolation(n, m) for n, m in zip(given, shape, strict=True)])


def _cubic(start: Int[Array, ""], stop: Int[Array, ""], source: int, target: int) -> Float[Array, "target source"]:
    """The matrix that takes pixels start … stop − 1 out of `source` and enlarges them to `target` by Keys' cubic with a = −0.75."""
    start, stop = start.astype(jnp.int32), stop.astype(jnp.int32)
    length = stop - start
    # the position (i + ½) length / target − ½ as a fraction of integers, exactly
    above = (2 * jnp.arange(target, dtype=jnp.int32) + 1) * length - target
    low = above // (2 * target)
    t = (above - 2 * target * low).astype(jnp.float32) / (2 * target)
    far, near = (lambda d: ((-0.75 * d + 3.75) * d - 6) * d + 3), (lambda d: (1.25 * d - 2.25) * d * d + 1)
    weights = jnp.stack([far(1 + t), near(t), near(1 - t), far(2 - t)], axis=1)
    places = jnp.clip(low[:, None] + np.arange(-1, 3, dtype=np.int32), 0, jnp.maximum(length - 1, 0)) + start
    matrix = jnp.where(places[:, :, None] == np.arange(source, dtype=np.int32), weights[:, :, None], 0.0).sum(1)
    return jnp.where(length > 0, matrix, 0.0)


def crop_resized(image: Float[Array, "H W D"], box: Int[Array, "4"], shape: tuple[int, int]) -> Float[Array, "h w D"]:
    """The part of an image in a box, resized to `shape` by bicubic interpolation, as cv2 INTER_CUBIC.

    Keys' kernel with a = −0.75, half-pixel centres, edges of the crop repeated beyond it, no antialias. The box may be traced: its
    values decide numbers, never shapes.

    Args:
        image: one image.
        box: half-open (top, bottom, left, right), integers, within the image.
        shape: height and width of the result.

    Returns:
        The enlarged crop, which may exceed the image's range at edges; zeros for a box of area 0.
    """
    rows, columns = (
        _cubic(box[2 * axis], box[2 * axis + 1], image.shape[axis], shape[axis]).astype(image.dtype) for axis in (0, 1)
    )
    return jnp.einsum("yh,hwd,xw->yxd", rows, image, columns, precision=jax.lax.Precision.HIGHEST)


def _of_map(space: int) -> tuple[int, ...]:
    """The spatial axes of maps: the last `space`."""
    return tuple(range(-space, 0))


def rescale_map(saliency: Float[Array, "*n_space"], *, space: int = 2) -> Float[Array, "*n_space"]:
    """Positive part, shifted to minimum 0 and divided by `1e-7 + max`, as pytorch-grad-cam does; a zero map stays zero."""
    positive = jax.nn.relu(saliency)
    positive = positive - positive.min(_of_map(space), keepdims=True)
    return positive / (1e-7 + positive.max(_of_map(space), keepdims=True))


def rescale_signed(saliency: Float[Array, "*n_space"], *, space: int = 2) -> Float[Array, "*n_space"]:
    """Divided by `1e-7 + max |map|`, so that zero stays zero; a zero map stays zero."""
    return saliency / (1e-7 + jnp.abs(saliency).max(_of_map(space), keepdims=True))


FOR, AGAINST = (0.70, 0.02, 0.15), (0.02, 0.30, 0.70)
"""Red and blue, of evidence for and against a class."""


def signed_colours(saliency: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 4"]:
    """A map in [−1, 1] as red, green, blue and opacity: red where it is positive, blue where negative, clear where it is zero."""
    hue = np.where(saliency[..., None] > 0, FOR, AGAINST)
    return np.concatenate([hue, 0.85 * np.clip(np.abs(saliency), 0, 1)[..., None]], -1)


def is_degenerate(saliency: Float[Array, "*n_space"], *, space: int = 2, signed: bool = False) -> Bool[Array, "*n"]:
    """Whether the positive part of a map (or `signed`, the whole map) is all zero, constant or non-finite, so that it ranks nothing."""
    kept = saliency if signed else jax.nn.relu(saliency)
    finite = jnp.isfinite(saliency).all(_of_map(space))
    return ~finite | (kept.max(_of_map(space)) <= kept.min(_of_map(space)))


def finish_maps(
    maps: Float[Array, "*n_space"], shape: tuple[int, ...], *, space: int = 2, signed: bool = False
) -> Float[Array, "*n_Space"]:
    """Maps at a layer's resolution to maps in [0, 1] at input resolution: `rescale_map`, then `resize_map`.

    `signed` maps keep what is negative, evidence against the class, and come out in [−1, 1]: `rescale_signed`, then `resize_map`.
    Degenerate maps become all zero.

    Args:
        maps: one map or several, whose last axes are the spatial ones.
        shape: of the image, without its channels.
        space: how many spatial axes: 2 for pictures, 1 for signals, 3 for volumes. Never guessed, because several maps of a picture have as many
            axes as one of a volume.

    Raises:
        CaseJaxError: for a shape that is no pair (height, width), or with `space` not as many sizes; maps of fewer axes.
    """
    accepted = (
        "the pair (height, width) in pixels, for example image.shape[:2]; for signals space=1 and for volumes space=3 with as many sizes"
        if space == 2
        else f"{space} sizes, for space={space}, for example image.shape[:-1]"
    )
    require(space >= 1 and np.ndim(shape) == 1 and len(shape) == space, "shape", shape, accepted)
    require(maps.ndim >= space, "maps", f"shape {maps.shape}", f"one map of {space} spatial axes or several")
    empty = jnp.expand_dims(is_degenerate(maps, space=space, signed=signed), _of_map(space))
    scaled = rescale_signed(maps, space=space) if signed else rescale_map(maps, space=space)
    return resize_map(jnp.where(empty, 0.0, scaled), shape)


def blur(image: Float[Array, "*space D"], sigma: float) -> Float[Array, "*space D"]:
    """Gaussian blur with mirrored edges, truncated at three σ or, along an axis that is shorter, at its length; σ in pixels."""

    def along(x: Array, axis: int) -> Array:
        radius = max(1, min(round(3 * sigma), x.shape[axis] - 1))
        kernel = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1, dtype=jnp.float32) / sigma) ** 2).astype(x.dtype)
        kernel = kernel / kernel.sum()
        smooth = jax.vmap(lambda line: jnp.convolve(jnp.pad(line, radius, mode="reflect"), kernel, mode="valid"))
        lines = jnp.moveaxis(x, axis, -1)
        return jnp.moveaxis(smooth(lines.reshape(-1, lines.shape[-1])).reshape(lines.shape), -1, axis)

    return reduce(along, space_axes(image), image)


def filling(
    kind: Fill,
    image: Float[Array, "*space D"],
    *,
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "*space D"]:
    """What is put in place of removed pixels of a normalised image.

    Args:
        kind: `mean` (zeros, the data set's mean), `blur` (σ = a tenth of the longer side), `noise` (standard normal, the data
            set's mean and deviation), `zero-pixel` (black).
        image: one normalised image.
        black: a black pixel in normalised units, `−mean / std`.
        key: random key of this image, for `noise`.

    Raises:
        CaseJaxError: for an unknown kind, or one without the `black` or `key` that it needs.
    """
    if kind == "mean":
        return jnp.zeros_like(image)
    if kind == "blur":
        return blur(image, max(image.shape[:-1]) / 10)
    if kind == "noise":
        if key is None:
            raise CaseJaxError("key: the fill 'noise' needs this image's key, for example jax.random.key(0).")
        return jax.random.normal(key, image.shape, image.dtype)
    if kind == "zero-pixel":
        if black is None:
            raise CaseJaxError("black: the fill 'zero-pixel' needs a black pixel in normalised units, −mean / std.")
        return jnp.broadcast_to(black.astype(image.dtype), image.shape)
    raise unknown("fill", kind, FILLS)


def masked_image(
    image: Float[Array, "*space D"], mask: Float[Array, "*space"], *, black: Float[Array, " D"] | None = None
) -> Float[Array, "*space D"]:
    """A normalised image multiplied with a mask.

    Args:
        image: one normalised image.
        mask: how much of each pixel is seen, from 0 to 1.
        black: a black pixel in normalised units, `−mean / std`: the image is then multiplied before it is normalised, and what is hidden becomes
            black. None multiplies as it is: what is hidden becomes the data set's mean.
    """
    shown = mask[..., None].astype(image.dtype)
    return image * shown if black is None else image * shown + jnp.asarray(black, image.dtype) * (1 - shown)

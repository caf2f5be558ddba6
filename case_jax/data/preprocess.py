"""Encoded images to the pixels a classifier was trained for."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from case_jax._checks import CaseJaxError, unknown
from case_jax.data.decoding import EXIF, Exif, Transparency, decoded
from case_jax.source import UnreadableImageError

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
LARGEST = 2**26
"""Pixels of a resized image; at 256 pixels for the shorter side an image may be 1,024 times as long as wide."""


class Crop(NamedTuple):
    """What is cut out of an image, and where."""

    pixels: UInt8[np.ndarray, "crop crop D"]
    changes: tuple[str, ...]
    """What had to be decided to show the image, see `decoded`."""
    photograph: Image.Image
    """The whole image, in 8 bits, turned and on white as the crop is."""
    box: tuple[float, float, float, float]
    """The crop in pixels of the photograph: top, bottom, left, right."""


def crop_encoded(encoded: bytes, name: str, **how: Any) -> Crop:
    """`crop_opened` of an image file's bytes; the same arguments and errors."""
    _filter(how.get("interpolation", "bilinear"))
    with _opened(encoded, name) as opened:
        return crop_opened(opened, name, **how)


def crop_opened(
    image: Image.Image,
    name: str,
    *,
    resize: int,
    crop: int,
    interpolation: str = "bilinear",
    exif: Exif = "ignore",
    transparency: Transparency = "white",
    channels: int = 3,
) -> Crop:
    """The central crop of an image that PIL has opened or made, its shorter side resized to `resize`.

    Args:
        image: of any kind that `decoded` takes.
        name: names the image in errors.
        resize: shorter side in pixels.
        crop: side of the crop in pixels.
        interpolation: `bilinear` or `bicubic`.
        exif: `apply` turns a photograph as its EXIF orientation says, as a viewer; `ignore` does not, as torchvision.
        transparency: what shows through: `white`, or with `drop` the colours that the file has there, as torchvision.
        channels: 3, or 1 for grey.

    Raises:
        UnreadableImageError: see `preprocess`.
        CaseJaxError: for an unknown interpolation or `exif`, or when PIL has been told to pad truncated images in silence.
    """
    chosen = _filter(interpolation)
    if exif not in EXIF:
        raise unknown("exif", exif, EXIF)
    size, _ = _resized(*image.size, resize=resize, crop=crop)
    if size[0] * size[1] > LARGEST:
        reason = "{}×{} pixels would be resized to {}×{}, which is too much".format(*image.size, *size)
        raise UnreadableImageError(name, reason)
    with _named(name):
        seen, changes = decoded(image, exif=exif, transparency=transparency, channels=channels)
    size, (left, top) = _resized(*seen.size, resize=resize, crop=crop)
    cut = np.asarray(seen.resize(size, chosen).crop((left, top, left + crop, top + crop)))
    across, down = seen.width / size[0], seen.height / size[1]
    box = (top * down, (top + crop) * down, left * across, (left + crop) * across)
    return Crop(cut.reshape(crop, crop, channels), changes, seen, box)


def preprocess(
    encoded: bytes, name: str, *, resize: int, crop: int, interpolation: str = "bilinear"
) -> UInt8[np.ndarray, "crop crop 3"]:
    """Decode an image as torchvision's and timm's evaluation transforms do: shorter side to `resize`, central crop.

    PIL's filters, with antialias; grey, palette and CMYK images become RGB, 16-bit grey is scaled to 8 (see `decoded`). As there,
    EXIF orientations are ignored and transparency is dropped: `crop_encoded` shows images as a viewer does.

    Args:
        encoded: the bytes of a JPEG, PNG or any other file that PIL reads.
        name: names the image in errors.
        resize: shorter side in pixels.
        crop: side of the crop in pixels.
        interpolation: `bilinear` or `bicubic`.

    Raises:
        UnreadableImageError: when the bytes are truncated or no image, pixels are 32-bit numbers or 16-bit colours of which few bits
            are in use, or the image is so long that it would be resized to more than `LARGEST` pixels.
        CaseJaxError: for an unknown interpolation, or when PIL has been told to pad truncated images in silence.
    """
    how = {"resize": resize, "crop": crop, "interpolation": interpolation}
    return crop_encoded(encoded, name, **how, transparency="drop").pixels


def random_view(
    encoded: bytes,
    name: str,
    *,
    crop: int,
    rng: np.random.Generator,
    interpolation: str = "bilinear",
    exif: Exif = "ignore",
    channels: int = 3,
) -> UInt8[np.ndarray, "crop crop D"]:
    """Decode a random rectangle of an image, resized to a square and mirrored half of the time, as classifiers are trained on.

    The rectangle has 8% to 100% of the image's area and an aspect ratio of 3:4 to 4:3, log-uniform; after ten that do not fit, it is the
    largest central one of such a ratio: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.

    Args:
        encoded: the bytes of an image file.
        name: names the image in errors.
        crop: side of the square in pixels.
        rng: decides everything.
        interpolation: `bilinear` or `bicubic`.
        exif: as `crop_opened`.
        channels: as `crop_opened`.

    Raises:
        UnreadableImageError, CaseJaxError: as `preprocess`.

    Szegedy et al., *Going deeper with convolutions*, CVPR 2015.
    """
    chosen = _filter(interpolation)
    with _opened(encoded, name) as opened:
        image = decoded(opened, exif=exif, channels=channels).image
    image = image.crop(_rectangle(*image.size, rng)).resize((crop, crop), chosen)
    return np.asarray(image).reshape(crop, crop, channels)[:, :: -1 if rng.random() < 0.5 else 1]


def _rectangle(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Edges (left, top, right, bottom) of a random rectangle of an image."""
    low, high = RATIO
    for _ in range(10):
        area, ratio = width * height * rng.uniform(*AREA), math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _filter(interpolation: str) -> Image.Resampling:
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    return INTERPOLATIONS[interpolation]


def box_region(
    boxes: Int[np.ndarray, "B 4"], width: int, height: int, *, resize: int, crop: int
) -> Bool[np.ndarray, "crop crop"]:
    """Where boxes in an image end up in what `preprocess` makes of it: pixels whose centre lies in the union of the boxes.

    Args:
        boxes: edges as half-open (top, bottom, left, right), in pixels of the image.
        width: of the image, in pixels.
        height: of the image, in pixels.
        resize: shorter side in pixels.
        crop: side of the central crop in pixels.

    Returns:
        The region; all False when nothing of the boxes is left in the crop.
    """
    region = np.zeros((crop, crop), bool)
    for top, bottom, left, right in np.clip(boxes_in_crop(boxes, width, height, resize=resize, crop=crop), 0, crop):
        region[top:bottom, left:right] = True
    return region


def boxes_in_crop(
    boxes: Int[np.ndarray, "B 4"], width: int, height: int, *, resize: int, crop: int
) -> Int[np.ndarray, "B 4"]:
    """The same boxes in pixels of the crop, half-open: each holds the pixels whose centre it holds; arguments as `box_region`.

    Boxes that leave the crop are not cut off.
    """
    size, (left, top) = _resized(width, height, resize=resize, crop=crop)
    scaled = boxes * np.array([size[1] / height] * 2 + [size[0] / width] * 2)
    return np.ceil(scaled - [top + 0.5, top + 0.5, left + 0.5, left + 0.5]).astype(np.int64)


def image_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Width and height of an image of which everything is there: it is decoded, a JPEG at an eighth of its size.

    Raises:
        UnreadableImageError: when `preprocess` could not decode it either.
        CaseJaxError: when PIL has been told to pad truncated images in silence.
    """
    with _opened(encoded, name) as image:
        size = image.size
        image.draft("RGB", (size[0] // 8, size[1] // 8))
        image.load()
    return size


def _resized(width: int, height: int, *, resize: int, crop: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The resized image's (width, height), and where in it the crop begins, (left, top); rounded as torchvision does."""
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    return size, (round((size[0] - crop) / 2), round((size[1] - crop) / 2))


@contextlib.contextmanager
def _opened(encoded: bytes, name: str) -> Iterator[Image.Image]:
    """An image; what goes wrong with it inside the context is an error that names it."""
    with _named(name), Image.open(io.BytesIO(encoded)) as image:
        yield image


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """What PIL finds wrong inside the context is an error that names the image."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise CaseJaxError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES: is True, which pads broken images in silence; set it to False."
        )
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not an image that PIL can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, f"{type(error).__name__}: {error}") from error

"""Encoded images to the pixels a classifier was trained for."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from case_jax._checks import CaseJaxError, unknown
from case_jax.source import UnreadableImageError

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocess(
    encoded: bytes, name: str, *, resize: int, crop: int, interpolation: str = "bilinear"
) -> UInt8[np.ndarray, "crop crop 3"]:
    """Decode an image as torchvision's and timm's evaluation transforms do: shorter side to `resize`, central crop.

    PIL's filters, with antialias; grey, palette, CMYK and alpha images become RGB, 16-bit grey is scaled to 8.

    Args:
        encoded: the bytes of a JPEG, PNG or any other file that PIL reads.
        name: names the image in errors.
        resize: shorter side in pixels.
        crop: side of the crop in pixels.
        interpolation: `bilinear` or `bicubic`.

    Raises:
        UnreadableImageError: when the bytes are truncated or no image, or pixels are 32-bit numbers.
        CaseJaxError: for an unknown interpolation, or when PIL has been told to pad truncated images in silence.
    """
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise CaseJaxError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES: is True, which pads broken images in silence; set it to False."
        )
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            image = _rgb(opened)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not an image that PIL can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, f"{type(error).__name__}: {error}") from error
    width, height = image.size
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    image = image.resize(size, INTERPOLATIONS[interpolation])
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range; save the image with 8 or 16 bits")
    return image.convert("RGB")

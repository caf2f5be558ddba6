"""Encoded images to the pixels a classifier was trained for."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

from case_jax._checks import CaseJaxError
from case_jax.source import UnreadableImageError


def preprocess(encoded: bytes, name: str, *, resize: int, crop: int) -> UInt8[np.ndarray, "crop crop 3"]:
    """Decode an image as torchvision's evaluation transform does: shorter side to `resize`, central crop.

    PIL bilinear with antialias; grey, palette, CMYK and alpha images become RGB.

    Args:
        encoded: the bytes of a JPEG, PNG or any other file that PIL reads.
        name: names the image in errors.
        resize: shorter side in pixels.
        crop: side of the crop in pixels.

    Raises:
        UnreadableImageError: when the bytes are truncated or no image.
        CaseJaxError: when PIL has been told to pad truncated images in silence.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise CaseJaxError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES: is True, which pads broken images in silence; set it to False."
        )
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, f"{type(error).__name__}: {error}") from error
    width, height = image.size
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))

"""An opened image as a person sees it: turned, at its real depth, on white; and what had to be decided on the way."""

import struct
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, ImageOps

Exif = Literal["apply", "ignore"]
EXIF: tuple[Exif, ...] = get_args(Exif)
"""Whether a photograph is turned as its EXIF orientation says: `apply` as viewers do, `ignore` as torchvision does."""
Transparency = Literal["white", "drop"]

ORIENTATION = 0x0112
TURNED = "an EXIF orientation, applied"
LEFT_TURNED = "an EXIF orientation, ignored as torchvision does"
ON_WHITE = "transparent pixels, shown over white"
FIRST = "several frames or pages, of which the first was taken"
INKS = "CMYK colours, converted without a profile"
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners have, stored in 16."""
DAMAGED_EXIF = (SyntaxError, struct.error, KeyError, TypeError, ValueError, EOFError, OverflowError)


class Decoded(NamedTuple):
    """An image of 8 bits a channel, and what was decided on the way to it."""

    image: Image.Image
    """RGB, or grey where one channel was asked for."""
    changes: tuple[str, ...]


def decoded(
    image: Image.Image, *, exif: Exif = "ignore", transparency: Transparency = "white", channels: int = 3
) -> Decoded:
    """An opened image as RGB (or grey) of 8 bits.

    Transparent pixels are laid over white, unless they are to be dropped: then the colour counts that the file has below them, often
    black, as in torchvision. 16-bit grey is scaled by the smallest of 8, 10, 12, 14 and 16 bits that holds its values (by 16 where both bytes
    of every value are equal). Of frames and pages the first is taken. CMYK is converted by PIL's formula. TIFF is turned by PIL itself, whatever `exif` says.

    Raises:
        ValueError: for numbers without a known range (32-bit integers, floating point), and for 16-bit colours that use 14 bits or
            fewer, of which the decoder keeps the upper 8 alone.
        OSError: for a truncated file.
    """
    changes = []
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photograph with a preview of itself
        changes.append(FIRST)
    deep = any(f";16{order}" in str(tile) for tile in getattr(image, "tile", ()) for order in "BLN")
    image.load()
    if _orientation(image) != 1:
        changes.append(TURNED if exif == "apply" else LEFT_TURNED)
        image = ImageOps.exif_transpose(image) if exif == "apply" else image
    if image.mode.startswith("I;16"):  # PIL's own conversion clips at 255 instead of scaling
        image, bits = _scaled(image)
        changes += [f"16-bit values of which {bits} bits are in use, scaled by these"] if bits < 16 else []
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range; save the image with 8 or 16 bits")
    elif deep:
        _require_full_range(image)
    if image.mode == "CMYK":
        changes.append(INKS)
    if transparency == "white" and image.has_transparency_data:
        clear = image.convert("RGBA")
        if np.asarray(clear.getchannel("A")).min() < 255:
            image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            changes.append(ON_WHITE)
    return Decoded(image.convert("L" if channels == 1 else "RGB"), tuple(changes))


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except DAMAGED_EXIF:  # viewers show such a photograph as it is
        return 1
    return found if found in range(2, 9) else 1


def _scaled(image: Image.Image) -> tuple[Image.Image, int]:
    """16-bit grey with 8 bits, and how many bits its values use; the one value that PNG declares transparent becomes white."""
    values = np.asarray(image).astype(np.uint16)
    widened = not (values % 257).any()  # 8 bits that were made 16 fill the range, however dark
    bits = 16 if widened else next(bits for bits in DEPTHS if int(values.max()) < 1 << bits)
    grey = (values >> (bits - 8)).astype(np.uint8)
    clear = image.info.get("transparency")
    return Image.fromarray(grey if clear is None else np.where(values == clear, np.uint8(255), grey)), bits


def _require_full_range(image: Image.Image) -> None:
    """Raise for 16-bit colours with values below 2¹⁴: what PIL has kept of them is their upper byte, nearly black."""
    colours = image.convert("RGB") if image.mode != "LA" else image.getchannel("L")
    highest = np.asarray(colours).max()
    if highest < 1 << 6:
        bits = 8 + int(highest).bit_length()
        raise ValueError(
            f"16-bit colours of which at most {bits} bits are in use, and the decoder keeps the upper 8 of 16; save the image with "
            "8 bits a colour, or scaled to all 16"
        )

"""The images of `case-jax explain`: read before anything long begins, and cut when it is known what the classifier sees."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.data import DigitScenes, Exif, crop_opened, options_of, read_crop, require_side
from case_jax.data.photographs import PHOTOGRAPHS, photograph_files
from case_jax.models import Preprocessing
from case_jax.source import Example, UnreadableImageError

SCENE, PACKAGED = "digit_scenes:", "photos:"
"""Before the index of a scene, and before the name of a photograph in a Python package."""


class Opened(NamedTuple):
    """An image as it was given, decoded."""

    name: str
    whole: Image.Image
    changes: tuple[str, ...] = ()
    scene: tuple[DigitScenes, int] | None = None
    """For a scene: the scenes, and its place among them."""


class Photograph(NamedTuple):
    """What a classifier sees of an image, and the whole of it."""

    example: Example
    whole: Image.Image
    box: tuple[float, float, float, float]
    """The example in pixels of the whole: top, bottom, left, right."""


def opened(images: Sequence[str], exif: Exif) -> list[Opened]:
    """Image files, photographs of packages written `photos:NAME`, or scenes written `digit_scenes:INDEX[,OPTION=VALUE,…]`.

    Raises:
        CaseJaxError: for a file that is missing or broken, a name or index that there is not, or options that scenes do not have; names it.
    """
    return [_scene(image) if image.startswith(SCENE) else _photograph(image, exif) for image in images]


def seen(images: Sequence[Opened], facts: Preprocessing) -> list[Photograph]:
    """What a classifier with this preprocessing sees of them.

    Raises:
        CaseJaxError: for a scene of another side than it was trained for, or an image so long that it cannot be resized; names it.
    """
    return [_seen(number, image, facts) for number, image in enumerate(images)]


def _scene(image: str) -> Opened:
    accepted = "digit_scenes:INDEX or digit_scenes:INDEX,OPTION=VALUE,… with an index of at least 0"
    index, _, words = image.removeprefix(SCENE).partition(",")
    require(index.isascii() and index.isdigit() and len(index) < 10, "images", repr(image), accepted)
    scenes = DigitScenes("test", int(index) + 1, **options_of(words))
    scene = scenes[int(index)]
    return Opened(scene.name, Image.fromarray(scene.image), scene=(scenes, int(index)))


def _photograph(image: str, exif: Exif) -> Opened:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # PIL's, from 90 megapixels on; from 179 on it refuses
            found = read_crop(_file(image), resize=1, crop=1, exif=exif)
    except UnreadableImageError as error:
        raise _unreadable(image, error) from error
    return Opened(image.removeprefix(PACKAGED), found.photograph, found.changes)


def _file(image: str) -> Path:
    if not image.startswith(PACKAGED):
        return Path(image)
    known = {photo.name: photo for photo in PHOTOGRAPHS}
    name = image.removeprefix(PACKAGED)
    if name not in known:
        raise unknown("images", image, (f"{PACKAGED}{other}" for other in known))
    return photograph_files((known[name],))[0]


def _seen(number: int, image: Opened, facts: Preprocessing) -> Photograph:
    if image.scene is not None:
        scenes, index = image.scene
        require_side(scenes, facts.crop)
        return Photograph(scenes[index], image.whole, (0, image.whole.height, 0, image.whole.width))
    how = {"resize": facts.resize, "crop": facts.crop, "interpolation": facts.interpolation}
    try:
        cut = crop_opened(image.whole, image.name, **how)
    except UnreadableImageError as error:
        raise _unreadable(image.name, error) from error
    return Photograph(Example(number, image.name, cut.pixels, -1, changes=image.changes), image.whole, cut.box)


def _unreadable(image: str, error: UnreadableImageError) -> CaseJaxError:
    return CaseJaxError(
        f"images: {image} cannot be read ({error.reason}); give an image file, a folder of them, photos:NAME or digit_scenes:INDEX."
    )

"""Photographs from Python packages as data: each one whole, or 2×2 mosaics of them in which each class has its known cell."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from case_jax._checks import CaseJaxError, require, require_seed, unknown
from case_jax.data.decoding import EXIF, Exif
from case_jax.data.folder import read_crop
from case_jax.data.folder_labels import are_imagenet
from case_jax.data.ilsvrc import imagenet_names
from case_jax.data.photographs import PHOTOGRAPHS, Photograph, photograph_files
from case_jax.data.preprocess import INTERPOLATIONS
from case_jax.source import Evidence, Example, Truth

MOSAICS = 300
"""Mosaics where no number is asked for."""
CELLS = 4


class Photos:
    """The photographs that come with scikit-learn, matplotlib and scikit-image; see `PHOTOGRAPHS`.

    Labels are those of ImageNet's classes that are shown beyond doubt, −1 where there is none, several in `labels`. A classifier of other
    classes gets the photographs without labels.

    Args:
        class_names: the classifier's classes; None takes ImageNet's.
        resize: shorter side in pixels.
        crop: side of the central crop in pixels.
        interpolation: `bilinear` or `bicubic`.
        exif: as for `ImageFolder`.
        channels: 3, or 1 for grey.

    Raises:
        CaseJaxError: when a package is not installed (says what to install), or the names of ImageNet's classes are not known.
    """

    name = "photos"

    def __init__(
        self,
        class_names: tuple[str, ...] | None,
        *,
        resize: int,
        crop: int,
        interpolation: str = "bilinear",
        exif: Exif = "ignore",
        channels: int = 3,
    ):
        if exif not in EXIF:
            raise unknown("exif", exif, EXIF)
        labelled = class_names is None or are_imagenet(class_names)
        self.files = photograph_files()
        self.true = tuple(_classes(photo) if labelled else () for photo in PHOTOGRAPHS)
        self.class_names = (class_names or imagenet_names()) if labelled else None
        self._how: dict[str, Any] = {"resize": resize, "crop": crop, "interpolation": interpolation, "exif": exif}
        self._how["channels"] = channels

    @property
    def fingerprint(self) -> str:
        """A digest of the files, the labels and the preprocessing."""
        return _digest(self.files, self.true, sorted(self._how.items()))

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """Photograph `index`; raises `UnreadableImageError` when its file is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"photograph {index} of {len(self)}")
        name, true = PHOTOGRAPHS[index].name, self.true[index]
        found = read_crop(self.files[index], name=name, **self._how)
        labels = true if len(true) > 1 else ()
        return Example(index, name, found.pixels, true[0] if true else -1, labels=labels, changes=found.changes)


class PhotoMosaics:
    """2×2 mosaics of photographs of four different classes; mosaic i depends on (seed, i), the crop and the classifier's interpolation alone.

    Four of the photographs that have a label are drawn without replacement, and of each a square: its side is uniform between the smallest
    that shows what the label names and the photograph's shorter side, its place uniform among those that show it, and it is mirrored half
    of the time. All four classes are true labels; `label` is that of a cell drawn at random. A photograph's evidence is its cell, for its
    main class. The photographs in a mosaic are its `clusters`: hundreds of mosaics are of a handful of independent photographs.

    Args:
        class_names: the classifier's classes, which must be ImageNet's; None takes these.
        size: number of mosaics.
        seed: another seed gives other mosaics.
        crop: side of a mosaic in pixels.
        interpolation: `bilinear` or `bicubic`.
        channels: 3, or 1 for grey.

    Raises:
        CaseJaxError: for a classifier of other classes, a size below 1, a crop below 2, or as `Photos`.
    """

    name, unit, truths = "photos:mosaics", "photographs", ("cell",)

    def __init__(
        self,
        class_names: tuple[str, ...] | None,
        size: int = MOSAICS,
        *,
        seed: int = 0,
        crop: int,
        interpolation: str = "bilinear",
        channels: int = 3,
    ):
        if class_names is not None and not are_imagenet(class_names):
            given = (
                f"photos:mosaics for a classifier of {len(class_names)} other classes ({', '.join(class_names[:2])}, …)"
            )
            require(
                False, "data", given, "a classifier of ImageNet's 1,000 classes; photos, without labels, goes with any"
            )
        require(size >= 1, "size", size, "a number of mosaics of at least 1")
        require(crop >= 2, "crop", crop, "a side of at least 2 pixels")
        require_seed(seed)
        if interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", interpolation, INTERPOLATIONS)
        self.places = [place for place, photo in enumerate(PHOTOGRAPHS) if photo.labels]
        """Those of the photographs with a label, among all."""
        self.files = photograph_files(tuple(PHOTOGRAPHS[place] for place in self.places))
        self.true = [_classes(PHOTOGRAPHS[place]) for place in self.places]
        self.class_names = class_names or imagenet_names()
        self.size, self.seed, self.crop, self.interpolation, self.channels = size, seed, crop, interpolation, channels
        self.edges = (0, crop // 2, crop)
        """Where cells begin and end."""

    @property
    def fingerprint(self) -> str:
        """A digest of the files and of every option but the size: a longer set starts with the shorter one."""
        boxes = [PHOTOGRAPHS[place].box for place in self.places]
        return _digest(self.files, self.true, boxes, self.seed, self.crop, self.interpolation, self.channels, 1)

    def __len__(self) -> int:
        """Number of mosaics."""
        return self.size

    def _drawn(self, index: int) -> tuple[np.random.Generator, list[int], int]:
        """Which photographs a mosaic shows, in row-major order of the cells, and which cell is its label's; and what draws the rest."""
        rng = np.random.default_rng([self.seed, index])
        return rng, rng.permutation(len(self.places))[:CELLS].tolist(), int(rng.integers(CELLS))

    def __getitem__(self, index: int) -> Example:
        """Mosaic `index`; raises `UnreadableImageError` when the file of one of its photographs is damaged."""
        if not 0 <= index < self.size:
            raise IndexError(f"mosaic {index} of {self.size}")
        rng, shown, labelled = self._drawn(index)
        image = np.empty((self.crop, self.crop, self.channels), np.uint8)
        regions = np.zeros((CELLS, self.crop, self.crop), bool)
        for cell, (which, region) in enumerate(zip(shown, regions, strict=True)):
            top, bottom, left, right = self.cell(cell)
            image[top:bottom, left:right] = self._view(which, rng, bottom - top, right - left)
            region[top:bottom, left:right] = True
        classes = np.array([self.true[which][0] for which in shown], np.int32)
        photographs = tuple(self.places[which] for which in shown)
        return Example(
            index,
            f"mosaic-{index:06d} ({', '.join(PHOTOGRAPHS[place].name for place in photographs)})",
            image,
            int(classes[labelled]),
            Evidence(regions, classes),
            labels=tuple(c for which in shown for c in self.true[which]),
            clusters=photographs,
        )

    def cell(self, number: int) -> tuple[int, int, int, int]:
        """A cell as half-open (top, bottom, left, right); cells are numbered in row-major order."""
        row, column = divmod(number, 2)
        return self.edges[row], self.edges[row + 1], self.edges[column], self.edges[column + 1]

    def truth(self, index: int, kind: str, /) -> Truth:
        """The cell of the class that is the mosaic's `label`.

        Raises:
            CaseJaxError: for another kind than `cell`.
        """
        if kind not in self.truths:
            raise unknown("truth", kind, self.truths)
        return Truth(np.array([self.cell(self._drawn(index)[2])]))

    def _view(
        self, which: int, rng: np.random.Generator, height: int, width: int
    ) -> UInt8[np.ndarray, "height width D"]:
        photo = PHOTOGRAPHS[self.places[which]]
        image = _whole(self.files[which], photo.name, self.channels)
        box = square_around(photo, *image.size, rng)
        view = np.asarray(image.resize((width, height), INTERPOLATIONS[self.interpolation], box=box))
        return view.reshape(height, width, self.channels)[:, :: -1 if rng.random() < 0.5 else 1]


def square_around(photo: Photograph, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Edges (left, top, right, bottom) of a random square in a photograph that holds its box, see `PhotoMosaics`."""
    assert photo.box is not None, "photographs with labels have one"
    top, bottom, left, right = photo.box
    side = int(rng.integers(max(bottom - top, right - left), min(width, height) + 1))
    x = int(rng.integers(max(0, right - side), min(left, width - side) + 1))
    y = int(rng.integers(max(0, bottom - side), min(top, height - side) + 1))
    return x, y, x + side, y + side


def _classes(photo: Photograph) -> tuple[int, ...]:
    """The classes of a photograph's labels.

    Raises:
        CaseJaxError: when ImageNet's names are not known.
    """
    names = imagenet_names() or ()
    lacking = [label for label in photo.labels if label not in names]
    if lacking:
        raise CaseJaxError(
            f"tensorflow_datasets: its files do not name the class {lacking[0]!r}; install tensorflow-datasets 4.9.10 again."
        )
    return tuple(names.index(label) for label in photo.labels)


@lru_cache
def _whole(file: Path, name: str, channels: int) -> Image.Image:
    return read_crop(file, name=name, resize=1, crop=1, channels=channels).photograph


def _digest(files: Sequence[Path], *facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

"""Bounding boxes of ILSVRC2012's validation images: from the organisers' XML files to one small file beside the prepared images."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Int

from case_jax._checks import CaseJaxError
from case_jax.data.archives import require_known
from case_jax.data.ilsvrc import validation_labels, validation_number, wordnet_ids
from case_jax.files import write_atomically

FILE = "boxes.npz"
WANTED = "ILSVRC2012_bbox_val_v3.tgz, or a folder of its files ILSVRC2012_val_NNNNNNNN.xml"


class Annotation(NamedTuple):
    """The boxes of one image, as annotated."""

    size: tuple[int, int]
    """Width and height of the image that was annotated."""
    boxes: Int[np.ndarray, "B 4"]
    """Half-open (top, bottom, left, right), in pixels, within the image."""
    other_class: int
    """Boxes of another class than the image's; not among `boxes`."""
    outside: int
    """Boxes with nothing inside the image; not among `boxes`."""


class BoxCounts(NamedTuple):
    """How annotations and images met."""

    images: int
    """Images with a box of their class."""
    boxes: int
    """Boxes of these."""
    without_box: int
    """Images without one."""
    without_image: int
    """Annotations of images that are not in the data; left out."""
    other_size: int
    """Annotations of an image of another size; left out."""
    other_class: int
    """Boxes of another class than their image's; left out."""
    outside: int
    """Boxes with nothing inside their image; left out."""


class Boxes(NamedTuple):
    """The boxes beside a prepared data set."""

    of: Mapping[int, tuple[tuple[int, int], Int[np.ndarray, "B 4"]]]
    """By the number in the image's name: its (width, height), and its boxes as in `Annotation`."""
    digest: str
    """Changes when any box changes."""


def read_annotations(path: Path) -> dict[int, Annotation]:
    """The annotations in an archive or a folder, by the number in their names.

    Raises:
        CaseJaxError: when nothing is there, a file is damaged, has another name or is there twice; names it.
    """
    if not path.exists():
        raise CaseJaxError(f"boxes: nothing at {path}; give {WANTED}.")
    try:
        files = list(_in_folder(path) if path.is_dir() else _in_archive(path))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CaseJaxError(f"boxes: {path} cannot be read ({error}); give {WANTED}.") from error
    names = [name for name, _ in files]
    require_known([name for name in names if validation_number(name, "xml") is None], names, "boxes", WANTED)
    if not files:
        raise CaseJaxError(f"boxes: {path} holds no XML files; give {WANTED}.")
    return dict(_parsed(name, data) for name, data in files)


def join(annotations: Mapping[int, Annotation], sizes: Mapping[int, tuple[int, int]]) -> tuple[Boxes, BoxCounts]:
    """Annotations with the images they belong to.

    Args:
        annotations: from `read_annotations`.
        sizes: width and height of the images in the data, by number.
    """
    here = {number: found for number, found in annotations.items() if number in sizes}
    fitting = {number: found for number, found in here.items() if found.size == sizes[number]}
    kept = {number: (found.size, found.boxes) for number, found in sorted(fitting.items()) if len(found.boxes)}
    counts = BoxCounts(
        images=len(kept),
        boxes=sum(len(boxes) for _, boxes in kept.values()),
        without_box=len(sizes) - len(kept),
        without_image=len(annotations) - len(here),
        other_size=len(here) - len(fitting),
        other_class=sum(found.other_class for found in fitting.values()),
        outside=sum(found.outside for found in fitting.values()),
    )
    return Boxes(kept, _digest(kept)), counts


def write_boxes(folder: Path, boxes: Boxes) -> None:
    """Write the boxes into a data set's folder, in place of those that are there."""

    rows = [(number, *size, *box) for number, (size, found) in boxes.of.items() for box in found.tolist()]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, rows=np.array(rows, np.int32).reshape(-1, 7))
    write_atomically(folder / FILE, buffer.getvalue())


def read_boxes(folder: Path) -> Boxes | None:
    """The boxes in a data set's folder; None when there are none.

    Raises:
        CaseJaxError: when the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            rows = file["rows"]
        if rows.ndim != 2 or rows.shape[1] != 7:
            raise ValueError(f"rows of shape {rows.shape}")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CaseJaxError(
            f"boxes: {path} cannot be read ({error}); write it again with case-jax prepare imagenet --boxes, or delete it."
        ) from error
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=0))
    by_image = np.split(rows, starts[1:]) if len(rows) else []
    of = {int(r[0, 0]): ((int(r[0, 1]), int(r[0, 2])), r[:, 3:]) for r in by_image}
    return Boxes(of, _digest(of))


def _digest(of: Mapping[int, tuple[tuple[int, int], np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for number, (size, boxes) in of.items():
        digest.update(repr((number, size, boxes.tolist())).encode())
    return digest.hexdigest()[:16]


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*.xml")):
        if not path.name.startswith("."):
            yield path.name, path.read_bytes()


def _in_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for entry in archive:
            name = entry.name.rpartition("/")[2]
            if name.endswith(".xml") and not name.startswith(".") and (file := archive.extractfile(entry)):
                yield name, file.read()


def _parsed(name: str, data: bytes) -> tuple[int, Annotation]:
    number = validation_number(name, "xml")
    assert number is not None, "names have been checked"
    wanted = wordnet_ids()[validation_labels()[number - 1]]
    try:
        root = ElementTree.fromstring(data)
        width, height = (_number(root, f"size/{side}") for side in ("width", "height"))
        found = [(item.findtext("name"), _box(item)) for item in root.iterfind("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise CaseJaxError(f"boxes: {name} is no annotation ({error}); give {WANTED}.") from error
    own = np.array([box for label, box in found if label == wanted], np.int32).reshape(-1, 4)
    boxes = np.clip(own, 0, [height, height, width, width]).astype(np.int32)
    inside = (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
    return number, Annotation((width, height), boxes[inside], len(found) - len(own), int((~inside).sum()))


def _box(item: ElementTree.Element) -> tuple[int, int, int, int]:
    """Top, bottom, left and right, whichever corners were given."""
    left, right = sorted(_number(item, f"bndbox/x{end}") for end in ("min", "max"))
    top, bottom = sorted(_number(item, f"bndbox/y{end}") for end in ("min", "max"))
    return top, bottom, left, right


def _number(element: ElementTree.Element, path: str) -> int:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return round(float(text))

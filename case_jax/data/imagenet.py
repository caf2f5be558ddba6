"""ILSVRC2012 from the organisers' archives to the files of tensorflow-datasets, without TensorFlow."""

import contextlib
import importlib
import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from case_jax._checks import CaseJaxError
from case_jax.data.archives import Member, inner_members, read_member, require_known, tar_members
from case_jax.data.array_records import EXAMPLE_OVERHEAD, Split, new_builder, write_splits
from case_jax.data.boxes import BoxCounts, join, read_annotations, write_boxes
from case_jax.data.ilsvrc import validation_labels, validation_number, wordnet_ids
from case_jax.data.preprocess import image_size
from case_jax.source import UnreadableImageError

VALIDATION_TAR = "ILSVRC2012_img_val.tar (6.74 GB, 50,000 files ILSVRC2012_val_NNNNNNNN.JPEG)"
TRAINING_TAR = "ILSVRC2012_img_train.tar (147.9 GB, 1,000 archives nNNNNNNNN.tar)"
_CLASS_TAR = re.compile(r"(n\d{8})\.tar")


class PreparedImagenet(NamedTuple):
    """What was written."""

    folder: Path
    images: dict[str, int]
    """Number of images by split."""
    unreadable: list[UnreadableImageError]
    """Images that cannot be decoded; they are in the data, and an evaluation counts them as unreadable."""
    boxes: BoxCounts | None


def prepare_imagenet(
    val_tar: Path,
    *,
    train_tar: Path | None = None,
    boxes: Path | None = None,
    data_dir: Path | None = None,
    progress: bool | None = None,
) -> PreparedImagenet:
    """Write `imagenet2012` as array_record: the records that tensorflow-datasets' own builder writes, in the same order and files.

    Labels of validation images follow from the number in the file's name, so that a part of the archive is labelled rightly, too.
    The training images that the builder converts are converted, 22 from CMYK and one from PNG. (The 22 differ from the builder's in
    the last digits: TensorFlow decodes them with a less exact cosine transform.) The bytes of all others are kept.

    Args:
        val_tar: `ILSVRC2012_img_val.tar`, or a part of it.
        train_tar: `ILSVRC2012_img_train.tar`, a tar of tars, one for each class; None leaves the split out.
        boxes: `ILSVRC2012_bbox_val_v3.tgz`, or a folder of its XML files; None writes no boxes.
        data_dir: where tensorflow-datasets keeps its data; None takes its own default (`TFDS_DATA_DIR`, `~/tensorflow_datasets`).
        progress: show a bar; None shows it in a terminal.

    Raises:
        CaseJaxError: for archives that are missing, damaged, something else, or hold files of other names or of one name twice; for
            boxes that cannot be read; when the data set is there already; when there is no room. All before anything is written.
    """
    builder = new_builder("imagenet2012", data_dir)
    validation = validation_members(val_tar)
    training = None if train_tar is None else training_members(train_tar)
    annotations = None if boxes is None else read_annotations(boxes)
    found, counts = _Found([], {}), None

    def finish(folder: Path) -> None:
        nonlocal counts
        if annotations is not None:
            joined, counts = join(annotations, found.sizes)
            write_boxes(folder, joined)

    with contextlib.ExitStack() as files:
        splits = {}
        if train_tar is not None and training is not None:
            file = files.enter_context(train_tar.open("rb"))
            splits["train"] = _training_split(file.fileno(), training, found, _converted(builder))
        file = files.enter_context(val_tar.open("rb"))
        splits["validation"] = _validation_split(file.fileno(), validation, found)
        folder = write_splits(builder, splits, finish=finish, progress=progress)
    images = {name: len(split.keys) for name, split in splits.items()}
    return PreparedImagenet(folder, images, found.unreadable, counts)


def validation_members(path: Path) -> list[Member]:
    """The images in `ILSVRC2012_img_val.tar` or a part of it.

    Raises:
        CaseJaxError: when it is something else, holds another file, or a file twice.
    """
    members = tar_members(path, "val_tar", VALIDATION_TAR)
    names = [member.name for member in members]
    strangers = [name for name in names if validation_number(name) is None]
    if len(strangers) == len(names):
        what = "the training archive" if any(_CLASS_TAR.fullmatch(name) for name in names) else "something else"
        first = f"; the first of its files is {names[0]!r}" if names else ""
        raise CaseJaxError(
            f"val_tar: {path} holds no ILSVRC2012_val_NNNNNNNN.JPEG: it is {what}{first}. Give {VALIDATION_TAR}."
        )
    require_known(strangers, names, "val_tar", VALIDATION_TAR)
    return members


def training_members(path: Path) -> list[tuple[str, Member]]:
    """The images in `ILSVRC2012_img_train.tar` or a part of it, each with its class.

    Raises:
        CaseJaxError: when it is something else, or an archive in it is, holds another file, or a file twice.
    """
    outer = tar_members(path, "train_tar", TRAINING_TAR)
    names = [member.name for member in outer]
    if not any(_CLASS_TAR.fullmatch(name) for name in names):
        what = (
            "the validation archive, which --val-tar takes" if any(map(validation_number, names)) else "something else"
        )
        raise CaseJaxError(f"train_tar: {path} holds no nNNNNNNNN.tar: it is {what}. Give {TRAINING_TAR}.")
    known = {f"{wnid}.tar" for wnid in wordnet_ids()}
    require_known([name for name in names if name not in known], names, "train_tar", TRAINING_TAR)
    images = [
        (archive.name[:-4], member)
        for archive in outer
        for member in inner_members(path, archive, "train_tar", TRAINING_TAR)
    ]
    strangers = [member.name for wnid, member in images if not re.fullmatch(rf"{wnid}_\d+\.JPEG", member.name)]
    require_known(strangers, [member.name for _, member in images], "train_tar", TRAINING_TAR)
    if not images:
        raise CaseJaxError(f"train_tar: the archives in {path} are empty; give {TRAINING_TAR}.")
    return images


def add_boxes(boxes: Path, *, data_dir: Path | None = None, progress: bool | None = None) -> tuple[Path, BoxCounts]:
    """Write boxes beside an `imagenet2012` that is prepared already, in place of those that it has.

    Args:
        boxes: `ILSVRC2012_bbox_val_v3.tgz`, or a folder of its XML files.
        data_dir: where tensorflow-datasets keeps its data; None takes its own default.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The data set's folder, and how boxes and images met.

    Raises:
        CaseJaxError: when the boxes cannot be read or the data set is not prepared.
    """
    from case_jax.data.tfds_images import open_records

    annotations = read_annotations(boxes)
    builder, records = open_records("imagenet2012", "validation", data_dir)
    sizes = {}
    for record in tqdm(records, unit=" images", desc="sizes", disable=None if progress is None else not progress):
        name = record["file_name"].decode()
        with contextlib.suppress(UnreadableImageError):
            sizes[validation_number(name)] = image_size(record["image"], name)
    joined, counts = join(annotations, sizes)
    folder = Path(builder.data_path)
    try:
        write_boxes(folder, joined)
    except OSError as error:
        raise CaseJaxError(f"data_dir: cannot write to {folder} ({error}).") from error
    return folder, counts


class _Found(NamedTuple):
    """What is learnt of images while they are written."""

    unreadable: list[UnreadableImageError]
    sizes: dict[int, tuple[int, int]]
    """Width and height of the readable validation images, by number."""


def _validation_split(file: int, members: list[Member], found: _Found) -> Split:
    labels = validation_labels()

    def read(i: int) -> dict[str, Any]:
        member = members[i]
        number, data = validation_number(member.name), read_member(file, member)
        assert number is not None, "names have been checked"
        try:
            found.sizes[number] = image_size(data, member.name)
        except UnreadableImageError as error:
            found.unreadable.append(error)
        return {"file_name": member.name, "image": data, "label": labels[number - 1]}

    return Split([member.name for member in members], _size(members), read)


def _training_split(file: int, images: list[tuple[str, Member]], found: _Found, converted: Collection[str]) -> Split:
    def read(i: int) -> dict[str, Any]:
        wnid, member = images[i]
        data = read_member(file, member)
        try:
            image_size(data, member.name)
            data = _rgb_jpeg(data) if member.name in converted else data
        except UnreadableImageError as error:
            found.unreadable.append(error)
        return {"file_name": member.name, "image": data, "label": wnid}

    return Split([member.name for _, member in images], _size([member for _, member in images]), read)


def _size(members: list[Member]) -> int:
    return sum(member.size + len(member.name) + EXAMPLE_OVERHEAD for member in members)


def _converted(builder: Any) -> set[str]:
    """The training images that the packaged builder converts."""
    packaged = importlib.import_module(type(builder).__module__)
    return {*packaged.CMYK_IMAGES, *packaged.PNG_IMAGES}


def _rgb_jpeg(encoded: bytes) -> bytes:
    """A JPEG as TensorFlow writes it: quality 100, half the resolution in colour, 300 dots per inch."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(encoded)) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=100, subsampling="4:2:0", dpi=(300, 300))
    return buffer.getvalue()

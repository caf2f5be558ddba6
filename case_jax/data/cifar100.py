"""CIFAR-100 from its authors' archive to the files of tensorflow-datasets, without TensorFlow."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from case_jax._checks import CaseJaxError
from case_jax.data.array_records import EXAMPLE_OVERHEAD, Split, new_builder, write_splits

TAR = "cifar-100-binary.tar.gz (168,513,733 bytes), from www.cs.toronto.edu/~kriz/cifar.html"
SIZE, SHA256 = 168_513_733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
"""Of the published archive, as tensorflow-datasets has them."""
NAMES = {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)}
SIDE = 32
_ROW = len(NAMES) + 3 * SIDE * SIDE


class PreparedCifar100(NamedTuple):
    """What was written."""

    folder: Path
    images: dict[str, int]
    """Number of images by split."""
    published: bool
    """Whether the archive is the published one."""


def prepare_cifar100(
    tar: Path, *, data_dir: Path | None = None, any_archive: bool = False, progress: bool | None = None
) -> PreparedCifar100:
    """Write `cifar100` as array_record: the records that tensorflow-datasets' own builder writes, but for how PNG is compressed.

    Args:
        tar: `cifar-100-binary.tar.gz`.
        data_dir: where tensorflow-datasets keeps its data; None takes its own default (`TFDS_DATA_DIR`, `~/tensorflow_datasets`).
        any_archive: take an archive of the same form that is not the published one.
        progress: show a bar; None shows it in a terminal.

    Raises:
        CaseJaxError: for an archive that is missing, damaged or not the published one, when the data set is there already, or when
            there is no room. All before anything is written.
    """
    builder = new_builder("cifar100", data_dir)
    if not tar.is_file():
        raise CaseJaxError(f"tar: no file at {tar}; give {TAR}.")
    published = _is_published(tar, any_archive)
    labels, images = _read(tar)
    for feature, names in labels.items():
        builder.info.features[feature].names = names
    splits = {name: _split(name, rows) for name, rows in images.items()}
    folder = write_splits(builder, splits, finish=lambda _: None, progress=progress)
    return PreparedCifar100(folder, {name: len(rows) for name, rows in images.items()}, published)


def _is_published(tar: Path, any_archive: bool) -> bool:
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = tar.stat().st_size
    if (size, digest) == (SIZE, SHA256):
        return True
    if not any_archive:
        raise CaseJaxError(
            f"tar: {tar} is not the published archive: {size:,} bytes with SHA-256 {digest[:12]}… in place of {SIZE:,} with "
            f"{SHA256[:12]}…. Give {TAR}; or take this one as it is, with --any-archive."
        )
    return False


def _read(tar: Path) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Names by feature, and rows of bytes by split."""
    wanted = {file for file, _ in NAMES.values()} | {"train.bin", "test.bin"}
    try:
        with tarfile.open(tar, "r:*") as archive:
            entries = {entry.name.rpartition("/")[2]: entry for entry in archive if entry.isreg()}
            if missing := sorted(wanted - entries.keys()):
                raise CaseJaxError(f"tar: {tar} holds no {', '.join(missing)}; give {TAR}.")
            found = {name: archive.extractfile(entries[name]) for name in wanted}
            data = {name: file.read() for name, file in found.items() if file is not None}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CaseJaxError(f"tar: {tar} cannot be read as a tar archive ({error}); give {TAR}.") from error
    labels = {feature: data[file].decode().split() for feature, (file, _) in NAMES.items()}
    for feature, (file, count) in NAMES.items():
        if len(set(labels[feature])) != count:
            raise CaseJaxError(f"tar: {file} in {tar} holds {len(set(labels[feature]))} of {count} names; give {TAR}.")
    return labels, {split: _rows(data[f"{split}.bin"], f"{split}.bin in {tar}") for split in ("train", "test")}


def _rows(data: bytes, where: str) -> np.ndarray:
    if not data or len(data) % _ROW:
        raise CaseJaxError(
            f"tar: {where} holds {len(data)} bytes, which is no multiple of {_ROW}, an image's size; give {TAR}."
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, _ROW)
    for column, (feature, (_, count)) in enumerate(NAMES.items()):
        if rows[:, column].max() >= count:
            raise CaseJaxError(f"tar: {where} holds the {feature} {rows[:, column].max()} of {count}; give {TAR}.")
    return rows


def _split(split: str, rows: np.ndarray) -> Split:
    def read(i: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        pixels = rows[i, len(NAMES) :].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        Image.fromarray(pixels).save(buffer, "PNG")
        found = dict(zip(NAMES, rows[i, : len(NAMES)].tolist(), strict=True))
        return found | {"id": f"{split}_{i:05d}", "image": buffer.getvalue()}

    return Split(range(len(rows)), len(rows) * (_ROW + EXAMPLE_OVERHEAD), read)

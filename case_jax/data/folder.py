"""Any folder of files; sub-folders, when there are any, are the labels, or a table `labels.csv` is."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Num

from case_jax._checks import CaseJaxError, unknown
from case_jax.data.decoding import EXIF, Exif
from case_jax.data.folder_labels import labels_from_folders
from case_jax.data.label_table import LABELS, read_label_table
from case_jax.data.preprocess import Crop, crop_encoded, random_view
from case_jax.source import Example, UnreadableImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def read_crop(path: Path, *, name: str | None = None, **how: Any) -> Crop:
    """Read an image file and cut out what a classifier sees, see `crop_opened`.

    Raises:
        UnreadableImageError: when the file is missing, truncated or no image; `name` (by default the file's) says which.
    """
    name = path.name if name is None else name
    return crop_encoded(_encoded(path, name), name, **how)


def _encoded(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, f"{type(error).__name__}: {error.strerror}") from error


class LabelledFolder:
    """The files of some kind below a folder, in sorted order of their paths, with their labels; hidden files and folders are left out.

    Args:
        root: the folder. With sub-folders, the first level is the label (see `labels_from_folders`), unless `labels.csv` says what are, see
            `read_label_table`.
        class_names: the classifier's classes; None takes the names of the sub-folders, in sorted order.
        suffixes: of the files.
        what: they are, in the plural.

    Raises:
        CaseJaxError: when the folder is missing or holds no such files, files lie both beside and inside sub-folders, or the
            sub-folders or the table do not fit the classes.
    """

    def __init__(self, root: str | Path, class_names: tuple[str, ...] | None, suffixes: tuple[str, ...], *, what: str):
        self.root = Path(root)
        if not self.root.is_dir():
            raise CaseJaxError(f"data: no folder at {self.root}; give folder:PATH with a folder of {what}.")
        found = (p for p in self.root.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        self.files = sorted(p for p in found if not any(q.startswith(".") for q in p.relative_to(self.root).parts))
        if not self.files:
            others = sorted({p.suffix.lower() for p in self.root.rglob("*") if p.is_file() and p.suffix})
            there = f", whose files end in {', '.join(others[:5])}" if others else ""
            sounds = " For WAV files name a --model of sounds, such as sound_cnn." * (
                ".wav" in set(others) - set(suffixes)
            )
            raise CaseJaxError(
                f"data: no {what} in {self.root}{there}; accepted suffixes: {', '.join(suffixes)}.{sounds}"
            )
        parts = [p.relative_to(self.root).parts for p in self.files]
        self.true: list[tuple[int, ...]]  # of each file, all true labels
        self.labels_of: Callable[[np.ndarray], np.ndarray] | None = self._first_labels
        table = self.root / LABELS
        if table.is_file():
            self.true, self.class_names = read_label_table(table, ["/".join(part) for part in parts], class_names)
            if any(len(labels) > 1 for labels in self.true):
                self.labels_of = None  # a draw by class takes each image as one of its class alone
            return
        folders = sorted({p[0] for p in parts if len(p) > 1})
        flat = [p[0] for p in parts if len(p) == 1]
        if folders and flat:
            raise CaseJaxError(
                f"data: {self.root} has {what} both in sub-folders (labels: {', '.join(folders[:3])}, …) and beside them "
                f"({flat[0]}, …); move them so that all or none have a label."
            )
        class_names = tuple(folders) if class_names is None else class_names
        index = labels_from_folders(folders, class_names) if folders else {}
        self.true = [(index[p[0]],) if p[0] in index else () for p in parts]
        self.class_names = class_names if folders else None

    @property
    def name(self) -> str:
        """The source's name in run folders and reports."""
        return f"folder:{self.root}"

    def _digest(self, digest: Any) -> str:
        """With every file's relative path, label, size and time of change."""
        for path, true in zip(self.files, self.true, strict=True):
            label = " ".join(map(str, true or (-1,)))
            facts = path.stat()
            digest.update(os.fsencode(path.relative_to(self.root)))
            digest.update(f"\0{label}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def _first_labels(self, indices: Int[np.ndarray, " n"], /) -> Int[np.ndarray, " n"]:
        return np.array([self._label(i) for i in indices.tolist()], np.int64)

    def _label(self, index: int) -> int:
        return self.true[index][0] if self.true[index] else -1

    def _example(self, index: int, image: Num[np.ndarray, "H W D"], changes: tuple[str, ...]) -> Example:
        labels = self.true[index] if len(self.true[index]) > 1 else ()
        return Example(index, self._name(index), image, self._label(index), labels=labels, changes=changes)

    def _name(self, index: int) -> str:
        path = self.files[index].relative_to(self.root)
        return path.as_posix().encode("utf-8", "backslashreplace").decode()


class ImageFolder(LabelledFolder):
    """The images below a folder, in sorted order of their paths.

    Args:
        root: the folder, see `LabelledFolder`.
        class_names: the classifier's classes; None takes the names of the sub-folders, in sorted order.
        resize: shorter side in pixels.
        crop: side of the central crop in pixels.
        interpolation: `bilinear` or `bicubic`.
        exif: `apply` turns photographs as their EXIF orientation says; `ignore` does not, as torchvision.
        channels: 3, or 1 for grey.

    Raises:
        CaseJaxError: as `LabelledFolder`.
    """

    def __init__(
        self,
        root: str | Path,
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
        super().__init__(root, class_names, SUFFIXES, what="images")
        self.resize, self.crop, self.interpolation = resize, crop, interpolation
        self.exif, self.channels = exif, channels
        self._how: dict[str, Any] = {"interpolation": interpolation, "exif": exif, "channels": channels}

    @property
    def fingerprint(self) -> str:
        """A digest of the preprocessing and of every file's relative path, label, size and time of change."""
        digest = hashlib.sha256(f"{self.resize} {self.crop} {self.interpolation}".encode())
        if self.exif != "ignore" or self.channels != 3:
            digest.update(f" {self.exif} {self.channels}".encode())
        return self._digest(digest)

    def __getitem__(self, index: int) -> Example:
        """Image `index`; raises `UnreadableImageError` when it cannot be read."""
        path, name = self.files[index], self._name(index)
        found = crop_encoded(_encoded(path, name), name, resize=self.resize, crop=self.crop, **self._how)
        return self._example(index, found.pixels, found.changes)

    def random_view(self, index: int, rng: np.random.Generator, /) -> Example:
        """Image `index` in a random view."""
        path, name = self.files[index], self._name(index)
        pixels = random_view(_encoded(path, name), name, crop=self.crop, rng=rng, **self._how)
        return self._example(index, pixels, ())

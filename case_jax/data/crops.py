"""Crops on disk: each image is decoded once; whoever wants it again, now or in a later run, reads its pixels from a file."""

import errno
import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import PIL

from case_jax._checks import CaseJaxError, require
from case_jax.data.crop_rows import RowShape, pack, unpack
from case_jax.files import require_writable, write_json
from case_jax.source import Example, Located, Source, Truth, UnreadableImageError, stft_of, unit_of

FORMAT = 3
PIXELS, RECORDS, HEADER = "pixels.u8", "records.bin", "header.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CachedCrops:
    """A source whose examples are kept in a file, from which they are read the second time: the same ids, names, pixels and evidence.

    Threads and processes of one machine may read and fill it at the same time. A row is written in two steps, the pixels and then a
    record with the checksum of both: what is torn, by a kill at any moment, does not fit its checksum and counts as absent. Two
    writers of one row write the same bytes. Images that cannot be read are remembered with the reason.

    The files are as long as all images need, H · W · D bytes each, and take the space of those that were read.

    Args:
        source: where images come from that are not in the file yet. It yields the same examples whenever it has the same fingerprint.
        folder: where caches are kept, each in a folder of its own, named after the source, its fingerprint and PIL's version.

    Raises:
        CaseJaxError: for sounds; when the folder cannot be written or holds a damaged cache, or when no image can be read; on reading, when the
            disk is full.
    """

    def __init__(self, source: Source, folder: str | Path):

        accepted = "images: spectrograms are made of their sounds each time; leave --crops out"
        require(stft_of(source) is None, "crops", f"them for {source.name}, of sounds", accepted)
        self.source = source
        self.name, self.class_names, self.fingerprint = source.name, source.class_names, source.fingerprint
        self.unit = unit_of(source)
        self.truths: Sequence[str] = getattr(source, "truths", ())
        self.labels_of: Callable[[np.ndarray], np.ndarray] | None = getattr(source, "labels_of", None)
        facts = {"format": FORMAT, "source": self.name, "fingerprint": self.fingerprint}
        facts |= {"images": len(source), "pillow": PIL.__version__}  # whose versions may decode differently
        self.folder = Path(folder) / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        require_writable(self.folder, "crops")
        header = self.folder / HEADER
        known = _shape_in(header) if header.exists() else None
        self.shape = known or _first_shape(source)
        count, pixels = len(source), (self.shape.height, self.shape.width, self.shape.channels)
        try:
            self._pixel_file, self._pixels = _open(self.folder / PIXELS, np.dtype(np.uint8), (count, *pixels))
            weakref.finalize(self, os.close, self._pixel_file)
            self._record_file, self._records = _open(self.folder / RECORDS, self.shape.dtype, (count,))
            weakref.finalize(self, os.close, self._record_file)
            if known is None:
                write_json(header, facts | {"shape": self.shape})
        except OSError as error:
            raise self._failure(error) from error

    def __len__(self) -> int:
        """Number of images of the source."""
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """Image `index`; raises `UnreadableImageError` when it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        found = unpack(self._records[index].tobytes(), self._pixels[index], self.shape)
        if found is None:
            try:
                found = self.source[index]
            except UnreadableImageError as error:
                found = error
            self._keep(index, found)
        if isinstance(found, UnreadableImageError):
            raise found
        return found

    def truth(self, index: int, kind: str, /) -> Truth | None:
        """As the source has it; nothing is kept of it."""
        return cast(Located, self.source).truth(index, kind)

    def _keep(self, index: int, found: Example | UnreadableImageError) -> None:
        if (packed := pack(found, self.shape)) is None:
            return
        record, pixels = packed
        try:
            _write(self._pixel_file, pixels, index * self._pixels[0].nbytes)
            _write(self._record_file, record, index * len(record))
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> CaseJaxError:
        what = "the disk is full" if error.errno in _FULL else f"cannot be written ({error})"
        return CaseJaxError(
            f"crops: {self.folder}: {what}. All {len(self)} images need {self._needed() / 1e9:.2f} GB. Free some space, give another "
            "--crops, or leave it out; what is in the cache stays usable."
        )

    def _needed(self) -> int:
        return len(self) * (self.shape.height * self.shape.width * self.shape.channels + self.shape.dtype.itemsize)


def _shape_in(header: Path) -> RowShape:
    try:
        return RowShape(*json.loads(header.read_text())["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseJaxError(f"crops: {header} is damaged ({error!r}); delete its folder.") from error


def _first_shape(source: Source) -> RowShape:
    first = None
    for index in range(len(source)):
        try:
            example = source[index]
        except UnreadableImageError as error:
            first = first or error
            continue
        shape, image = RowShape.of(example), np.asarray(example.image)
        given = f"shape {image.shape}, dtype {image.dtype}"
        require(
            shape, f"source {source.name!r}, image {example.name!r}", given, "uint8 of shape (height, width, channels)"
        )
        assert shape is not None, "that has been required"
        return shape
    raise CaseJaxError(f"data: none of the {len(source)} images of {source.name} could be read; the first: {first}.")


def _open(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """A file of that many rows: its descriptor, to write, and its contents, to read; sparse when it is new."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = dtype.itemsize * math.prod(shape)
        if os.fstat(file).st_size != size:
            os.ftruncate(file, size)
        return file, np.memmap(path, dtype, "r", shape=shape)
    except OSError:
        os.close(file)
        raise


def _write(file: int, data: bytes, position: int) -> None:
    """Not through the memory map: there a full disk would kill the process."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, position)
        rest, position = rest[written:], position + written

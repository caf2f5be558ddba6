"""Files of `torch.save`, in today's format (a zip archive) and the one before PyTorch 1.6, read without PyTorch."""

import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from case_jax._checks import CaseJaxError
from case_jax.models.torch_pickle import RefusedError, Storage, StoredArray, unpickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = 30
_WRAPPERS = ("state_dict", "model")


class TorchFile(NamedTuple):
    """The tensors of a state dict, and where their numbers lie; nothing of them is read yet."""

    path: Path
    arrays: Mapping[str, StoredArray]
    starts: Mapping[str, int]
    """By a storage's key: the file's byte at which it begins."""
    swapped: bool
    """Whether a machine wrote the numbers that has their bytes the other way round than this format has by default."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the file's own keys."""
        return {key: array.shape for key, array in self.arrays.items()}

    def read(self, key: str) -> np.ndarray:
        """A tensor's numbers with its strides, in this machine's order of bytes; only what it spans is read."""
        array = self.arrays[key]
        dtype = _dtype(array.storage)
        start = self.starts[array.storage.key] + array.offset * dtype.itemsize
        numbers = np.fromfile(self.path, f"<u{dtype.itemsize}", array.span, offset=start)
        if len(numbers) < array.span:
            raise _damaged(self.path, f"the numbers of {key!r} have gone")
        values = numbers.byteswap() if self.swapped else numbers
        values = values.astype(f"=u{dtype.itemsize}", copy=False).view(dtype)
        strides = tuple(stride * dtype.itemsize for stride in array.strides)
        return np.lib.stride_tricks.as_strided(values, array.shape, strides, writeable=False)


def open_torch_file(path: Path) -> TorchFile:
    """The state dict in a file of `torch.save`, bare or under `state_dict` or `model`.

    Nothing is imported, called or executed (see `torch_pickle`), and nothing is allocated for a tensor before it is known that the
    file holds its numbers.

    Args:
        path: the file.

    Raises:
        CaseJaxError: for a file of another kind, one that is cut short or damaged, one that names anything but tensors, storages,
            parameters, ordered dicts, plain containers and numbers (it is named), or one without a state dict.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            found = _from_zip(path, file, size) if file.read(4) == _ZIP else _from_legacy(path, file, size)
        except RefusedError as refused:
            raise CaseJaxError(
                f"weights: {path} cannot be read as arrays alone: it holds {refused}. Nothing of it was run. Save the weights "
                "themselves, torch.save(model.state_dict(), FILE), or fetch the file again where it is damaged."
            ) from refused
    for key, array in found.arrays.items():
        if math.prod(array.shape) * _dtype(array.storage).itemsize > size:
            raise _damaged(path, f"{key!r} of shape {array.shape} would be larger than the whole file ({size:,} bytes)")
    return found


class _Archive(NamedTuple):
    """A zip archive whose parts are read where they lie: none of PyTorch's is compressed."""

    path: Path
    file: BinaryIO
    size: int
    entries: Mapping[str, zipfile.ZipInfo]

    def part(self, name: str) -> tuple[int, int]:
        """First byte and length."""
        if name not in self.entries:
            raise _damaged(self.path, f"{name[:80]!r} is missing in it")
        entry = self.entries[name]
        header = b""
        if 0 <= entry.header_offset < self.size:
            self.file.seek(entry.header_offset)
            header = self.file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or header[:4] != _ZIP or entry.compress_type != zipfile.ZIP_STORED:
            raise _damaged(self.path, f"{name[:80]!r} in it is damaged or compressed")
        start = entry.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        if not 0 <= entry.file_size <= self.size - start:
            raise _damaged(self.path, f"{name[:80]!r} in it is cut short")
        return start, entry.file_size


def _archive(path: Path, file: BinaryIO, size: int) -> tuple[_Archive, str]:
    """The archive, and the folder in it that holds the pickle."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error, OSError) as error:
        raise _damaged(path, f"it is no whole zip archive ({error})") from error
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or any(name.endswith("constants.pkl") for name in entries):
        raise CaseJaxError(
            f"weights: {path} is no file of torch.save but another zip archive, a TorchScript program perhaps. Save the model's "
            "state_dict() and give that file."
        )
    return _Archive(path, file, size, entries), pickles[0].removesuffix("data.pkl")


def _from_zip(path: Path, file: BinaryIO, size: int) -> TorchFile:
    """Today's format: FOLDER/data.pkl and, for each storage, FOLDER/data/KEY."""
    archive, folder = _archive(path, file, size)
    start, length = archive.part(f"{folder}data.pkl")
    file.seek(start)
    content, storages = unpickle(file, start + length)
    starts = {}
    for key, storage in storages.items():
        starts[key], length = archive.part(f"{folder}data/{key}")
        _require_room(path, storage, length)
    swapped = False
    if f"{folder}byteorder" in archive.entries:
        file.seek(archive.part(f"{folder}byteorder")[0])
        swapped = file.read(3) == b"big"
    return TorchFile(path, _state_dict(path, content), starts, swapped)


def _from_legacy(path: Path, file: BinaryIO, size: int) -> TorchFile:
    """Pickles of a magic number, the protocol, the machine, the content and the storages' keys; then each storage, its length first.

    Numbers are little-endian in it, whatever machine wrote them.
    """
    file.seek(0)
    try:
        known = (unpickle(file, size)[0], unpickle(file, size)[0]) == (MAGIC, PROTOCOL)
    except RefusedError:
        known = False
    if not known:
        raise CaseJaxError(
            f"weights: {path} is no file of torch.save, or damaged at its start. Fetch it again, or give a .safetensors file."
        )
    unpickle(file, size)
    content, storages = unpickle(file, size)
    keys, _ = unpickle(file, size)
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise _damaged(path, "its list of storages is not that of its tensors")
    starts = {}
    for key in keys:
        if len(length := file.read(8)) < 8:
            raise _damaged(path, f"the storage {key!r} is missing")
        storage, (elements,) = storages[key], struct.unpack("<q", length)
        starts[key] = file.tell()
        if elements != storage.elements:
            raise _damaged(path, f"the storage {key!r} has {elements:,} numbers, of {storage.elements:,}")
        _require_room(path, storage, size - starts[key])
        file.seek(starts[key] + elements * _dtype(storage).itemsize)
    if missing := sorted(storages.keys() - starts.keys()):
        raise _damaged(path, f"the storage {missing[0]!r} is missing")
    return TorchFile(path, _state_dict(path, content), starts, False)


def _state_dict(path: Path, content: Any) -> dict[str, StoredArray]:
    for wrapper in _WRAPPERS:
        if type(content) is dict and type(content.get(wrapper)) is dict:
            content = content[wrapper]
            break
    if type(content) is not dict or not content:
        raise _no_state_dict(path, "")
    for key, value in content.items():
        if type(key) is not str or not isinstance(value, StoredArray):
            raise _no_state_dict(path, f" ({str(key)[:80]!r} is {type(value).__name__})")
    return content


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(jnp.bfloat16) if storage.dtype == "bfloat16" else np.dtype(storage.dtype)


def _require_room(path: Path, storage: Storage, length: int) -> None:
    needed = storage.elements * _dtype(storage).itemsize
    if needed > length:
        raise _damaged(path, f"the storage {storage.key!r} needs {needed:,} bytes, of which {length:,} are there")


def _damaged(path: Path, reason: str) -> CaseJaxError:
    return CaseJaxError(f"weights: {path} is cut short or damaged: {reason}. Fetch it again.")


def _no_state_dict(path: Path, found: str) -> CaseJaxError:
    return CaseJaxError(
        f"weights: {path} holds no state dict of tensors, neither bare nor under {' or '.join(map(repr, _WRAPPERS))}{found}; save the "
        "model's state_dict() and give that file."
    )

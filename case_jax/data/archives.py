"""What is in a tar archive, known before anything is read from it."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from case_jax._checks import CaseJaxError


class Member(NamedTuple):
    """One file in an uncompressed archive, and where in the archive it lies."""

    name: str
    """Without folders: `./val/a.JPEG` is `a.JPEG`."""
    offset: int
    size: int


def tar_members(path: Path, argument: str, wanted: str) -> list[Member]:
    """The files in an uncompressed tar archive, in its order; folders are left out.

    Args:
        path: the archive.
        argument: what errors call it.
        wanted: what is accepted, for errors.

    Raises:
        CaseJaxError: when nothing is there, it is no uncompressed tar archive, it is cut off or damaged, or it holds links.
    """
    if not path.is_file():
        raise CaseJaxError(f"{argument}: no file at {path}; give {wanted}.")
    try:
        with tarfile.open(path, "r:") as archive:
            return _members(archive, str(path), argument, wanted)
    except (tarfile.TarError, OSError) as error:
        raise CaseJaxError(
            f"{argument}: {path} cannot be read as an uncompressed tar archive ({error}); give {wanted}."
        ) from error


def inner_members(path: Path, outer: Member, argument: str, wanted: str) -> list[Member]:
    """The files in an archive that lies inside another one, placed in the outer one."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_opened(file, outer), mode="r:") as archive:
            found = _members(archive, f"{outer.name} in {path}", argument, wanted)
    except (tarfile.TarError, OSError) as error:
        raise CaseJaxError(
            f"{argument}: {outer.name} in {path} cannot be read as a tar archive ({error}); give {wanted}."
        ) from error
    return [member._replace(offset=outer.offset + member.offset) for member in found]


def read_member(file: int, member: Member) -> bytes:
    """The bytes of a member; `file` is the open archive's descriptor."""
    data = os.pread(file, member.size, member.offset)
    if len(data) != member.size:
        raise CaseJaxError(
            f"{member.name}: {len(data)} of {member.size} bytes could be read; the archive has changed meanwhile."
        )
    return data


def require_known(unknown: list[str], names: list[str], argument: str, wanted: str) -> None:
    """Raise when an archive holds strangers, or a name twice; names the first."""
    if unknown:
        raise CaseJaxError(
            f"{argument}: holds {unknown[0]!r}{_more(unknown)}, which is none of its files; give {wanted}."
        )
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]
    if twice:
        raise CaseJaxError(f"{argument}: holds {twice[0]!r}{_more(twice)} more than once; give {wanted}.")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _members(archive: tarfile.TarFile, where: str, argument: str, wanted: str) -> list[Member]:
    members = []
    for entry in archive:
        if entry.isdir():
            continue
        if not entry.isreg() or entry.issparse():
            raise CaseJaxError(f"{argument}: {entry.name!r} in {where} is no plain file; give {wanted}.")
        members.append(Member(entry.name.rpartition("/")[2], entry.offset_data, entry.size))
    # tarfile takes a damaged header for the end
    stream = archive.fileobj
    assert stream is not None, "an open archive has a file"
    stream.seek(archive.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        last = members[-1].name if members else "its start"
        raise CaseJaxError(
            f"{argument}: {where} is cut off or damaged at byte {archive.offset}, after {last}; give {wanted}."
        )
    return members


def _opened(file: BinaryIO, member: Member) -> BinaryIO:
    return io.BufferedReader(_Slice(file.fileno(), member), tarfile.BLOCKSIZE)


class _Slice(io.RawIOBase):
    """A member as a file of its own, for reading."""

    def __init__(self, file: int, member: Member):
        self._file, self._member, self._position = file, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._member.size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), max(self._member.size - self._position, 0))
        data = os.pread(self._file, count, self._member.offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

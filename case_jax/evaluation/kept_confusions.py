"""Where counted confusions are kept: which images were drawn, and a file of sums of every process that took part."""

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from case_jax._checks import CaseJaxError, require
from case_jax.evaluation.class_draw import Drawn
from case_jax.evaluation.confusion_sums import ConfusionSums
from case_jax.files import write_atomically
from case_jax.results import differences, fingerprint

ARRAYS = ("confused", "probabilities", "tiles", "facts")
DRAWN, FILES = "drawn.json", f"sums-{'[0-9]' * 6}.npz"
DAMAGE = (
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
LOG = logging.getLogger(__name__)


class _DamagedError(CaseJaxError):
    """A file that is not as it was written."""


class KeptConfusions:
    """The folder of one counting, named after a digest of all that decides its numbers.

    Which images are drawn follows from the same facts, so sums stay good whatever happens to the list of images.

    Args:
        parent: where countings are kept, each in a folder of its own.
        facts: what decides the numbers, as JSON values.
    """

    def __init__(self, parent: Path, facts: Mapping[str, Any]):
        self.facts = json.loads(json.dumps(facts))
        self.digest = _digest(self.facts)
        self.folder = parent / self.digest

    def prepare(self, draw: Callable[[], Drawn]) -> None:
        """Draw the images, unless that has been done, and remove damaged files, whose images are then counted again; for one process.

        Raises:
            CaseJaxError: when the folder cannot be written, or holds another counting.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            seen: set[int] = set()
            for file in self._files():
                tiles = self._tiles_if_whole(file, seen)
                if not tiles:
                    file.unlink()
                seen |= tiles
            if not self._drawn_if_whole():
                drawn = draw()
                values = {"facts": self.facts, "unlabelled": drawn.unlabelled, "indices": drawn.indices.tolist()}
                self._write(DRAWN, json.dumps({**values, "digest": _digest(values)}).encode())
        except OSError as error:
            raise self._failure(error) from error

    def drawn(self) -> Drawn:
        """The images that are counted.

        Raises:
            CaseJaxError: where another process has prepared another counting.
        """
        try:
            stored = _whole((self.folder / DRAWN).read_text())
        except DAMAGE as error:
            raise CaseJaxError(
                f"confusions: this process finds no images in {self.folder / DRAWN} ({error}), where the first process should have put "
                "them. Start every process with the same command, with --out on storage that all see."
            ) from error
        return Drawn(np.array(stored["indices"], np.int64), stored["unlabelled"])

    def sums(self) -> dict[int, ConfusionSums]:
        """What each process has counted, by its number.

        Raises:
            CaseJaxError: for a file that is damaged or of another counting.
        """
        return {int(file.stem.removeprefix("sums-")): self._read(file) for file in self._files()}

    def write(self, process: int, sums: ConfusionSums) -> None:
        """Write what a process has counted, in one atomic step.

        Raises:
            CaseJaxError: when that fails (a full disk, say); the file before stays.
        """
        facts = json.dumps({"counting": self.digest, "left_out": sums.left_out}).encode()
        arrays = (sums.confused, sums.probabilities, np.array(sums.tiles, np.int64), np.frombuffer(facts, np.uint8))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, digest=np.array(fingerprint(arrays)), **dict(zip(ARRAYS, arrays, strict=True)))
        try:
            self._write(f"sums-{process:06d}.npz", buffer.getvalue())
        except OSError as error:
            raise self._failure(error) from error

    def tiles_counted(self) -> int:
        """How many tiles the files of all processes hold."""

        def tiles(file: Path) -> int:
            with np.load(file) as stored:
                return len(stored["tiles"])

        return sum(map(tiles, self._files()))

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(FILES))

    def _write(self, name: str, data: bytes) -> None:
        write_atomically(self.folder / name, data)

    def _failure(self, error: OSError) -> CaseJaxError:
        return CaseJaxError(
            f"confusions: cannot write to {self.folder} ({error}). What was written before is kept: make room, or give another --out."
        )

    def _read(self, file: Path) -> ConfusionSums:
        try:
            with np.load(file) as stored:
                arrays, digest = tuple(stored[name] for name in ARRAYS), str(stored["digest"])
            if fingerprint(arrays) != digest:
                raise ValueError("its digest is that of other sums")
        except DAMAGE as error:
            raise _DamagedError(f"confusions: {file} is damaged ({error}); run the same command again.") from error
        confused, probabilities, tiles, facts = arrays
        counting, left_out = json.loads(facts.tobytes()).values()
        self._require_own(file, counting == self.digest, f"counting {counting}")
        return ConfusionSums(confused, probabilities, tiles.tolist(), left_out)

    def _tiles_if_whole(self, file: Path, seen: set[int]) -> set[int]:
        """The tiles of a file of sums; none where it is damaged, or holds what another one holds, which is said."""
        try:
            tiles = {*self._read(file).tiles}
        except _DamagedError as error:
            LOG.warning("confusions: %s is damaged (%s); its images are counted again", file, error.__cause__)
            return set()
        if tiles & seen:
            LOG.warning("confusions: %s holds images that another file holds, too; its images are counted again", file)
            return set()
        return tiles

    def _drawn_if_whole(self) -> bool:
        file = self.folder / DRAWN
        if not file.exists():
            return False
        try:
            stored = _whole(file.read_text())
        except DAMAGE as error:
            LOG.warning("confusions: %s is damaged (%s); the images are drawn again", file, error)
            return False
        lines = differences(stored["facts"], self.facts)
        self._require_own(file, not lines, "another counting: " + "; ".join(lines))
        return True

    def _require_own(self, file: Path, own: bool, other: str) -> None:
        accepted = f"files of counting {self.digest}; delete the folder to count again"
        require(own, "confusions", f"{file} of {other}", accepted)


def _digest(values: Mapping[str, Any]) -> str:
    return fingerprint([np.frombuffer(json.dumps(values).encode(), np.uint8)])


def _whole(text: str) -> dict[str, Any]:
    """What was written, with a digest of itself; a ValueError or KeyError where it is something else."""
    stored = json.loads(text)
    if stored.pop("digest") != _digest(stored):
        raise ValueError("its digest is that of other images")
    return stored

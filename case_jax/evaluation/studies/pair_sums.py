"""What a sweep has counted so far, on the host and in its folder: integers, and the tiles that they are over.

Every process writes a file of its own; what is counted is the sum of all files.
"""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from case_jax._checks import CaseJaxError
from case_jax.evaluation.studies.pair_counts import Counts
from case_jax.files import write_atomically
from case_jax.results import RunFolder

FILES = f"sums-{'[0-9]' * 6}.npz"


@dataclass
class PairSums:
    """Sums over the images of some tiles."""

    overlap: Int[np.ndarray, "M C C"]
    """Pixels shared by the tops of two classes."""
    images: Int[np.ndarray, "M C C"]
    """Images in which both maps were usable."""
    degenerate: Int[np.ndarray, " M"]
    tiles: list[int] = field(default_factory=list)
    counted: int = 0
    """Images seen."""
    excluded: list[dict[str, Any]] = field(default_factory=list)
    """Images that could not be read."""
    changed: Counter[str] = field(default_factory=Counter)
    """How many images had to be changed to be shown, by what was done to them."""

    @classmethod
    def none(cls, methods: int, classes: int) -> "PairSums":
        """Nothing counted yet."""
        shape = (methods, classes, classes)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(methods, np.int64))

    def add_device(self, column: int, counts: Counts) -> None:
        """Add what a device of this column of the grid has counted: rows from `column · R` on."""
        first = column * counts.overlap.shape[1]
        rows = max(0, min(counts.overlap.shape[1], self.overlap.shape[1] - first))
        self.overlap[:, first : first + rows] += counts.overlap[:, :rows]
        self.images[:, first : first + rows] += counts.images[:, :rows]
        self.degenerate += counts.degenerate

    def add(self, other: "PairSums") -> None:
        """Add the sums over other tiles.

        Raises:
            CaseJaxError: when a tile is in both.
        """
        twice = sorted(set(self.tiles) & set(other.tiles))
        if twice:
            raise CaseJaxError(
                f"out: two files of sums hold the same {len(twice)} tiles (the first: {twice[0]}); delete one and run the same command again."
            )
        self.overlap += other.overlap
        self.images += other.images
        self.degenerate += other.degenerate
        self.tiles = sorted([*self.tiles, *other.tiles])
        self.counted += other.counted
        self.changed += other.changed
        self.excluded = sorted([*self.excluded, *other.excluded], key=lambda entry: entry["index"])


def file_of(folder: RunFolder, process: int) -> Path:
    """The file of one process."""
    return folder.parts / f"sums-{process:06d}.npz"


def write_sums(folder: RunFolder, process: int, sums: PairSums) -> None:
    """Write one process's sums in one atomic step, as integers no wider than need be.

    Raises:
        CaseJaxError: when the file cannot be written (a full disk, say); the one before it stays.
    """
    buffer = io.BytesIO()
    facts = json.dumps({"counted": sums.counted, "excluded": sums.excluded, "changed": sums.changed}).encode()
    np.savez(
        buffer,
        overlap=_narrow(sums.overlap),
        images=_narrow(sums.images),
        degenerate=sums.degenerate,
        tiles=np.array(sums.tiles, np.int64),
        facts=np.frombuffer(facts, np.uint8),
    )
    file = file_of(folder, process)
    try:
        write_atomically(file, buffer.getvalue())
    except OSError as error:
        raise CaseJaxError(
            f"out: cannot write {file} ({error}). What was written before is kept: make room and run the same command again."
        ) from error


def _narrow(sums: Int[np.ndarray, "*n"]) -> np.ndarray:
    return sums.astype(np.min_scalar_type(int(sums.max())))


def read_sums(folder: RunFolder, shape: tuple[int, int]) -> dict[int, PairSums]:
    """The sums of every process, by its number.

    Args:
        folder: of the sweep.
        shape: methods and classes.

    Raises:
        CaseJaxError: for a file that is damaged.
    """
    return {int(file.stem.removeprefix("sums-")): _read(file, shape) for file in sorted(folder.parts.glob(FILES))}


def _read(file: Path, shape: tuple[int, int]) -> PairSums:
    methods, classes = shape
    try:
        with np.load(file) as stored:
            overlap, images, degenerate = (
                stored[name].astype(np.int64) for name in ("overlap", "images", "degenerate")
            )
            tiles, facts = stored["tiles"].tolist(), json.loads(stored["facts"].tobytes())
        if overlap.shape != (methods, classes, classes) or images.shape != overlap.shape:
            raise ValueError(f"sums of shape {overlap.shape}")
        found = facts["counted"], facts["excluded"], Counter(facts.get("changed", {}))
        return PairSums(overlap, images, degenerate, tiles, *found)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CaseJaxError(f"out: {file} is damaged ({error}); delete it and run the same command again.") from error


def tiles_counted(folder: RunFolder) -> int:
    """How many tiles the files of all processes hold."""

    def tiles(file: Path) -> int:
        with np.load(file) as stored:
            return len(stored["tiles"])

    return sum(map(tiles, folder.parts.glob(FILES)))


def total(held: Iterable[PairSums], shape: tuple[int, int]) -> PairSums:
    """The sums of all processes together.

    Raises:
        CaseJaxError: when two of them hold the same tile.
    """
    found = PairSums.none(*shape)
    for sums in held:
        found.add(sums)
    return found

"""Run folders: rows in atomic Parquet parts, so that a killed run resumes and ends with the same rows (no JAX here)."""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from case_jax._checks import CaseJaxError

EXCLUDED, TILES = b"case_jax.excluded", b"case_jax.tiles"
PARTS = f"part-{'[0-9]' * 6}.parquet"
UNREADABLE = "unreadable.json"
POLL_SECONDS = 0.2
BEGUN = f"begun-{'[0-9]' * 6}.parquet"


class Begun(NamedTuple):
    """The first tiles of a part: what a run that is told to stop keeps of the parts in hand."""

    tiles: int
    rows: pa.Table | None
    excluded: list[dict[str, Any]]

    def plus(self, columns: Mapping[str, Any], excluded: list[dict[str, Any]]) -> "Begun":
        """With the rows of the next tile."""
        rows = pa.table(dict(columns))
        rows = rows if self.rows is None else pa.concat_tables([self.rows, rows])
        return Begun(self.tiles + 1, rows, [*self.excluded, *excluded])


NOTHING = Begun(0, None, [])


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there whole or not at all, also after a crash."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two configurations differ, one line a key; the order of keys counts too (the order of methods is that of rows)."""
    lines = []
    if list(stored) != list(given) and stored.keys() == given.keys():
        lines.append(f"order of {prefix.rstrip('.') or 'keys'}: the folder has {list(stored)}, this run {list(given)}")
    for key in sorted(stored.keys() | given.keys()):
        old, new = stored.get(key, "(absent)"), given.get(key, "(absent)")
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: the folder has {old!r}, this run {new!r}")
    return lines


def require_writable(folder: Path, argument: str = "out") -> None:
    """Make a folder if need be and try to write into it.

    Raises:
        CaseJaxError: when that fails; names the argument.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe.{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        option = argument.replace("_", "-")
        raise CaseJaxError(f"{argument}: cannot write to {folder} ({error}); give another --{option}.") from error


def wait_until(there: Callable[[], bool]) -> None:
    """Until other processes have written something; where one of them dies, JAX ends this one."""
    while not there():
        time.sleep(POLL_SECONDS)


class RunFolder:
    """One run's folder: `config.json`, `sessions.jsonl`, `pace.jsonl`, `parts/part-NNNNNN.parquet`.

    A part holds the rows of a fixed range of images, whatever the batch size or device count, and is written in one step.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def parts(self) -> Path:
        """The folder of the part files."""
        return self.path / "parts"

    def part(self, number: int) -> Path:
        """The file of one part."""
        return self.parts / f"part-{number:06d}.parquet"

    def open(self, config: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Start the run in this folder, or resume the run that is there.

        Args:
            config: everything that decides the rows, as JSON values; stored, and compared on resuming.
            session: date, versions, devices; appended to `sessions.jsonl`.

        Raises:
            CaseJaxError: when the folder cannot be written, holds something else than a run, or a run of another config
                (every difference is listed).
        """
        config = json.loads(json.dumps(config))
        file = self.path / "config.json"
        self.require_writable()
        if file.exists():
            self.require_same(config)
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            for leftover in (*self.parts.glob("*.partial"), *self._outlived()):
                leftover.unlink()
            if not file.exists():
                write_json(file, config)
            self.log("sessions", session)
        except OSError as error:
            raise CaseJaxError(f"out: cannot write to {self.path} ({error}); give another --out.") from error

    def log(self, name: str, value: Mapping[str, Any]) -> None:
        """Append a line to `NAME.jsonl`."""
        with (self.path / f"{name}.jsonl").open("ab+") as log:
            log.seek(max(0, log.tell() - 1))
            torn = log.read(1) not in (b"", b"\n")  # a crash in the middle of the last line
            log.write(b"\n" * torn + json.dumps(value).encode() + b"\n")

    def require_same(self, config: Mapping[str, Any]) -> None:
        """Raise unless the folder holds the run of this configuration.

        Raises:
            CaseJaxError: when it holds none, or another (every difference is listed).
        """
        lines = differences(self.config(), json.loads(json.dumps(config)))
        if lines:
            raise CaseJaxError(
                f"out: {self.path} holds a run with another configuration:\n  "
                + "\n  ".join(lines)
                + "\nGive another --out, or delete the folder."
            )

    def require_writable(self) -> None:
        """Make the folder if need be.

        Raises:
            CaseJaxError: when it cannot be written, or holds something else than a run.
        """
        require_writable(self.path)
        ours = {"config.json", "parts", "lock", "confusions"}
        strangers = sorted(p.name for p in self.path.iterdir() if p.name not in ours and p.suffix != ".partial")
        if strangers and not (self.path / "config.json").exists():
            raise CaseJaxError(
                f"out: {self.path} is no run folder: it has no config.json, but {', '.join(strangers[:3])}; give another --out."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer; the lock goes with the process.

        Raises:
            CaseJaxError: when another process is writing into the folder.
        """
        self.require_writable()
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CaseJaxError(
                    f"out: another process is writing into {self.path}; wait for it or give another --out."
                ) from error
            yield

    def config(self) -> dict[str, Any]:
        """The stored configuration.

        Raises:
            CaseJaxError: when there is none or it is not readable.
        """
        file = self.path / "config.json"
        try:
            stored = json.loads(file.read_text())
            if not isinstance(stored, dict):
                raise ValueError("not a configuration")
            return stored
        except FileNotFoundError as error:
            raise CaseJaxError(f"run: {self.path} is no run folder (it has no config.json).") from error
        except ValueError as error:
            raise CaseJaxError(f"run: {file} is not readable ({error}); delete the folder and run again.") from error

    def write_part(self, number: int, whole: Begun) -> None:
        """Write the rows of one part, and which images it excludes and why, in one atomic step.

        Raises:
            CaseJaxError: when the file cannot be written (a full disk, say); what is there stays.
        """
        self._write(self.part(number), whole)
        self._begun(number).unlink(missing_ok=True)

    def write_begun(self, number: int, begun: Begun) -> None:
        """Keep the first tiles of a part that is not whole yet; raises as `write_part`."""
        self._write(self._begun(number), begun)

    def _begun(self, number: int) -> Path:
        return self.parts / f"begun-{number:06d}.parquet"

    def _write(self, file: Path, begun: Begun) -> None:
        assert begun.rows is not None, "a tile has columns, if no rows"
        facts = {EXCLUDED: json.dumps(begun.excluded).encode(), TILES: str(begun.tiles).encode()}
        buffer = pa.BufferOutputStream()
        pq.write_table(begun.rows.replace_schema_metadata(facts), buffer, write_page_checksum=True)
        try:
            write_atomically(file, buffer.getvalue().to_pybytes())
        except OSError as error:
            raise CaseJaxError(
                f"out: cannot write {file} ({error}). All parts before it are kept: make room and run the same command again."
            ) from error

    def _outlived(self) -> list[Path]:
        """Beginnings of parts that are whole now: a run was killed between writing the one and removing the other."""
        return [file for file in self.parts.glob(BEGUN) if self.part(_number(file)).exists()]

    def begun(self) -> dict[int, Begun]:
        """What a stopped run kept of parts that are not whole, by number.

        Raises:
            CaseJaxError: for a file that is damaged.
        """
        found = {}
        for file in sorted({*self.parts.glob(BEGUN)} - {*self._outlived()}):
            rows = self._read(file)
            facts = rows.schema.metadata
            found[_number(file)] = Begun(int(facts[TILES]), rows.replace_schema_metadata(), json.loads(facts[EXCLUDED]))
        return found

    def done(self) -> set[int]:
        """Numbers of the parts that are complete.

        Raises:
            CaseJaxError: for a part file that is damaged.
        """
        numbers = set()
        for file in sorted(self.parts.glob(PARTS)):
            self._read(file)
            numbers.add(_number(file))
        return numbers

    def wait_for(self, parts: Iterable[int]) -> None:
        """Until these parts are there, which other processes write."""
        for part in parts:
            wait_until(self.part(part).exists)

    def _read(self, file: Path, *, metadata_only: bool = False) -> Any:
        try:
            return pq.read_schema(file) if metadata_only else pq.read_table(file, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise CaseJaxError(
                f"out: {file} is damaged ({error}); delete it and run the same command again."
            ) from error

    def rows(self) -> pd.DataFrame:
        """All rows, in order of the images and of the methods.

        Raises:
            CaseJaxError: when there are none, or a part is damaged.
        """
        tables = [self._read(file) for file in sorted(self.parts.glob(PARTS))]
        tables = [t.replace_schema_metadata() for t in tables if t.num_rows]
        if not tables:
            raise CaseJaxError(f"run: {self.path} has no rows yet.")
        return pa.concat_tables(tables).to_pandas()

    def excluded(self) -> list[dict[str, Any]]:
        """The images that could not be read: index in the source, name, reason."""
        out = []
        for file in sorted(self.parts.glob(PARTS)):
            out += json.loads((self._read(file, metadata_only=True).metadata or {}).get(EXCLUDED, b"[]"))
        return out

    def unreadable(self) -> dict[str, str]:
        """The images that a training could not read so far, by name, and why.

        Raises:
            CaseJaxError: when their file is damaged.
        """
        file = self.path / UNREADABLE
        try:
            return json.loads(file.read_text()) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise CaseJaxError(f"run: {file} cannot be read ({error}); delete it to go on without it.") from error

    def write_unreadable(self, found: Mapping[str, str]) -> None:
        """Keep what a training could not read."""
        write_json(self.path / UNREADABLE, found)


def _number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def fingerprint(arrays: Any) -> str:
    """A short digest of arrays, for configurations."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]

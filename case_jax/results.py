"""Run folders: rows in atomic Parquet parts, so that a killed run resumes and ends with the same rows (no JAX here)."""

import contextlib
import fcntl
import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from case_jax._checks import CaseJaxError
from case_jax.files import require_writable, write_json
from case_jax.records import Records, Sums, added, read_records, write_records

PARTS = f"part-{'[0-9]' * 6}.parquet"
UNREADABLE = "unreadable.json"
POLL_SECONDS = 0.2
BEGUN = f"begun-{'[0-9]' * 6}.parquet"


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

    def write_part(self, number: int, whole: Records) -> None:
        """Write one part in one atomic step; raises as `write_records`."""
        write_records(self.part(number), whole)
        self._begun(number).unlink(missing_ok=True)

    def write_begun(self, number: int, begun: Records) -> None:
        """Keep the first tiles of a part that is not whole yet; raises as `write_records`."""
        write_records(self._begun(number), begun)

    def _begun(self, number: int) -> Path:
        return self.parts / f"begun-{number:06d}.parquet"

    def _outlived(self) -> list[Path]:
        """Beginnings of parts that are whole now: a run was killed between writing the one and removing the other."""
        return [file for file in self.parts.glob(BEGUN) if self.part(_number(file)).exists()]

    def begun(self) -> dict[int, Records]:
        """What a stopped run kept of parts that are not whole, by number.

        Raises:
            CaseJaxError: for a file that is damaged.
        """
        return {_number(file): read_records(file) for file in sorted({*self.parts.glob(BEGUN)} - {*self._outlived()})}

    def done(self) -> set[int]:
        """Numbers of the parts that are complete.

        Raises:
            CaseJaxError: for a part file that is damaged.
        """
        numbers = set()
        for file in sorted(self.parts.glob(PARTS)):
            read_records(file)
            numbers.add(_number(file))
        return numbers

    def wait_for(self, parts: Iterable[int]) -> None:
        """Until these parts are there, which other processes write."""
        for part in parts:
            wait_until(self.part(part).exists)

    def rows(self) -> pd.DataFrame:
        """All rows, in order of the images and of the methods.

        Raises:
            CaseJaxError: when there are none, or a part is damaged.
        """
        tables = [read_records(file).rows for file in sorted(self.parts.glob(PARTS))]
        tables = [t for t in tables if t is not None and t.num_rows]
        if not tables:
            raise CaseJaxError(f"run: {self.path} has no rows yet.")
        return pa.concat_tables(tables).to_pandas()

    def summary(self) -> pd.DataFrame:
        """The statistics of the report, one row per method; written by the report.

        Raises:
            CaseJaxError: when no report has been written yet.
        """
        file = self.path / "summary.csv"
        if not file.exists():
            raise CaseJaxError(
                f"run: {self.path} has no summary.csv; write the report first: case_jax.report.write_report."
            )
        return pd.read_csv(file)

    def excluded(self) -> list[dict[str, Any]]:
        """The images that were left out: index in the source, name, reason."""
        files = sorted(self.parts.glob(PARTS))
        return [entry for file in files for entry in read_records(file, rows=False).excluded]

    def changed(self) -> dict[str, int]:
        """How many images had to be changed to be shown, by what was done to them."""
        counts = (Counter(read_records(file, rows=False).changed) for file in self.parts.glob(PARTS))
        return dict(sorted(sum(counts, Counter()).items()))

    def sums(self) -> Sums:
        """The integer sums of all parts together."""
        parts = (read_records(file, rows=False).sums for file in sorted(self.parts.glob(PARTS)))
        return functools.reduce(added, parts, {})

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

"""What a part of a run holds: rows, the images that are left out, and integer sums that add up over parts; one file each (no JAX here)."""

import base64
import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from case_jax._checks import CaseJaxError
from case_jax.files import write_atomically

DAMAGE = (
    *(pa.ArrowInvalid, OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What reading a file may raise that is not as it was written."""
EXCLUDED, TILES, SUMS, CHANGED, COLUMNS = (
    f"case_jax.{name}".encode() for name in ("excluded", "tiles", "sums", "changed", "columns")
)

Sums = Mapping[str, np.ndarray]
"""Integers of a data set as a whole, by name: equal whatever the order in which images, parts and processes are added."""


class Records(NamedTuple):
    """What has been found on some tiles."""

    tiles: int
    rows: pa.Table | None
    excluded: list[dict[str, Any]]
    """Images that are left out: index in the source, name, reason."""
    sums: Sums
    changed: Mapping[str, int] = {}
    """How many images had to be changed to be shown, by what was done to them, see `Example.changes`."""

    def plus(
        self,
        columns: Mapping[str, Any],
        excluded: Iterable[dict[str, Any]] = (),
        sums: Sums = {},  # noqa: B006
        changed: Mapping[str, int] = {},
    ) -> "Records":
        """With what has been found on the next tile."""
        rows = pa.table(dict(columns))
        rows = rows if self.rows is None else pa.concat_tables([self.rows, rows])
        counts = dict(Counter(self.changed) + Counter(changed))
        return Records(self.tiles + 1, rows, [*self.excluded, *excluded], added(self.sums, sums), counts)


NOTHING = Records(0, None, [], {})


def added(first: Sums, second: Sums) -> dict[str, np.ndarray]:
    """Sums over both; a name that one of them lacks counts as zero there."""
    return {
        name: first[name] + second[name] if name in first and name in second else {**first, **second}[name]
        for name in {**first, **second}
    }


def write_records(file: Path, records: Records) -> None:
    """Write rows, exclusions and sums in one atomic step.

    Raises:
        CaseJaxError: when the file cannot be written (a full disk, say); what is there stays.
    """
    assert records.rows is not None, "a tile has columns, if no rows"
    facts = {EXCLUDED: json.dumps(records.excluded).encode(), TILES: str(records.tiles).encode()}
    facts[COLUMNS] = _columns(records.rows.schema)
    if records.sums:
        facts[SUMS] = base64.b64encode(_packed(records.sums))
    if records.changed:
        facts[CHANGED] = json.dumps(records.changed).encode()
    buffer = pa.BufferOutputStream()
    pq.write_table(records.rows.replace_schema_metadata(facts), buffer, write_page_checksum=True)
    try:
        write_atomically(file, buffer.getvalue().to_pybytes())
    except OSError as error:
        raise CaseJaxError(
            f"out: cannot write {file} ({error}). All parts before it are kept: make room and run the same command again."
        ) from error


def read_records(file: Path, *, rows: bool = True) -> Records:
    """Read a part; without its `rows` exclusions and sums alone, which takes no time.

    Raises:
        CaseJaxError: for a file that is damaged.
    """
    try:
        table = pq.read_table(file, page_checksum_verification=True) if rows else None
        schema = pq.read_schema(file) if table is None else table.schema
        facts = schema.metadata or {}
        if facts.get(COLUMNS, _columns(schema)) != _columns(schema):
            raise ValueError("its columns are not those that were written")
        sums = _unpacked(base64.b64decode(facts[SUMS])) if SUMS in facts else {}
        excluded = json.loads(facts.get(EXCLUDED, b"[]"))
        kept = None if table is None else table.replace_schema_metadata()
        return Records(int(facts.get(TILES, b"0")), kept, excluded, sums, json.loads(facts.get(CHANGED, b"{}")))
    except DAMAGE as error:
        raise CaseJaxError(f"out: {file} is damaged ({error}); delete it and run the same command again.") from error


def _columns(schema: pa.Schema) -> bytes:
    """A checksum of the names and types of columns: those of pages do not cover them."""
    return str(zlib.crc32(repr([(field.name, str(field.type)) for field in schema]).encode())).encode()


def _packed(sums: Sums) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value, np.int64) for name, value in sums.items()}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data)) as stored:
        return {name: stored[name] for name in stored.files}

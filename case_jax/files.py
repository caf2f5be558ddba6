"""Files that are whole or not there, and folders that can be written (no JAX here)."""

import json
import os
from pathlib import Path
from typing import Any

from case_jax._checks import CaseJaxError


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

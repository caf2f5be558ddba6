"""Run folders opened by all processes of a run: who writes, what is missing, and on what it was computed."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from case_jax import parallel
from case_jax._checks import require
from case_jax.records import NOTHING, Records
from case_jax.results import RunFolder

PACKAGES = (
    "case-jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "pillow",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def session() -> dict[str, Any]:
    """When, how and on what a run was started."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "devices": parallel.device_names(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


@contextlib.contextmanager
def opened(folder: RunFolder, config: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """A run folder in all processes of a run, locked by the first; yields the number of this process and how many there are.

    Raises:
        CaseJaxError: when the folder cannot be written, is in use, holds another run, or is not seen by every process.
    """
    number, count = parallel.process()
    with folder.locked() if number == 0 else contextlib.nullcontext():
        if number == 0:
            folder.open(config, session())
        parallel.meet("the run folder is open")
        if number > 0:
            require(
                (folder.path / "config.json").exists(),
                "out",
                f"{folder.path}, which process {number} sees without the run that process 0 has opened there",
                "a folder that all processes share, or the run's parts copied into one folder afterwards",
            )
            folder.require_same(config)
        yield number, count


@contextlib.contextmanager
def share(folder: RunFolder, config: Mapping[str, Any], parts: range) -> Iterator[tuple[int, dict[int, Records]]]:
    """`opened`, with this process's number and its share of the parts that are missing, each with what has been kept of it."""
    with opened(folder, config) as (number, count):
        done, begun = folder.done(), folder.begun()
        parallel.meet("all have seen what is done")
        missing = [part for part in parts if part not in done]
        yield number, {part: begun.get(part, NOTHING) for part in missing[number::count]}

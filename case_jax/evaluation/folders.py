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

from case_jax import __version__, parallel
from case_jax.records import NOTHING, Records
from case_jax.results import RunFolder
from case_jax.shared_folder import opened

PACKAGES = (
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
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "case-jax": __version__, **found}


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
def share(folder: RunFolder, config: Mapping[str, Any], parts: range) -> Iterator[tuple[int, dict[int, Records]]]:
    """`opened`, with this process's number and its share of the parts that are missing, each with what has been kept of it."""
    with opened(folder, config, session()) as (number, count):
        done, begun = folder.done(), folder.begun()
        parallel.meet("all have seen what is done")
        missing = [part for part in parts if part not in done]
        yield number, {part: begun.get(part, NOTHING) for part in missing[number::count]}

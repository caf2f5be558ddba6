"""What every benchmark's JSON says of itself, and how it is written."""

import datetime
import json
import platform
from pathlib import Path
from typing import Any

from case_jax import parallel
from case_jax.evaluation.folders import versions


def today() -> str:
    """The date, as results carry it."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def circumstances(*, devices: bool = True, peers: dict[str, str] | None = None) -> dict[str, Any]:
    """Date, machine, devices and versions; `devices` False for benchmarks that leave the devices to other processes."""
    return {
        "date": today(),
        "machine": f"{platform.machine()}, {platform.system()}",
        **({"devices": parallel.device_names()} if devices else {}),
        "versions": versions() | (peers or {}),
    }


def recorded(result: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """The result, written as JSON where a file is asked for."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    return result

"""An evaluation: methods × metrics over a data set into a run folder that survives being killed."""

import contextlib
import datetime
import importlib.metadata
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require
from case_jax.contrast.choice import require_counted
from case_jax.evaluation.planning import Plan
from case_jax.evaluation.stream import Pace, Tile, template, through_devices, tiles
from case_jax.results import NOTHING, Begun, RunFolder, write_json
from case_jax.stopping import Stopping

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

LOG = logging.getLogger(__name__)


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
def share(folder: RunFolder, config: Mapping[str, Any], parts: range) -> Iterator[tuple[int, dict[int, Begun]]]:
    """`opened`, with this process's number and its share of the parts that are missing, each with what has been kept of it."""
    with opened(folder, config) as (number, count):
        done, begun = folder.done(), folder.begun()
        parallel.meet("all have seen what is done")
        missing = [part for part in parts if part not in done]
        yield number, {part: begun.get(part, NOTHING) for part in missing[number::count]}


def evaluate(planned: Plan, folder: RunFolder, *, progress: bool | None = None) -> RunFolder:
    """Run an evaluation into a folder, or resume it there; the rows do not depend on when it was interrupted.

    Of several processes (`parallel.join`) each takes its share of the parts; the first returns when all parts are there. SIGTERM and
    Ctrl-C end the run after the batch in hand, which is kept.

    Args:
        planned: from `plan`; in every process the same.
        folder: the run folder; new, empty, or holding this very run; where all processes see it.
        progress: show a bar with rate and time left; None shows it in a terminal.

    Returns:
        The run folder; in the first process complete: one row per readable image and method.

    Raises:
        CaseJaxError: when the folder cannot be written, holds another run or damaged parts, or is in use, or when the plan has but
            stand-ins for its contrast sets.
    """
    require_counted(planned.contrast)
    parts = range(-(-len(planned.indices) // planned.part))
    with share(folder, planned.config, parts) as (number, mine):
        if number == 0:
            write_json(folder.path / "contrast.json", _contrast_facts(planned))
        if mine:
            pace = _run_parts(planned, folder, mine, progress)
            LOG.info("evaluate: %s", pace)
            folder.log("pace", {"process": number, **pace.rates()})
        if number == 0:
            folder.wait_for(parts)
    return folder


def _run_parts(planned: Plan, folder: RunFolder, begun: dict[int, Begun], progress: bool | None) -> Pace:
    """Evaluate what these parts lack; a part is written as soon as its last tile is there."""
    tile, per_part = planned.tile, planned.part // planned.tile
    total = -(-len(planned.indices) // tile)
    ends = {part: min((part + 1) * per_part, total) for part in begun}
    numbers = [t for part, kept in begun.items() for t in range(part * per_part + kept.tiles, ends[part])]
    sizes = {t: min(tile, len(planned.indices) - t * tile) for t in numbers}
    all_mine = sum(min((part + 1) * planned.part, len(planned.indices)) - part * planned.part for part in begun)
    writing = threading.Lock()

    def keep() -> str:
        with writing:
            kept = {part: rows for part, rows in begun.items() if rows.tiles}
            for part, rows in kept.items():
                folder.write_begun(part, rows)
        return "all that was computed is kept, and the same command resumes"

    empty, pace = template(planned.source, planned.indices, tile), Pace()
    stream = tiles(planned.source, planned.indices, numbers, empty, ahead=2 * parallel.device_count(), pace=pace)
    hidden = None if progress is None else not progress
    bar = tqdm(total=all_mine, initial=all_mine - sum(sizes.values()), unit=" images", desc="evaluate", disable=hidden)
    with bar, Stopping(keep) as stopping:
        found = through_devices(planned.step, planned.model.params, stopping.until(stream), pace=pace)
        for read, columns in found:
            part = read.number // per_part
            with writing:
                begun[part] = begun[part].plus(_rows(read, columns, list(planned.protocol.methods)), read.excluded)
                if part * per_part + begun[part].tiles == ends[part]:
                    folder.write_part(part, begun.pop(part))
            bar.update(sizes[read.number])
    return pace


def _contrast_facts(planned: Plan) -> dict[str, Any]:
    choice, names = planned.contrast, planned.class_names
    counted = choice.counted
    return {
        "name": choice.name,
        "source": choice.source,
        "class_names": list(names) if names else None,
        "table": None if choice.table is None else np.asarray(choice.table).tolist(),
        "filled": None if choice.filled is None else np.asarray(choice.filled).tolist(),
        "images": None if counted is None else counted.counts.sum(1).tolist(),
        "unlabelled": None if counted is None else counted.unlabelled,
        "left_out": None if counted is None else list(counted.left_out),
    }


def _rows(tile: Tile, columns: Mapping[str, np.ndarray], methods: list[str]) -> dict[str, np.ndarray]:
    """One row per image and method, as columns."""
    slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
    examples = [example for example in tile.examples if example is not None]
    count = len(methods)

    def repeated(values: Sequence[Any], dtype: Any) -> np.ndarray:
        return np.repeat(np.asarray(values, dtype), count)

    rows: dict[str, np.ndarray] = {
        "image_id": repeated([e.image_id for e in examples], np.int64),
        "name": repeated([e.name for e in examples], str),
        "label": repeated([e.label for e in examples], np.int32),
        "method": np.tile(np.asarray(methods, str), len(slots)),
    }
    for name, values in columns.items():
        kept = values[slots]
        rows[name] = kept.ravel() if kept.ndim == 2 else np.repeat(kept, count)
    return rows

"""The sections, their order and their budgets, and the JSON that they fill."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from case_jax import parallel
from case_jax._checks import unknown
from case_jax.results import write_json
from experiments.benchmarks.accelerator import (
    class_maps,
    evaluation,
    exactness,
    masker,
    pairs,
    precision,
    timetable,
    torch_maps,
)
from experiments.benchmarks.accelerator.tables import markdown
from experiments.benchmarks.accelerator.timetable import Section
from experiments.benchmarks.accelerator.torch_side import obstacle
from experiments.benchmarks.record import circumstances, today

RESULTS = Path(__file__).parents[1] / "results"
PEERS = ("torch", "torchvision", "grad-cam", "captum")
FLAGS = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "XLA_PYTHON_CLIENT_PREALLOCATE")

SECTIONS = (
    Section("a", "Are the numbers right here?", 70, exactness.jobs),
    Section("b", "Maps of all 1,000 classes against the forward pass", 140, class_maps.jobs),
    Section("c", "A whole evaluation from the cache of crops", 65, evaluation.jobs),
    Section("d", "The same maps through PyTorch on the same chip", 60, torch_maps.jobs, obstacle),
    Section("e", "A masker's training step beside PyTorch's", 45, masker.jobs, obstacle),
    Section("f", "Pairs of classes", 40, pairs.jobs),
    Section("g", "What float32 costs", 30, precision.jobs),
)
"""Budgets add up to 450 seconds; the rest of the limit is for the start."""


def measure(*, only: Sequence[str] | None = None, quick: bool = False, out: Path | None = None) -> int:
    """Run the sections into a JSON file that is whole at any moment; 1 when a job failed.

    Raises:
        CaseJaxError: for a section that does not exist, before anything is run.
    """
    known = {section.letter: section for section in SECTIONS}
    for letter in only or ():
        if letter not in known:
            raise unknown("only", letter, known)
    chosen = [section for section in SECTIONS if only is None or section.letter in only]
    peers = {name: version for name in PEERS if (version := _version(name)) is not None}
    kind = jax.local_devices()[0].device_kind.lower().replace(" ", "-")
    out = out or RESULTS / f"accelerator-{kind}-{today()}.json"
    result: dict[str, Any] = {
        **circumstances(peers=peers),
        "cores": os.cpu_count(),
        "memory_gb": (parallel.device_memory() or 0) / 1e9 or None,
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "compilation_cache": jax.config.jax_compilation_cache_dir is not None,  # type: ignore[attr-defined]
        "quick": quick,
        "sections": timetable.not_begun(chosen),
    }
    out.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        write_json(out, result)

    keep()
    with jax.default_matmul_precision("highest"):
        fine = timetable.run(chosen, result["sections"], keep, quick=quick)
    print(f"\n{markdown(result)}\n{out}")
    return 0 if fine else 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

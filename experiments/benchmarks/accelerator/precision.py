"""What float32 costs against tf32 and bf16, and what those change in the maps."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from case_jax.tap.precision import PRECISIONS
from experiments.benchmarks.accelerator import evaluation
from experiments.benchmarks.accelerator.class_maps import QUICK, RESNET, Case, programs
from experiments.benchmarks.accelerator.timetable import Job
from experiments.benchmarks.resident import resident_step
from experiments.benchmarks.timing import interleaved
from experiments.parity.precision import changed_pixels

REPEATS, SECONDS = 7, 3.0


def jobs(quick: bool) -> Iterator[Job]:
    """The forward pass and the maps, whose programs are there already; then the step of an evaluation."""
    cases, size = (QUICK, evaluation.QUICK) if quick else (RESNET, evaluation.FULL)
    yield Job("forward pass", partial(program, cases, "forward"))
    yield Job("all-class CASE", partial(program, cases, "case"))
    yield Job(f"step of {len(evaluation.GRADIENT_CAMS)} methods, sensitivity", partial(step, size))
    yield Job("pixels of the likeliest class's CASE map", partial(changes, cases))


def _ratios(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    took = interleaved(dict(functions), REPEATS, seconds=SECONDS)
    row = {f"{name}_ms": 1e3 * seconds for name, seconds in took.items()}
    return row | {f"float32_over_{name}": took["float32"] / took[name] for name in took if name != "float32"}


def program(cases: tuple[Case, ...], name: str) -> dict[str, float]:
    """One of a case's programs at each precision, in turns."""
    return _ratios({case.precision: programs(case).calls[name] for case in cases})


def step(size: evaluation.Size) -> dict[str, float]:
    """The whole step, of which the classifier alone has fewer bits."""
    return _ratios({p: resident_step(evaluation.planned(size, evaluation.SENSITIVITY, p)) for p in PRECISIONS})


def changes(cases: tuple[Case, ...]) -> dict[str, float]:
    """Share of the top 5% pixels that are others than in float32, over the batch: mean and largest."""
    made = {case.precision: programs(case).calls for case in cases}
    likeliest = jnp.argmax(made["float32"]["forward"](), -1)
    maps = {name: calls["case"]()[jnp.arange(len(likeliest)), likeliest] for name, calls in made.items()}
    row: dict[str, float] = {}
    for name in PRECISIONS:
        if name != "float32":
            other = changed_pixels(maps["float32"], maps[name], (cases[0].side,) * 2)
            row |= {f"{name}_changed": float(other.mean()), f"{name}_at_most": float(other.max())}
    return row

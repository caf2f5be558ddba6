"""What an evaluation costs, before it is run: operations, memory, and the time it will take on more chips."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr

from case_jax import parallel
from case_jax.evaluation.batches import LOADERS, Pace, Tile, tiles
from case_jax.evaluation.engine import Job
from case_jax.evaluation.memory import temporary_bytes
from case_jax.evaluation.studies.pair_counts import empty_counts
from case_jax.evaluation.studies.pairs import PairsJob
from case_jax.evaluation.through import through_devices
from case_jax.imageops import normalise_image
from case_jax.tap.split import inner_jaxprs

CHIPS = (1, 4, 8, 32, 64, 256)
CHIPS_PER_HOST = 4


def flops(jaxpr: Jaxpr) -> float:
    """Floating-point operations of the convolutions and matrix products of a traced program: 2 for each multiplication.

    Loops of known length count as often as they run, others (no method has a product in one) once; multiplications by the zeros
    that a strided convolution's gradient inserts are left out.
    """
    return sum(_flops(eqn) for eqn in jaxpr.eqns)


def _flops(eqn: Any) -> float:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        each = math.prod(kernel) / features / math.prod(eqn.params["lhs_dilation"])
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * each
    inner = [flops(jaxpr) for jaxpr, _ in inner_jaxprs(eqn)]
    if eqn.primitive.name == "cond":
        return max(inner)
    return sum(inner) * eqn.params.get("length", 1) if eqn.primitive.name == "scan" else sum(inner)


class Cost(NamedTuple):
    """What one image costs, measured on the first tiles here."""

    images: int
    tile: int
    forward_flops: float
    """Of one forward pass of one image."""
    step_flops: float
    """Of all methods and metrics, for one image."""
    image_bytes: int
    """Sent to a device for one image."""
    step_bytes: int | None
    """Temporary memory of a step on one device; None where the compiler does not say."""
    compile_seconds: float
    device_rate: float
    """Images a second of one device."""
    host_rate: float
    """Images a second that this host's threads read."""

    def forward_passes(self) -> float:
        """How many forward passes the work on one image equals, by operations."""
        return self.step_flops / self.forward_flops

    def seconds(self, chips: int, hosts: int) -> tuple[float, str]:
        """Predicted duration on chips and hosts like this one, and what bounds it.

        `compile + ceil(images / (chips · tile)) · tile / min(device rate, hosts · host rate / chips)`: devices work in steps of one tile
        each, in which the last ones may be empty; each host reads its own share.
        """
        reading = hosts * self.host_rate / chips
        steps = math.ceil(self.images / (chips * self.tile))
        bound = "reading" if reading < self.device_rate else "devices"
        if steps == 1:
            bound = "one step holds all images"
        return self.compile_seconds + steps * self.tile / min(self.device_rate, reading), bound

    def table(self) -> list[tuple[Any, ...]]:
        """Rows of chips, hosts, predicted seconds, what bounds them."""
        return [(n, hosts := math.ceil(n / CHIPS_PER_HOST), *self.seconds(n, hosts)) for n in CHIPS]


class _Costs(NamedTuple):
    """What differs between studies: how their step is compiled, counted and run."""

    temporary: Callable[[], int | None]
    """Compiles the step; bytes on one device."""
    flops: Callable[[], float]
    """Of one step on one device."""
    run: Callable[[Sequence[Tile]], None]
    """One step of all devices on these tiles, one each."""


def measure(job: Job, *, steps: int = 3) -> Cost:
    """Compile a study's functions, run it a few times on the first images, and read those as a run would.

    Args:
        job: from `prepare`.
        steps: how many steps to time; the median counts.
    """
    calls = [(function, arguments(job.empty)) for function, arguments, _ in job.program.compiled]

    def of_step() -> float:
        traced = [jax.make_jaxpr(f)(*parallel.stand_ins(a)) for f, a in calls]
        times = [times for *_, times in job.program.compiled]
        return sum(n * flops(t.jaxpr) for n, t in zip(times, traced, strict=True))

    def run(tiles: Sequence[Tile]) -> None:
        for _ in job.program.found(iter(tiles), through_devices):
            pass

    return _measured(job, parallel.device_count(), _Costs(lambda: temporary_bytes(calls), of_step, run), steps)


def measure_pairs(job: PairsJob, *, steps: int = 3) -> Cost:
    """As `measure`, for a count of pairs."""
    grid, shapes = job.grid, empty_counts(*job.shape, job.grid.columns)
    params = grid.replicate(job.model.params)

    def arguments(batches: Sequence[Any]) -> tuple[Any, ...]:
        return grid.zeros(shapes), params, grid.shard(jax.tree.map(lambda *a: np.stack(a), *batches))

    def temporary() -> int | None:
        facts = job.step.lower(*arguments([job.empty] * grid.rows)).compile().memory_analysis()  # type: ignore[attr-defined]
        return None if facts is None else int(facts.temp_size_in_bytes)

    def of_step() -> float:
        return flops(jax.make_jaxpr(job.step)(*arguments([job.empty] * grid.rows)).jaxpr)

    def run(tiles: Sequence[Tile]) -> None:
        jax.block_until_ready(job.step(*arguments([tile.batch for tile in tiles])))

    return _measured(job, grid.rows, _Costs(temporary, of_step, run), steps)


def _measured(job: Job | PairsJob, at_once: int, costs: _Costs, steps: int) -> Cost:
    pace, (source, indices, first) = Pace(), job.images
    tile = len(job.empty.image_ids)
    numbers = range(min(at_once * steps, -(-len(indices) // tile)))
    read = list(tiles(source, indices, numbers, job.empty, ahead=2 * at_once, pace=pace))
    start = time.perf_counter()
    temporary = costs.temporary()
    costs.run([read[place % len(read)] for place in range(at_once)])
    compiled, took = time.perf_counter() - start, []
    for number in range(steps):
        group = [read[(number * at_once + place) % len(read)] for place in range(at_once)]
        start = time.perf_counter()
        costs.run(group)
        took.append(time.perf_counter() - start)
    one = jax.eval_shape(lambda x: normalise_image(x, *job.subject.pixels), first.image)
    forward = jax.make_jaxpr(job.model.apply)(job.model.params, one)
    return Cost(
        images=len(indices),
        tile=tile,
        forward_flops=flops(forward.jaxpr),
        step_flops=costs.flops() / tile,
        image_bytes=sum(a.nbytes for a in job.empty) // tile,
        step_bytes=temporary,
        compile_seconds=compiled,
        device_rate=tile / float(np.median(took)),
        host_rate=pace.images * LOADERS / pace.reading,
    )


def described(cost: Cost, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plan in words: name and value of each line."""
    files = f", {math.ceil(cost.images / facts['part']):,} result files" if "part" in facts else ""
    memory = "not known" if cost.step_bytes is None else f"{cost.step_bytes / 1e6:,.0f} MB"
    return [
        (
            "images",
            f"{cost.images:,} in {math.ceil(cost.images / cost.tile):,} tiles of {cost.tile}{files}",
        ),
        ("forward pass", f"{cost.forward_flops / 1e9:,.3g} GFLOP an image"),
        (
            "methods and metrics",
            f"{cost.step_flops / 1e9:,.3g} GFLOP an image, as much as {cost.forward_passes():,.1f} forward passes",
        ),
        (
            "in all",
            f"{cost.images * cost.step_flops / 1e15:,.3g} PFLOP, {cost.images * cost.forward_passes():,.0f} forward passes' worth",
        ),
        (
            "to the devices",
            f"{cost.images * cost.image_bytes / 1e9:,.3g} GB, {cost.image_bytes / 1e3:,.0f} kB an image",
        ),
        ("temporary memory of a step", memory),
        (
            "compilations",
            f"1, which took {cost.compile_seconds:,.0f} s here (once per machine where a compilation cache is kept)",
        ),
        ("one device here", f"{cost.device_rate:,.3g} images/s (median of the first steps)"),
        ("reading here", f"{cost.host_rate:,.3g} images/s with {LOADERS} threads"),
    ]


def counting(cost: Cost, images: int) -> str:
    """What counting confusions on so many images costs, in words: one forward pass each."""
    equal = images / cost.forward_passes()
    return (
        f"{images:,} forward passes, {images * cost.forward_flops / 1e15:,.3g} PFLOP, as much as {equal:,.0f} images of the run; "
        f"about {equal / cost.device_rate:,.0f} s on one device here, by its operations"
    )

"""What it costs to count the pixels that pairs of classes share: of the 20 likeliest classes, and of all."""

import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import parallel
from case_jax.evaluation.studies.pairs import MEMORY
from case_jax.imageops import normalise_image
from experiments.benchmarks.accelerator.class_maps import tapped
from experiments.benchmarks.accelerator.timetable import Job
from experiments.benchmarks.counting_step import PIXELS, compiled_step
from experiments.benchmarks.timing import interleaved, temporary_bytes

VALIDATION_SET = 50_000
REPEATS, SECONDS = 7, 4.0


class Size(NamedTuple):
    """Of a step."""

    model: str
    side: int
    tile: int


FULL, QUICK = Size("resnet50", 224, 32), Size("digit_resnet", 48, 1)


def jobs(quick: bool) -> Iterator[Job]:
    """All pairs of one method and the likeliest's, then of the other, then both methods together."""
    size, one, other = QUICK if quick else FULL, ("case",), ("grad_cam",)
    asked: list[tuple[tuple[str, ...], int | None]] = [(one, None), (one, 20), (other, None), (other, 20)]
    asked += [(one + other, None), (one + other, 20)]
    for methods, top in asked[: 2 if quick else None]:
        classes = "all classes" if top is None else f"the {top} likeliest"
        yield Job(f"{' and '.join(methods)}, pairs of {classes}", partial(measure, size, methods, top))


@cache
def _images(size: Size) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size.tile, size.side, size.side, 3), np.uint8)


@cache
def _forward(size: Size) -> Any:
    model = tapped(size.model, size.side)
    images = jnp.stack([normalise_image(jnp.asarray(image), *PIXELS) for image in _images(size)])
    return partial(
        jax.jit(jax.vmap(model.apply, (None, 0))).lower(model.params, images).compile(), model.params, images
    )


def measure(size: Size, methods: tuple[str, ...], top: int | None) -> dict[str, Any]:
    """Images a second, against the plain forward pass, and how long a validation set would take."""
    model = tapped(size.model, size.side)
    limit = parallel.device_memory()
    memory = MEMORY if limit is None else max(MEMORY, limit // 8)
    start = time.perf_counter()
    step, arguments = compiled_step(model, methods, _images(size), top=top or model.num_classes, memory=memory)
    compiled = time.perf_counter() - start
    took = interleaved({"forward": _forward(size), "step": partial(step, *arguments)}, REPEATS, seconds=SECONDS)
    rate = size.tile / took["step"]
    return {
        "images_per_s": rate,
        "over_forward": took["step"] / took["forward"],
        "minutes_for_50000": VALIDATION_SET / rate / 60,
        "temporary_gb": temporary_bytes(step) / 1e9,
        "memory_given_gb": memory / 1e9,
        "compile_s": compiled,
    }

"""A whole evaluation of the gradient CAMs, read from a cache of crops: its rate, and how much of the time the devices work."""

import math
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from case_jax import parallel
from case_jax.contrast.choice import choose_contrast
from case_jax.data import CachedCrops
from case_jax.evaluation import Evaluate, Subject, engine, prepare, run
from case_jax.evaluation.batches import LOADERS
from case_jax.results import RunFolder
from case_jax.source import Example
from case_jax.tap.precision import at_precision
from experiments.benchmarks.accelerator.class_maps import tapped
from experiments.benchmarks.accelerator.timetable import Job
from experiments.benchmarks.counting_step import PIXELS
from experiments.benchmarks.resident import resident_step
from experiments.benchmarks.timing import interleaved

GRADIENT_CAMS = (
    "grad_cam", "hires_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "case", "case_span", "finer_cam", "softmax_contrast",
)  # fmt: skip
SENSITIVITY, BOTH = ("sensitivity",), ("sensitivity", "fidelity")
VALIDATION_SET = 50_000
SECONDS = 15.0
"""Of one evaluation; fewer images where all would take longer."""


class Size(NamedTuple):
    """Of an evaluation."""

    model: str
    images: int
    side: int
    tile: int


FULL, QUICK = Size("resnet50", 4096, 224, 64), Size("digit_resnet", 4, 48, 2)


class MadeUpCrops:
    """Noise with ids."""

    class_names = None

    def __init__(self, images: int, side: int):
        self.images, self.side = images, side
        self.name, self.fingerprint = "made-up crops", f"{images} of {side}"

    def __len__(self) -> int:
        """Number of images."""
        return self.images

    def __getitem__(self, index: int) -> Example:
        """Image `index`."""
        pixels = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), np.uint8)
        return Example(index, f"crop {index}", pixels, -1)


def jobs(quick: bool) -> Iterator[Job]:
    """The sensitivity test, then with the fidelity test; then with fewer bits."""
    size = QUICK if quick else FULL
    asked = [(SENSITIVITY, "float32"), (BOTH, "float32"), (SENSITIVITY, "bf16"), (BOTH, "bf16")]
    for metrics, precision in asked[: 2 if quick else None]:
        yield Job(f"{' and '.join(metrics)}, {precision}", partial(measure, size, metrics, precision))


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="case_jax-crops-")


@cache
def cached_crops(size: Size) -> CachedCrops:
    """The crops, all in the cache."""
    source = CachedCrops(MadeUpCrops(size.images, size.side), _folder().name)
    with ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(lambda i: source[i].image_id, range(len(source))))
    return source


@cache
def planned(size: Size, metrics: tuple[str, ...], precision: str) -> engine.Job:
    """The evaluation, its step not compiled yet; kept for whoever asks again."""
    model = at_precision(tapped(size.model, size.side), precision)
    contrast = choose_contrast("topk_logits:5", model.num_classes)
    subject = Subject(cached_crops(size), model, contrast, PIXELS, GRADIENT_CAMS, model_name=size.model)
    return prepare(Evaluate(metrics), subject, tile=size.tile, part=8 * size.tile)


def measure(size: Size, metrics: tuple[str, ...], precision: str) -> dict[str, Any]:
    """Compile, time the step on images that are on the devices, then run the evaluation."""
    whole = planned(size, metrics, precision)
    step = resident_step(whole)
    start = time.perf_counter()
    jax.block_until_ready(step())
    compiled = time.perf_counter() - start
    alone = interleaved({"step": step}, 5, seconds=SECONDS / 3)["step"]
    at_once = size.tile * parallel.device_count()
    steps = min(math.ceil(size.images / at_once), max(2, int(SECONDS / alone)))
    some = whole._replace(images=whole.images._replace(indices=whole.images.indices[: steps * at_once]))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run(some, RunFolder(Path(folder) / "run"), progress=False)
    took = time.perf_counter() - start
    rate = len(some.images.indices) / took
    return {
        "methods": len(GRADIENT_CAMS),
        "images": len(some.images.indices),
        "images_per_s": rate,
        "step_alone_images_per_s": at_once / alone,
        "devices_at_work": steps * alone / took,
        "minutes_for_50000": VALIDATION_SET / rate / 60,
        "compile_s": compiled,
    }

"""A masker's training step beside the same step in plain PyTorch on the same chip."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from case_jax.training import Batch
from experiments.benchmarks.accelerator.timetable import Job
from experiments.benchmarks.accelerator.torch_side import products_in
from experiments.benchmarks.masker_steps import Mode, both_steps
from experiments.benchmarks.timing import interleaved
from experiments.benchmarks.torch_peers import torch_pair

REPEATS, SECONDS = 7, 6.0
JAX_NAMES = {"float32": "highest", "tf32": "tensorfloat32"}


class Size(NamedTuple):
    """Of a step."""

    model: str
    side: int
    batch: int


FULL, QUICK = Size("resnet50", 224, 72), Size("resnet18", 64, 2)


def jobs(quick: bool) -> Iterator[Job]:
    """A fixed classifier, then one that learns alongside; float32, then tf32."""
    size = QUICK if quick else FULL
    modes: tuple[Mode, ...] = ("fixed", "alongside")
    for precision in JAX_NAMES:
        for mode in modes:
            name = f"{size.model}, {size.batch} images, classifier {mode}, {precision}"
            yield Job(name, partial(measure, size, mode, precision))


def measure(size: Size, mode: Mode, precision: str) -> dict[str, Any]:
    """Milliseconds an image of both, their ratio, and both losses at the first step."""
    network, classifier = torch_pair(size.model)  # fresh ones: they learn
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classifier.class_names), size.batch).astype(np.int32)
    images = rng.integers(0, 256, (size.batch, size.side, size.side, 3), np.uint8)
    batch = Batch(images, labels, np.eye(len(classifier.class_names), dtype=np.float32)[labels])
    read = {"3": network.layer3, "4": network.layer4}
    with products_in(precision), jax.default_matmul_precision(JAX_NAMES[precision]):
        steps = both_steps(classifier, network, read, batch, mode)
        took = interleaved({"ours": steps.ours, "pytorch": steps.theirs}, REPEATS, seconds=SECONDS)
    return {
        "pytorch_ms_per_image": 1e3 * took["pytorch"] / size.batch,
        "ours_ms_per_image": 1e3 * took["ours"] / size.batch,
        "times_faster": took["pytorch"] / took["ours"],
        "first_loss_pytorch": steps.first_loss_theirs,
        "first_loss_ours": steps.first_loss_ours,
    }

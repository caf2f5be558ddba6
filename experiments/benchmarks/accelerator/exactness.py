"""Are the numbers right here? Known miscompilations, stored numbers of PyTorch in float32, and what fewer bits change."""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from case_jax import METHODS, canaries, confusion_sets
from case_jax.contrast import table
from case_jax.tap.precision import at_precision
from experiments.benchmarks.accelerator.timetable import Job
from experiments.parity.compare import Line
from experiments.parity.goldens import Network, network, read
from experiments.parity.maps import case_lines, maps_of, method_lines, model_lines
from experiments.parity.precision import changed_pixels, logits_of
from experiments.parity.scores import eval_lines, stored_maps

GOLDENS = Path(__file__).parents[3] / "tests" / "goldens"
NETWORKS = ("resnet_bottleneck", "convnext", "densenet", "vgg_bn", "resnet_basic")
FEWER = ("tf32", "bf16")


def jobs(quick: bool) -> Iterator[Job]:
    """Canaries; every network in float32, the first one with fewer bits, too; then the rest."""
    first, *others = NETWORKS[-1:] if quick else NETWORKS
    yield Job("expressions computed wrong before", expressions)
    yield from _beside_pytorch(first)
    yield from _fewer_bits(first)
    for name in others:
        yield from _beside_pytorch(name)
    for name in others:
        yield from _fewer_bits(name)
    if not quick:
        yield from (Job(f"{name}, all methods and scores, float32", partial(all_methods, name)) for name in NETWORKS)


def _beside_pytorch(name: str) -> Iterator[Job]:
    yield Job(f"{name}, logits and class weights, float32", partial(model, name))
    yield Job(f"{name}, CASE, float32", partial(case, name))


def _fewer_bits(name: str) -> Iterator[Job]:
    yield from (Job(f"{name}, {precision} against float32", partial(changes, name, precision)) for precision in FEWER)


@cache
def _files() -> dict[str, dict[str, np.ndarray]]:
    return read(GOLDENS)


@cache
def _network(name: str) -> Network:
    return network(name, _files()[name])


def summary(lines: Iterable[Line]) -> dict[str, Any]:
    """How many quantities are within their bounds, the largest difference (relative), and what is not within."""
    judged = [line for line in lines if line.verdict in ("pass", "FAIL")]
    missed = [f"{line.quantity} ({line.relative:.1e})" for line in judged if line.verdict == "FAIL"]
    return {
        "pass": len(judged) - len(missed),
        "of": len(judged),
        "largest_difference": max(line.relative for line in judged),
        "missed": ", ".join(missed) or "none",
    }


def expressions() -> dict[str, Any]:
    """Small programs beside NumPy: which are wrong here, and the largest difference as a share of the largest value."""
    found = canaries.errors()
    wrong = [f"{words} ({error:.1e})" for words, error in canaries.wrong(found).items()]
    return {"expressions": len(found), "largest_difference": max(found.values()), "wrong": ", ".join(wrong) or "none"}


def model(name: str) -> dict[str, Any]:
    """Logits, activations, gradients and class weights beside PyTorch's stored ones."""
    return summary(model_lines(_network(name)))


def case(name: str) -> dict[str, Any]:
    """Contrast sets, weights and maps of CASE beside the stored ones."""
    return summary(case_lines(_network(name), _files()[f"{name}_case"]))


def all_methods(name: str) -> dict[str, Any]:
    """Every other stored map, score and confidence."""
    maps, stored = _files()[f"{name}_maps"], _files()[f"{name}_eval"]
    finished = stored_maps(stored["methods"].tolist(), maps, _files()[f"{name}_case"])
    return summary([*method_lines(_network(name), maps), *eval_lines(_network(name), stored, finished)])


class _Found(NamedTuple):
    """What a network makes of its images at one precision."""

    logits: np.ndarray
    maps: dict[str, jax.Array]


@cache
def _found(name: str, precision: str) -> _Found:
    network, counts = _network(name), _files()[f"{name}_case"]["conf_matrix"]
    images, classes = network.images(), len(counts)
    tapped = at_precision(network.tap(images[0]), precision)
    sets = table(confusion_sets(counts, min(3, classes - 1)).indices, classes)
    maps = {method: maps_of(network, METHODS[method].maps, contrast=sets)(tapped) for method in ("grad_cam", "case")}
    return _Found(logits_of(tapped, images), maps)


def changes(name: str, precision: str) -> dict[str, Any]:
    """With fewer bits against float32 here: logits, likeliest classes, and the share of top 5% pixels that are others."""
    exact, lower = _found(name, "float32"), _found(name, precision)
    row: dict[str, Any] = {
        "logits": float(np.abs(exact.logits - lower.logits).max() / np.abs(exact.logits).max()),
        "other_top1": int((exact.logits.argmax(1) != lower.logits.argmax(1)).sum()),
        "images": len(exact.logits),
    }
    for method, maps in exact.maps.items():
        other = changed_pixels(maps, lower.maps[method], _network(name).images().shape[1:3])
        row |= {f"{method}_pixels_changed": float(other.mean()), f"{method}_at_most": float(other.max())}
    return row

"""Sanity checks: does a map change when what the classifier has learnt is taken away, layer by layer or all at once?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, *Sanity Checks for Saliency Maps*, NeurIPS 2018 (arXiv 1810.03292).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require, require_seed
from case_jax.contrast.choice import ContrastChoice
from case_jax.evaluation.planning import configuration, require_fitting, settled
from case_jax.evaluation.run import share
from case_jax.evaluation.sanity_step import CASCADING, INDEPENDENT, LABELS, Change, changes, make_sanity_step
from case_jax.evaluation.step import Batch, Pixels, Protocol
from case_jax.evaluation.stream import Tile, first_readable, select, template, through_devices, tiles
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.metrics.similarity import SIMILARITIES
from case_jax.results import NOTHING, RunFolder, fingerprint
from case_jax.source import Source
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.tap.parameters import ParameterLayers, fitted, parameter_layers
from case_jax.tap.view import Params, TappedModel

TILE = 8
SMALLEST = 12
"""Pixels on a side, for three cells of gradient histograms."""


class Sanity(NamedTuple):
    """What the checks gave."""

    rows: pd.DataFrame
    """One row per image, change and method: `kind`, `step`, `layer`; `target`, the trained classifier's class that both maps
    are of; `top1`, the changed classifier's class; the similarities; `degenerate` and `degenerate_changed`, with either of which
    similarities are NaN."""
    layers: tuple[str, ...]
    """Nearest to the logits first."""
    excluded: list[dict[str, Any]]
    """Images that could not be read."""


class _Settings(NamedTuple):
    """See `sanity`."""

    kinds: Sequence[str]
    depth: int | None
    limit: int | None
    seed: int
    tile: int


class _Checks(NamedTuple):
    """Checks that can start."""

    source: Source
    model: TappedModel
    indices: np.ndarray
    empty: Batch
    methods: tuple[str, ...]
    layers: ParameterLayers
    changes: list[Change]
    step: Callable[[Any, Batch], Any]
    params: Any
    """The model's own parameters, those before training, and those of shuffled labels or none."""
    config: dict[str, Any]


def sanity(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    methods: Mapping[str, MapFunction],
    folder: RunFolder,
    *,
    pixels: Pixels,
    untrained: Params,
    shuffled: Params | None = None,
    kinds: Sequence[str] | None = None,
    depth: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    tile: int = TILE,
    model_name: str = "custom",
    stall: float | None = math.inf,
    progress: bool | None = None,
) -> Sanity:
    """Compare every method's map with the one that it gives when layers of the classifier are as before training.

    Both maps are of the class that the trained classifier predicts, with the same contrast set: the question stays, the classifier
    changes. Methods that draw random numbers draw new ones for every change, so that similarity which comes of equal draws is none;
    what they lose by that alone shows where nothing is changed. One compiled program makes the maps of all changes, those of
    the trained classifier too. Runs in a folder, as `evaluate`: killed anywhere, the same call resumes.

    Args:
        source: the images; labels are not needed.
        model: the classifier, tapped.
        contrast: contrast sets of the contrastive methods, or a function that finds them, called when the rest has been checked.
        methods: map functions by name.
        folder: where the rows are kept, a part per tile.
        pixels: how pixels are normalised.
        untrained: the parameters that layers are changed to, of the same network: `models.initial.initial_params`, any newly
            initialised ones, or `tap.parameters.permuted` of the trained ones.
        shuffled: parameters of the same network, trained on shuffled labels.
        kinds: names in `KINDS`; by default `cascading` and `independent`, and `labels` where there are `shuffled` parameters.
        depth: what counts as a layer, see `parameter_layers`.
        limit: number of images, drawn by the seed; None takes all.
        seed: for the drawing of images and random methods.
        tile: images per device and step.
        model_name: how the folder names the classifier.
        stall: minutes in which no batch finishes after which the process keeps what it can, says what it waits for and ends; None takes a
            multiple of what batches took, see `case_jax.stall`; inf waits for ever.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The rows; in the first of several processes those of all images.

    Raises:
        CaseJaxError: for unknown kinds, `labels` without `shuffled` or these without it, parameters of another network, images with a side
            below 12 pixels, or a folder that holds another run.
    """
    require_stall(stall)
    named = kinds or (CASCADING, INDEPENDENT, *([LABELS] if shuffled is not None else []))
    settings = _Settings(named, depth, limit, seed, tile)
    checks = _checked(source, model, contrast, methods, pixels, untrained, shuffled, settings)
    checks.config["model"]["name"] = model_name
    total = range(-(-len(checks.indices) // tile))
    with share(folder, checks.config, total) as (number, mine):
        if mine:
            _run(checks, folder, list(mine), stall, progress)
        if number == 0:
            folder.wait_for(total)
    return Sanity(folder.rows(), checks.layers.names, folder.excluded())


def _checked(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    methods: Mapping[str, MapFunction],
    pixels: Pixels,
    untrained: Params,
    shuffled: Params | None,
    settings: _Settings,
) -> _Checks:
    """Everything looked at before any long work."""
    kinds, depth, limit, seed, tile = settings
    require(methods, "methods", "none", "at least one map function by name")
    require_seed(seed)
    require_fitting(source, model, pixels)
    layers = parameter_layers(model, depth=depth)
    listed = changes(layers, kinds)
    given = "no parameters of it" if shuffled is None else "such parameters without the kind"
    accepted = f"the kind {LABELS!r} together with parameters that were trained on shuffled labels"
    require((LABELS in kinds) == (shuffled is not None), "shuffled", given, accepted)
    others = [fitted(model.params, untrained, "untrained")]
    others += [] if shuffled is None else [fitted(model.params, shuffled, "shuffled")]
    indices = select(source, limit, seed)
    empty = template(source, indices, tile)
    sides = empty.images.shape[1:3]
    require(
        min(sides) >= SMALLEST, "source", f"images of {sides[0]}×{sides[1]} pixels", f"{SMALLEST}×{SMALLEST} or more"
    )
    contrast = settled(contrast, source, model, normalise_image(first_readable(source, indices).image, *pixels))
    protocol = Protocol(methods, contrast.sets, {}, {}, pixels, seed)
    config = configuration(protocol, model, source, indices, contrast)
    config["sanity"] = {
        "kinds": list(kinds),
        "layers": list(layers.names),
        "untrained": fingerprint(jax.tree.leaves(others[0])),
        "shuffled": fingerprint(jax.tree.leaves(others[1])) if shuffled is not None else None,
        "tile": tile,
    }
    step = make_sanity_step(protocol, model, layers, listed, empty)
    return _Checks(source, model, indices, empty, tuple(methods), layers, listed, step, (model.params, *others), config)


def _run(
    checks: _Checks, folder: RunFolder, numbers: Sequence[int], stall: float | None, progress: bool | None
) -> None:
    """The tiles that are missing, each written as soon as it is there."""
    size, images = len(checks.empty.image_ids), len(checks.indices)
    missing = sum(min(size, images - t * size) for t in numbers)
    hidden = None if progress is None else not progress
    stream = tiles(checks.source, checks.indices, numbers, checks.empty, ahead=2 * parallel.device_count())
    bar = tqdm(total=images, initial=images - missing, unit=" images", desc="sanity", disable=hidden)
    with bar, Stopping(lambda: "all whole batches are kept, and the same command resumes", stall=stall) as stopping:
        for read, (targets, found) in through_devices(checks.step, checks.params, stopping.until(stream)):
            rows = _rows(read, targets[:, 0], found, checks)
            folder.write_part(read.number, NOTHING.plus(rows, read.excluded))
            stopping.finished()
            bar.update(min(size, images - read.number * size))


def _rows(
    tile: Tile, targets: Int[np.ndarray, " B"], found: Sequence[Mapping[str, np.ndarray]], checks: _Checks
) -> dict[str, np.ndarray]:
    """One row per image, change and method, as columns."""
    slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
    examples = [example for example in tile.examples if example is not None]
    listed, methods = checks.changes, checks.methods
    shape = (len(slots), len(listed), len(methods))

    def columns(values: Sequence[Any] | np.ndarray, dtype: Any, axis: int) -> np.ndarray:
        """Values along one axis, repeated along the others."""
        along = np.asarray(values, dtype).reshape([-1 if a == axis else 1 for a in range(3)])
        return np.broadcast_to(along, shape).ravel()

    def stacked(name: str) -> np.ndarray:
        """(images, changes, …)"""
        return np.stack([of_change[name] for of_change in found], 1)[slots]

    similar = {name: stacked(name).astype(np.float32).ravel() for name in SIMILARITIES}
    return {
        "image_id": columns([e.image_id for e in examples], np.int64, 0),
        "kind": columns([c.kind for c in listed], str, 1),
        "step": columns([c.step for c in listed], np.int32, 1),
        "layer": columns([c.layer for c in listed], str, 1),
        "method": columns(methods, str, 2),
        "target": columns(targets[slots], np.int32, 0),
        "top1": np.repeat(stacked("top1").astype(np.int32).ravel(), len(methods)),
        **similar,
        "degenerate": stacked("degenerate").ravel(),
        "degenerate_changed": stacked("degenerate_changed").ravel(),
    }

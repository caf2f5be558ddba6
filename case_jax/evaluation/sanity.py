"""Sanity checks: does a map change when what the classifier has learnt is taken away, layer by layer or all at once?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, *Sanity Checks for Saliency Maps*, NeurIPS 2018 (arXiv 1810.03292).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require, require_seed, unknown
from case_jax.contrast.choice import ContrastChoice
from case_jax.contrast.sets import Query, ask
from case_jax.evaluation.planning import configuration, require_fitting, require_sets
from case_jax.evaluation.run import opened
from case_jax.evaluation.step import (
    AGAIN,
    Batch,
    Pixels,
    Protocol,
    finished,
    finite_logits,
    image_key,
    raw_maps,
    view_for_targets,
)
from case_jax.evaluation.stream import Tile, first_readable, select, template, through_devices, tiles
from case_jax.imageops import normalise_image, resize_map
from case_jax.methods import MapFunction
from case_jax.metrics.similarity import SIMILARITIES, TwoForms, map_similarities
from case_jax.results import NOTHING, RunFolder, fingerprint
from case_jax.source import Source
from case_jax.stopping import Stopping
from case_jax.tap.parameters import ParameterLayers, fitted, parameter_layers, with_layers_of
from case_jax.tap.view import Params, TappedModel, at_least_float32, check_closed_form

NOTHING_CHANGED, CASCADING, INDEPENDENT, LABELS = "nothing", "cascading", "independent", "labels"
KINDS = {
    CASCADING: "the layers from the logits down to this one are as before training",
    INDEPENDENT: "this layer alone is as before training",
    LABELS: "the whole classifier is one that was trained on shuffled labels",
}
TILE = 8
SMALLEST = 12
"""Pixels on a side, for three cells of gradient histograms."""


class Change(NamedTuple):
    """Other parameters for some layers."""

    kind: str
    step: int
    """Counts the layers from the logits down, from 1."""
    layer: str
    chosen: Bool[np.ndarray, " L"]


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


class _Explained(NamedTuple):
    """All methods' maps of one image's target."""

    maps: TwoForms
    """Arrays (M, H, W)."""
    degenerate: Bool[Array, " M"]
    top1: Int[Array, ""]


def changes(layers: ParameterLayers, kinds: Sequence[str]) -> list[Change]:
    """What is changed, in order: first nothing, which shows what a method's own randomness costs.

    Raises:
        CaseJaxError: for an unknown kind, none, or one named twice.
    """
    require(kinds and len(set(kinds)) == len(kinds), "kinds", tuple(kinds), f"each once of {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kinds", kind, KINDS)
    number = np.arange(len(layers.names))
    found = [Change(NOTHING_CHANGED, 0, "", number < 0)]
    for step, name in enumerate(layers.names if CASCADING in kinds else (), start=1):
        found.append(Change(CASCADING, step, name, number < step))
    for step, name in enumerate(layers.names if INDEPENDENT in kinds else (), start=1):
        found.append(Change(INDEPENDENT, step, name, number == step - 1))
    if LABELS in kinds:
        found.append(Change(LABELS, 1, "all", number >= 0))
    return found


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
        progress: show a bar; None shows it in a terminal.

    Returns:
        The rows; in the first of several processes those of all images.

    Raises:
        CaseJaxError: for unknown kinds, `labels` without `shuffled` or these without it, parameters of another network, images with a side
            below 12 pixels, or a folder that holds another run.
    """
    named = kinds or (CASCADING, INDEPENDENT, *([LABELS] if shuffled is not None else []))
    settings = _Settings(named, depth, limit, seed, tile)
    checks = _checked(source, model, contrast, methods, pixels, untrained, shuffled, settings)
    checks.config["model"]["name"] = model_name
    total = range(-(-len(checks.indices) // tile))
    with opened(folder, checks.config) as (number, count):
        done = folder.done()
        parallel.meet("all have seen what is done")
        mine = [t for t in total if t not in done][number::count]
        if mine:
            _run(checks, folder, mine, progress)
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
    contrast = contrast if isinstance(contrast, ContrastChoice) else contrast()
    require_sets(source, model, contrast)
    if model.head_kernel is not None:
        check_closed_form(model, normalise_image(first_readable(source, indices).image, *pixels))
    protocol = Protocol(methods, contrast.sets, {}, {}, pixels, seed)
    facts = configuration(protocol, model, source, indices, contrast)
    config = {key: value for key, value in facts.items() if key not in ("metrics", "own_metrics", "measures")}
    config["sanity"] = {
        "kinds": list(kinds),
        "layers": list(layers.names),
        "untrained": fingerprint(jax.tree.leaves(others[0])),
        "shuffled": fingerprint(jax.tree.leaves(others[1])) if shuffled is not None else None,
        "tile": tile,
    }
    step = make_sanity_step(protocol, model, layers, listed, empty)
    return _Checks(source, model, indices, empty, tuple(methods), layers, listed, step, (model.params, *others), config)


def make_sanity_step(
    protocol: Protocol, model: TappedModel, layers: ParameterLayers, listed: Sequence[Change], empty: Batch
) -> Callable[[Any, Batch], Any]:
    """A batch function for `through_devices`: the targets, and for every change the similarities of all methods' maps.

    It runs three compiled programs: what is asked; the maps, once for the trained classifier and once for every change; their comparison.
    Which layers are changed is an argument, as parameters are, so nothing is traced twice.

    Args:
        protocol: methods, contrast sets, pixels and seed.
        model: the classifier, tapped.
        layers: its layers.
        listed: the changes.
        empty: a batch of the shapes to come; all is traced for it here, so that what a method refuses fails now.
    """

    def asked(params: Params, batch: Batch) -> Query:
        return jax.vmap(partial(_question, protocol, model, params))(batch.images)

    def explained(own: Params, other: Params, chosen: Array, draw: Array, batch: Batch, query: Query) -> _Explained:
        params = with_layers_of(own, other, layers, chosen)
        explain = partial(_explain, protocol, model, params, draw)
        with jax.default_matmul_precision("highest"):
            return jax.vmap(explain)(batch.images, batch.image_ids, query)

    def compared(first: _Explained, second: _Explained) -> dict[str, Array]:
        return jax.vmap(_compare)(first, second)

    ask_all, explain, compare = (parallel.over_devices(f) for f in (asked, explained, compared))
    query = jax.eval_shape(asked, model.params, empty)
    nothing, draw = np.zeros(len(layers.names), bool), np.int32(0)
    parallel.trace(explain, model.params, model.params, nothing, draw, empty, query)
    arguments = [parallel.replicate((c.chosen, np.int32(i))) for i, c in enumerate(listed, start=1)]
    trained = parallel.replicate((nothing, draw))

    def step(params: Any, batch: Batch) -> tuple[Array, list[dict[str, Array]]]:
        own, untrained, *shuffled = params
        query = ask_all(own, batch)
        reference = explain(own, untrained, *trained, batch, query)
        found = []
        for change, (chosen, draw) in zip(listed, arguments, strict=True):
            other = shuffled[0] if change.kind == LABELS else untrained
            found.append(compare(reference, explain(own, other, chosen, draw, batch, query)))
        return query.targets, found

    return step


def _question(protocol: Protocol, model: TappedModel, params: Params, image: Array) -> Query:
    """The trained classifier's likeliest class and its contrast set; the key comes later."""
    view = model.view(params, normalise_image(image, *protocol.pixels))
    return ask(view, view.logits.argmax(keepdims=True).astype(jnp.int32), protocol.contrast)


def _explain(
    protocol: Protocol, model: TappedModel, params: Params, draw: Array, image: Array, image_id: Array, query: Query
) -> _Explained:
    """All methods' maps of one image; equal parameters and draws give equal bits, because it is one compiled program."""
    view = view_for_targets(model, params, normalise_image(image, *protocol.pixels))
    again = jax.random.fold_in(image_key(protocol.seed, image_id), AGAIN)
    query, shape = query._replace(key=jax.random.fold_in(again, draw)), view.image.shape[:2]
    raws, maps, degenerate = [], [], []
    for name, method in protocol.methods.items():
        raw = at_least_float32(raw_maps(name, method, view, query))
        shown, flat = finished(raw, shape, finite_logits(view))
        raws.append(resize_map(raw, shape)[0])
        maps.append(shown[0])
        degenerate.append(flat[0])
    return _Explained(TwoForms(jnp.stack(raws), jnp.stack(maps)), jnp.stack(degenerate), view.logits.argmax())


def _compare(first: _Explained, second: _Explained) -> dict[str, Array]:
    """The similarities of all methods' maps of one image, NaN where either is degenerate."""

    def one(pair: tuple[TwoForms, TwoForms, Float[Array, ""]]) -> dict[str, Array]:
        a, b, unusable = pair
        return {name: jnp.where(unusable, jnp.nan, value) for name, value in map_similarities(a, b).items()}

    found = jax.lax.map(one, (first.maps, second.maps, first.degenerate | second.degenerate))
    marks = {"degenerate": first.degenerate, "degenerate_changed": second.degenerate, "top1": second.top1}
    return {**found, **marks}


def _run(checks: _Checks, folder: RunFolder, numbers: Sequence[int], progress: bool | None) -> None:
    """The tiles that are missing, each written as soon as it is there."""
    size, images = len(checks.empty.image_ids), len(checks.indices)
    missing = sum(min(size, images - t * size) for t in numbers)
    hidden = None if progress is None else not progress
    stream = tiles(checks.source, checks.indices, numbers, checks.empty, ahead=2 * parallel.device_count())
    bar = tqdm(total=images, initial=images - missing, unit=" images", desc="sanity", disable=hidden)
    with bar, Stopping(lambda: "all whole batches are kept, and the same command resumes") as stopping:
        for read, (targets, found) in through_devices(checks.step, checks.params, stopping.until(stream)):
            rows = _rows(read, targets[:, 0], found, checks)
            folder.write_part(read.number, NOTHING.plus(rows, read.excluded))
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

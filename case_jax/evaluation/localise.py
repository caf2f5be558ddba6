"""Do maps lie on the object? Maps of a whole source against its boxes and pixel masks, in one table with baselines."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, unknown
from case_jax.contrast.choice import ContrastChoice
from case_jax.evaluation.localisation_scores import (
    BASELINES,
    Counts,
    ImageScores,
    columns_of,
    overall,
    read_counts,
    require_truth,
    score_image,
    write_counts,
)
from case_jax.evaluation.localisation_steps import Crops, Labelled, make_crop_step, make_map_step
from case_jax.evaluation.planning import configuration, require_fitting, settled
from case_jax.evaluation.run import share
from case_jax.evaluation.step import Pixels, Protocol
from case_jax.evaluation.stream import Tile, first_readable, select, template, through_devices, tiles
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.metrics.localisation_curves import THRESHOLDS
from case_jax.results import NOTHING, Begun, RunFolder
from case_jax.source import Located, Source, Truth
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.tap.view import TappedModel

Target = Literal["label", "predicted"]
TARGETS: tuple[Target, ...] = get_args(Target)
TILE, TILES_PER_PART = 16, 4
UNREADABLE, NO_TRUTH, NO_LABEL = "could not be read", "no truth is known", "no label"


class Localisation(NamedTuple):
    """What a run has found."""

    rows: pd.DataFrame
    """One row per image and method or baseline, see `localise`."""
    overall: pd.DataFrame
    """One row per method or baseline: `images`, `pxap`, `max_box_acc`, `max_box_acc_v2`."""
    counts: dict[str, int]
    """How many images were used, left out, and why."""
    excluded: list[dict[str, Any]]
    """Images that were left out: index in the source, name, reason, and which `kind` of reason."""
    methods: tuple[str, ...]


class _Plan(NamedTuple):
    """A run that has been checked and can start."""

    source: Located
    model: TappedModel
    indices: np.ndarray
    methods: tuple[str, ...]
    maps: Callable[[Any, Any], Any]
    crops: Callable[[Any, Any], Any]
    kind: str
    target: str
    tile: int
    score: Callable[..., ImageScores]
    none: Counts
    config: dict[str, Any]


def localise(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    methods: Mapping[str, MapFunction],
    folder: RunFolder,
    *,
    pixels: Pixels,
    target: Target = "label",
    truth: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    tile: int = TILE,
    thresholds: int = THRESHOLDS,
    reference_box: bool = False,
    model_name: str = "custom",
    stall: float | None = math.inf,
    progress: bool | None = None,
) -> Localisation:
    """Score where finished maps lie, against the source's truth, on the same images for every method; or resume that.

    Rows hold `degenerate`, the box (`top`, `bottom`, `left`, `right`), `iou`, `f1`, `f1a`, `le`, `om` (see `box_scores`), `sm` with its
    terms `sm_log_area` and `sm_log_p` (see `saliency_metric`; of the class that the map is of), and `mean`, `sd`, `entropy`, `tv` (see
    `mask_statistics`). Degenerate maps have NaN; they are counted and enter nothing. After the methods come the baselines: the whole
    image, a centre box of half the area, the largest true box, and the object's pixels as a map.

    Parts of `tile` × 4 images are kept as they are done, rows and counts: killed, the same call resumes, on any number of devices and
    processes. SIGTERM and Ctrl-C end the run after the batch in hand; of parts that are not whole nothing is kept.

    Args:
        source: images with a truth, see `Located`.
        model: the classifier, tapped.
        contrast: contrast sets of the contrastive methods, or a function that finds them, called when the rest has been checked.
        methods: map functions by name.
        folder: where rows and counts are kept; where all processes see it.
        pixels: how pixels are normalised.
        target: whether maps are of the image's label or of the likeliest class.
        truth: which of the source's kinds of truth; None takes the usual one.
        limit: number of images, drawn by the seed; None takes all.
        seed: for drawing images and for random methods.
        tile: images per device and step.
        thresholds: of MaxBoxAcc and MaxBoxAccV2, see `threshold_hits`; most of the host's time is proportional to them.
        reference_box: make boxes as the masking paper's code does, see `box_of_map`.
        model_name: how the folder names the classifier.
        stall: minutes in which no batch finishes after which the process keeps what it can, says what it waits for and ends; None takes a
            multiple of what batches took, see `case_jax.stall`; inf waits for ever.
        progress: show a bar; None shows it in a terminal.

    Returns:
        All rows, what belongs to the data set as a whole, and what was left out; in every process, when all parts are there.

    Raises:
        CaseJaxError: for a source without truth (says which have one), an unknown kind of truth or target, labels asked for where there
            are none, a method named as a baseline, numbers below 1, a folder that holds another run, or when nothing could be scored.
    """
    require_stall(stall)
    plan = _plan(
        source, model, contrast, methods,
        pixels=pixels, target=target, truth=truth, limit=limit, seed=seed, tile=tile, thresholds=thresholds, reference_box=reference_box,
    )  # fmt: skip
    plan.config["model"]["name"] = model_name
    parts = range(-(-len(plan.indices) // (tile * TILES_PER_PART)))
    with share(folder, plan.config, parts) as (_, mine):
        if mine:
            _run(plan, folder, list(mine), stall, progress)
        folder.wait_for(parts)
    return _found(plan, folder, parts)


def require_located(source: Source, truth: str | None) -> tuple[Located, str]:
    """The source as one that knows its truth, and the kind that is asked for.

    Raises:
        CaseJaxError: for a source without truth, or of other kinds.
    """
    known = [str(kind) for kind in getattr(source, "truths", ())]
    accepted = (
        "a source that says where its objects are: digit_scenes, tfds:imagenet2012:validation prepared with --boxes, or one of your own "
        "with `truths` and `truth(index, kind)` (see case_jax.source.Located)"
    )
    require(known, "source", f"{source.name}, which knows neither boxes nor masks", accepted)
    if truth is not None and truth not in known:
        raise unknown("truth", truth, known)
    return cast(Located, source), truth or known[0]


def _plan(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    methods: Mapping[str, MapFunction],
    *,
    pixels: Pixels,
    target: str,
    truth: str | None,
    limit: int | None,
    seed: int,
    tile: int,
    thresholds: int,
    reference_box: bool,
) -> _Plan:
    """Check a run completely, before any long work."""
    located, kind = require_located(source, truth)
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    named = source.class_names is not None or target == "predicted"
    require(named, "target", f"'label' for {source.name}, which has no labels", "'predicted', or data with labels")
    require(methods, "methods", "none", "at least one map function by name")
    twice = [name for name in methods if name in BASELINES]
    require(not twice, "methods", ", ".join(twice), f"other names than those of the baselines: {', '.join(BASELINES)}")
    require(thresholds >= 1, "thresholds", thresholds, "a number of thresholds of at least 1, for example 100")
    require_fitting(source, model, pixels)
    indices = select(source, limit, seed)
    empty = template(source, indices, tile)
    contrast = settled(contrast, source, model, normalise_image(first_readable(source, indices).image, *pixels))
    protocol = Protocol(methods, contrast.sets, {}, {}, pixels, seed)
    maps = parallel.over_devices(make_map_step(protocol, model, target))
    labelled = Labelled(empty.images, empty.image_ids, np.zeros(tile, np.int32))
    parallel.trace(maps, model.params, labelled)  # what a function refuses fails here
    config = configuration(protocol, model, source, indices, contrast)
    settings = {"thresholds": thresholds, "reference_box": reference_box}
    config["localise"] = {"target": target, "truth": kind, "tile": tile, **settings, "baselines": list(BASELINES)}
    names = (*methods, *BASELINES)
    return _Plan(
        located, model, indices, names, maps, parallel.over_devices(make_crop_step(pixels, model)), kind, target, tile,
        partial(score_image, **settings), Counts.none(len(names), thresholds), config,
    )  # fmt: skip


class _Image(NamedTuple):
    """An image of a tile: what is known of it and how it scored, or why it is left out."""

    slot: int
    facts: dict[str, Any]
    scores: ImageScores | None
    left_out: dict[str, Any] | None


def _run(plan: _Plan, folder: RunFolder, parts: list[int], stall: float | None, progress: bool | None) -> None:
    """Score these parts; each is written as soon as its last tile is there."""
    total = -(-len(plan.indices) // plan.tile)
    ends = {part: min((part + 1) * TILES_PER_PART, total) for part in parts}
    begun: dict[int, tuple[Begun, Counts]] = dict.fromkeys(parts, (NOTHING, plan.none))
    numbers = [t for part in parts for t in range(part * TILES_PER_PART, ends[part])]
    sizes = {t: min(plan.tile, len(plan.indices) - t * plan.tile) for t in numbers}
    empty = template(plan.source, plan.indices, plan.tile)
    stream = tiles(plan.source, plan.indices, numbers, empty, ahead=2 * parallel.device_count())
    hidden = None if progress is None else not progress
    bar = tqdm(total=sum(sizes.values()), unit=" images", desc="localise", disable=hidden)

    def keep() -> str:
        return "the parts that are whole are kept, and the same command resumes"

    with bar, Stopping(keep, stall=stall) as stopping:
        for read, images, terms in _scored(plan, stopping.until(stream)):
            part, columns, counts = read.number // TILES_PER_PART, *_rows(plan, images, terms)
            left_out = [{**entry, "kind": UNREADABLE} for entry in read.excluded]
            left_out += [image.left_out for image in images if image.left_out is not None]
            rows, sums = begun[part]
            rows, sums = begun[part] = rows.plus(columns, left_out), sums.plus(counts)
            if part * TILES_PER_PART + rows.tiles == ends[part]:
                write_counts(folder, part, sums)
                folder.write_part(part, rows)
                del begun[part]
            stopping.finished()
            bar.update(sizes[read.number])


def _scored(plan: _Plan, stream: Iterator[Tile]) -> Iterator[tuple[Tile, list[_Image], dict[str, np.ndarray]]]:
    """Each tile, first through the step that makes maps, then the host, then the step that looks at the boxes' crops."""
    held: dict[int, list[_Image]] = {}

    def labelled() -> Iterator[Tile]:
        for tile in stream:
            labels = np.array([-1 if e is None else e.label for e in tile.examples], np.int32)
            yield tile._replace(batch=Labelled(tile.batch.images, tile.batch.image_ids, labels))

    def boxed() -> Iterator[Tile]:
        for tile, found in through_devices(plan.maps, plan.model.params, labelled()):
            slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
            images = [_score(plan, tile, found, slot) for slot in slots]  # threads would wait for each other
            boxes = np.zeros((plan.tile, len(plan.methods), 4), np.int32)
            for image in images:
                if image.scores is not None:
                    boxes[image.slot] = image.scores.boxes
            held[tile.number] = images
            yield tile._replace(batch=Crops(tile.batch.images, boxes, found["target"]))

    for tile, terms in through_devices(plan.crops, plan.model.params, boxed()):
        yield tile, held.pop(tile.number), terms


def _score(plan: _Plan, tile: Tile, found: Mapping[str, np.ndarray], slot: int) -> _Image:
    """One image's part of the host's work."""
    example, index = tile.examples[slot], int(plan.indices[tile.number * plan.tile + slot])
    assert example is not None, "chosen by the caller"
    facts = {"image_id": example.image_id, "name": example.name, "label": example.label}
    facts |= {name: found[name][slot] for name in ("target", "top1", "p")}
    truth: Truth | None = None
    reason = NO_LABEL if plan.target == "label" and example.label < 0 else None
    if reason is None and (truth := plan.source.truth(index, plan.kind)) is None:
        reason = NO_TRUTH
    if truth is None:
        left_out = {"index": index, "name": example.name, "reason": reason, "kind": reason}
        return _Image(slot, facts, None, left_out)
    require_truth(truth, example.image.shape[:2], example.name)
    correct = None if example.label < 0 else bool(facts["top1"] == example.label)
    scores = plan.score(
        found["maps"][slot], found["degenerate"][slot], truth, correct=correct, finite=bool(np.isfinite(facts["p"]))
    )
    return _Image(slot, facts, scores, None)


def _rows(plan: _Plan, images: list[_Image], terms: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Counts]:
    """One tile's rows and counts."""
    scored = [(image, image.scores) for image in images if image.scores is not None]
    columns = columns_of([image.facts for image, _ in scored], [scores for _, scores in scored], plan.methods)
    slots = [image.slot for image, _ in scored]
    for name, values in terms.items():
        columns[name] = np.where(columns["degenerate"], np.nan, values[slots].ravel()).astype(np.float32)
    counts = plan.none
    for _, scores in scored:
        counts = counts.plus(scores.counts)
    return columns, counts


def _found(plan: _Plan, folder: RunFolder, parts: range) -> Localisation:
    """Everything in the folder."""
    excluded = folder.excluded()
    if len(excluded) == len(plan.indices):
        kinds = pd.Series([entry["kind"] for entry in excluded]).value_counts().to_dict()
        raise CaseJaxError(
            f"source: none of the {len(plan.indices)} images of {plan.source.name} could be scored: "
            + "; ".join(f"{kind}: {number}" for kind, number in kinds.items())
            + "."
        )
    counts = plan.none
    for part in parts:
        counts = counts.plus(read_counts(folder, part, plan.none))
    rows = folder.rows()
    images = rows.drop_duplicates("image_id")
    numbers = {"images drawn": len(plan.indices), "images scored": len(images)}
    numbers |= {
        f"images left out: {k}": sum(e["kind"] == k for e in excluded) for k in (UNREADABLE, NO_TRUTH, NO_LABEL)
    }
    numbers["images with logits that are not finite (no score)"] = int((~np.isfinite(images["p"])).sum())
    numbers["images without a label (no OM)"] = int((images["label"] < 0).sum())
    of_methods = rows["degenerate"] & ~rows["method"].isin(BASELINES)
    numbers["degenerate maps, over all methods (no score)"] = int(of_methods.sum())
    return Localisation(rows, overall(counts, plan.methods), numbers, excluded, plan.methods)

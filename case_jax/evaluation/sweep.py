"""Which classes does a method fail to tell apart? Mean agreement of the maps of every pair of classes, over any number of images."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require, require_percent
from case_jax.contrast.choice import ContrastChoice
from case_jax.evaluation.pair_counts import Pairs, empty_counts, make_counting_step, pairs_in
from case_jax.evaluation.pair_sums import PairSums, read_sums, tiles_counted, total, write_sums
from case_jax.evaluation.planning import configuration, require_fitting, settled
from case_jax.evaluation.run import session
from case_jax.evaluation.step import Batch, Pixels, Protocol
from case_jax.evaluation.stream import Tile, first_readable, groups, select, template, tiles
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.ranking import pixel_count
from case_jax.results import RunFolder, wait_until
from case_jax.shared_folder import opened
from case_jax.source import Source
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.tap.view import TappedModel

TILE, MEMORY, SAVE_SECONDS = 16, 10**9, 300.0
LARGEST = 2**31 - 1
BLOCK = 1 << 22


class Sweep(NamedTuple):
    """What a sweep has counted."""

    methods: tuple[str, ...]
    overlap: Int[np.ndarray, "M C C"]
    """Pixels shared by the tops of two classes, summed over images."""
    images: Int[np.ndarray, "M C C"]
    """In how many images both maps were there and usable."""
    pixels: int
    """How many pixels the top of a map has."""
    degenerate: Int[np.ndarray, " M"]
    """Maps left out because they rank nothing."""
    excluded: list[dict[str, Any]]
    """Images that could not be read."""
    counted: int
    """Images counted."""

    @property
    def agreement(self) -> Float[np.ndarray, "M C C"]:
        """Mean share of top pixels per pair of classes; NaN for pairs that never occurred."""
        return mean_agreement(self.overlap, self.images, self.pixels)


def mean_agreement(
    overlap: Int[np.ndarray, "*n"], images: Int[np.ndarray, "*n"], pixels: int
) -> Float[np.ndarray, "*n"]:
    """`overlap / images / pixels`, NaN where no image counts."""
    return np.where(images > 0, overlap / np.maximum(images, 1) / pixels, np.nan)


class _Settings(NamedTuple):
    """See `sweep`."""

    top: int | None
    agreement_percent: float
    limit: int | None
    seed: int
    tile: int
    memory: int
    class_shards: int


class _Plan(NamedTuple):
    """A sweep that has been checked and can start."""

    source: Source
    model: TappedModel
    indices: np.ndarray
    empty: Batch
    pairs: Pairs
    grid: parallel.Grid
    step: Callable[..., Any]
    methods: tuple[str, ...]
    config: dict[str, Any]


def sweep(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    methods: Mapping[str, MapFunction],
    *,
    pixels: Pixels,
    top: int | None = None,
    agreement_percent: float = 5.0,
    limit: int | None = None,
    seed: int = 0,
    tile: int = TILE,
    memory: int = MEMORY,
    class_shards: int = 1,
    folder: RunFolder | None = None,
    save_seconds: float = SAVE_SECONDS,
    model_name: str = "custom",
    stall: float | None = math.inf,
    progress: bool | None = None,
) -> Sweep:
    """The mean agreement matrix over a data set.

    `mean over images of |T_a ∩ T_b| / k`, T_c the k highest-ranked pixels of the map of class c at input resolution. Sums are integers:
    equal masks give equal sums, whatever the order and the number of devices. Of several processes (`parallel.join`) each takes its
    share of the tiles; the first returns when all are counted. SIGTERM and Ctrl-C end the sweep after the batch in hand, which is kept.

    Args:
        source: the images; labels are not needed.
        model: the classifier, tapped.
        contrast: contrast sets of the contrastive methods, or a function that finds them, called when the rest has been checked.
        methods: map functions by name.
        pixels: how pixels are normalised.
        top: pairs among this many likeliest classes of each image (2 is the class-sensitivity diagnostic); None takes all
            pairs of all classes.
        agreement_percent: k, in percent of the pixels.
        limit: number of images, drawn by the seed; None takes all.
        seed: see `plan`.
        tile: images per step of a device, or of a group of devices that splits the classes.
        memory: bytes for maps on one device, half for those at the layer's resolution, half for those at input resolution. What does
            not fit is made in chunks of classes. Beside it a step holds what the classifier and a method's gradients need, packed masks
            (a few times tile × classes × pixels / 8 bytes) and 8 bytes for each pair of classes and method.
        class_shards: how many devices share the classes of a tile, and the rows of the matrix; a divisor of the number of devices.
            Splitting classes changes the shapes, and so the last bits, of the maps.
        folder: keeps the sums, so that a killed sweep resumes; where all processes see it; None keeps nothing.
        save_seconds: how often they are written, and what a killed sweep loses at most.
        model_name: how the folder names the classifier.
        stall: minutes in which no batch finishes after which the process keeps what it can, says what it waits for and ends; None takes a
            multiple of what batches took, see `case_jax.stall`; inf waits for ever.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The sums; in the first process over all images.

    Raises:
        CaseJaxError: for `top` outside [2, C], bad percentages or limits, memory for less than one class, several processes
            without a folder, or a folder that holds another sweep.
    """
    require_stall(stall)
    require(
        folder is not None or parallel.process()[1] == 1, "folder", folder, "a folder, where processes share a sweep"
    )
    settings = _Settings(top, agreement_percent, limit, seed, tile, memory, class_shards)
    plan = _plan(source, model, contrast, methods, pixels, settings)
    plan.config["model"]["name"] = model_name
    shape = (len(plan.methods), model.num_classes)
    tiles = range(-(-len(plan.indices) // tile))
    if folder is None:
        found = PairSums.none(*shape)
        _count(plan, tiles, found, None, save_seconds, stall, progress)
        return _found(plan, found)
    with opened(folder, plan.config, session()) as (number, count):
        held = read_sums(folder, shape)
        parallel.meet("all have seen what is counted")
        done = {t for sums in held.values() for t in sums.tiles}
        mine = held.setdefault(number, PairSums.none(*shape))
        todo = [t for t in tiles if t not in done][number::count]
        if todo:
            _count(plan, todo, mine, lambda: write_sums(folder, number, mine), save_seconds, stall, progress)
        if number == 0 and count > 1:
            wait_until(lambda: tiles_counted(folder) == len(tiles))
            held = read_sums(folder, shape)
    return _found(plan, total(held.values(), shape))


def _found(plan: _Plan, sums: PairSums) -> Sweep:
    counts = (sums.degenerate, sums.excluded, sums.counted)
    return Sweep(plan.methods, sums.overlap, sums.images, plan.pairs.pixels, *counts)


def _plan(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    methods: Mapping[str, MapFunction],
    pixels: Pixels,
    given: _Settings,
) -> _Plan:
    """Check a sweep completely, before any long work."""
    classes, tile = model.num_classes, given.tile
    top = classes if given.top is None else given.top
    require(methods, "methods", "none", "at least one map function by name")
    require(2 <= top <= classes, "top", top, f"a number of classes from 2 to {classes}")
    require_percent("agreement_percent", [given.agreement_percent])
    require_fitting(source, model, pixels)
    grid = parallel.Grid(given.class_shards)
    indices = select(source, given.limit, given.seed)
    empty = template(source, indices, tile)
    shape = empty.images.shape[1:3]
    count = pixel_count(given.agreement_percent, shape)
    require(tile * count <= LARGEST, "tile", tile, f"at most {LARGEST // count} images, whose sums fit 32 bits")
    size = {"shape": shape, "tile": tile, "methods": len(methods), "gradients": model.chunk}
    pairs = pairs_in(given.memory, top=top, pixels=count, **size)
    contrast = settled(contrast, source, model, normalise_image(first_readable(source, indices).image, *pixels))
    protocol = Protocol(methods, contrast.sets, {}, {}, pixels, given.seed)
    step = grid.step(make_counting_step(protocol, model, pairs))
    counts = empty_counts(len(methods), classes, grid.columns)
    grid.trace(step, counts, model.params, empty)  # what a function refuses fails here
    config = configuration(protocol, model, source, indices, contrast)
    config["sweep"] = {
        "top": top,
        "agreement_percent": float(given.agreement_percent),
        "tile": tile,
        "memory": given.memory,
        "class_shards": given.class_shards,
    }
    return _Plan(source, model, indices, empty, pairs, grid, step, tuple(methods), config)


class _Counted(NamedTuple):
    """What is left of a tile when its images are gone."""

    number: int
    images: int
    excluded: list[dict[str, Any]]


def _counted(tile: Tile) -> _Counted:
    return _Counted(tile.number, sum(example is not None for example in tile.examples), tile.excluded)


def _count(
    plan: _Plan,
    numbers: Sequence[int],
    sums: PairSums,
    save: Callable[[], None] | None,
    save_seconds: float,
    stall: float | None,
    progress: bool | None,
) -> None:
    """Count these tiles into the sums.

    A step is dispatched before the last one has ended, so the devices do not wait for the host.
    """
    grid, size, images = plan.grid, len(plan.empty.image_ids), len(plan.indices)
    shapes = empty_counts(len(plan.methods), plan.model.num_classes, grid.columns)
    state, params = grid.zeros(shapes), grid.replicate(plan.model.params)
    most = LARGEST // (size * plan.pairs.pixels)  # steps whose sums are sure to fit the devices' 32 bits
    in_hand: list[_Counted] = []
    running, steps, saved = None, 0, time.monotonic()

    def fetch() -> None:
        for column, counts in grid.by_device(state):
            sums.add_device(column, counts)
        sums.tiles = sorted([*sums.tiles, *(t.number for t in in_hand)])
        sums.counted += sum(t.images for t in in_hand)
        sums.excluded += [entry for t in in_hand for entry in t.excluded]
        in_hand.clear()

    def keep() -> str:
        return (
            "the sums written last are kept, and the same command resumes"
            if save
            else "nothing is kept, as there is no folder"
        )

    stream = tiles(plan.source, plan.indices, numbers, plan.empty, ahead=2 * grid.rows)
    missing = sum(min(size, images - t * size) for t in numbers)
    hidden = None if progress is None else not progress
    bar = tqdm(total=images, initial=images - missing, unit=" images", desc="sweep", disable=hidden)
    with bar, Stopping(keep, stall=stall) as stopping:
        for group in groups(stopping.until(stream), grid.rows):
            batches = [t.batch for t in group] + [plan.empty] * (grid.rows - len(group))
            state, seen = plan.step(state, params, grid.shard(jax.tree.map(lambda *a: np.stack(a), *batches)))
            if running is not None:
                jax.block_until_ready(running)
                stopping.finished()
            running, steps = seen, steps + 1
            in_hand += map(_counted, group)
            bar.update(sum(min(size, images - t.number * size) for t in group))
            due = save is not None and time.monotonic() - saved >= save_seconds
            if due or steps == most:
                fetch()
                state, steps = grid.zeros(shapes), 0
            if save is not None and due:
                save()
                saved = time.monotonic()
        fetch()
        if save is not None:
            save()


def confused_pairs(found: Sweep, class_names: Sequence[str], *, most: int = 20) -> pd.DataFrame:
    """The pairs of classes that each method tells apart least: method, classes, mean agreement, images."""
    frames = []
    for name, overlap, images in zip(found.methods, found.overlap, found.images, strict=True):
        first, second, agreement, count = _highest(overlap, images, found.pixels, most)
        columns = {
            "method": name,
            "class_a": [class_names[int(i)] for i in first],
            "class_b": [class_names[int(i)] for i in second],
            "agreement": agreement,
            "images": count,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _highest(overlap: np.ndarray, images: np.ndarray, pixels: int, most: int) -> tuple[np.ndarray, ...]:
    """Pairs a < b by mean agreement, then by images, both descending, then in order; a block of rows at a time."""
    best: list[np.ndarray] = [np.empty(0, np.int64)] * 2 + [np.empty(0), np.empty(0, np.int64)]
    height = max(1, BLOCK // len(images))
    for start in range(0, len(images), height):
        rows = slice(start, start + height)
        first, second = np.nonzero(np.triu(images[rows] > 0, k=start + 1))
        count = images[rows][first, second]
        agreement = mean_agreement(overlap[rows][first, second], count, pixels)
        both = [np.concatenate(pair) for pair in zip(best, (first + start, second, agreement, count), strict=True)]
        order = np.lexsort((both[1], both[0], -both[3], -both[2]))[:most]
        best = [column[order] for column in both]
    return tuple(best)

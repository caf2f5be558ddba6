"""Which classes does a method fail to tell apart? Mean agreement of the maps of every pair of classes, over any number of images."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require, require_percent
from case_jax.contrast.choice import ContrastChoice, require_counted
from case_jax.evaluation.batches import Batch, Tile, template, tiles
from case_jax.evaluation.engine import Images, asked, checked, contrast_facts
from case_jax.evaluation.folders import session
from case_jax.evaluation.studies.pair_agreements import Agreements, of_sums
from case_jax.evaluation.studies.pair_counts import Pairs, empty_counts, make_counting_step, pairs_in
from case_jax.evaluation.studies.pair_sums import PairSums, read_sums, tiles_counted, total, write_sums
from case_jax.evaluation.subject import Subject
from case_jax.evaluation.through import groups
from case_jax.files import write_json
from case_jax.parallel.grid import Grid
from case_jax.ranking import pixel_count
from case_jax.results import RunFolder, wait_until
from case_jax.shared_folder import opened
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.tap.view import TappedModel

MEMORY, SAVE_SECONDS = 10**9, 300.0
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class PairAgreement:
    """The mean agreement matrix over a data set.

    `mean over images of |T_a ∩ T_b| / k`, T_c the k highest-ranked pixels of the map of class c at input resolution. Sums are integers:
    equal masks give equal sums, whatever the order and the number of devices.
    """

    top: int | None = None
    """Pairs among this many likeliest classes of each image (2 is the class-sensitivity diagnostic); None takes all pairs."""
    agreement_percent: float = 5.0
    """k, in percent of the pixels."""
    memory: int = MEMORY
    """Bytes for maps on one device, half for those at the layer's resolution, half for those at input resolution. What does not fit is
    made in chunks of classes. Beside it a step holds what the classifier and a method's gradients need, packed masks (a few times
    tile × classes × pixels / 8 bytes) and 8 bytes for each pair of classes and method."""
    class_shards: int = 1
    """How many devices share the classes of a tile, and the rows of the matrix; a divisor of the number of devices. Splitting classes
    changes the shapes, and so the last bits, of the maps."""

    name = "pairs"
    tile = 16

    def check(self, subject: Subject, images: Images) -> None:
        """Raise for `top` outside [2, C], and bad percentages."""
        classes = subject.model.num_classes
        require(2 <= self._top(classes) <= classes, "top", self.top, f"a number of classes from 2 to {classes}")
        require_percent("agreement_percent", [self.agreement_percent])
        pixel_count(self.agreement_percent, images.first.image.shape[:2])
        Grid(self.class_shards)

    def settings(self, subject: Subject) -> dict[str, Any]:
        """All options."""
        percent, top = float(self.agreement_percent), self._top(subject.model.num_classes)
        return {"pairs": dataclasses.asdict(self) | {"top": top, "agreement_percent": percent}}

    def pairs(self, model: TappedModel, shape: tuple[int, ...], tile: int, methods: int) -> Pairs:
        """What of the maps is in memory at once; raises for memory for less than one class, and a tile whose sums overflow."""
        count = pixel_count(self.agreement_percent, shape)
        require(tile * count <= LARGEST, "tile", tile, f"at most {LARGEST // count} images, whose sums fit 32 bits")
        top = self._top(model.num_classes)
        size = {"shape": shape, "tile": tile, "methods": methods, "gradients": model.chunk}
        return pairs_in(self.memory, top=top, pixels=count, **size)

    def _top(self, classes: int) -> int:
        return classes if self.top is None else self.top


class PairsJob(NamedTuple):
    """A count that has been checked and can start."""

    subject: Subject
    images: Images
    contrast: ContrastChoice
    names: tuple[str, ...] | None
    empty: Batch
    pairs: Pairs
    grid: Grid
    step: Callable[..., Any]
    methods: tuple[str, ...]
    config: dict[str, Any]

    @property
    def model(self) -> TappedModel:
        """The classifier."""
        return self.subject.model

    @property
    def shape(self) -> tuple[int, int]:
        """Methods and classes."""
        return len(self.methods), self.model.num_classes


def prepare_pairs(
    study: PairAgreement,
    subject: Subject,
    *,
    limit: int | None = None,
    tile: int | None = None,
) -> PairsJob:
    """Check completely, before any long work; arguments and errors as `engine.prepare`, and those of `PairAgreement`."""
    require(tile is None or tile >= 1, "tile", tile, "at least 1 image per device and step")
    size = study.tile if tile is None else tile
    subject = subject.of_study(scored=False)
    model, images = subject.model, checked(study, subject, limit=limit)
    empty, grid = template(images.source, images.indices, size), Grid(study.class_shards)
    pairs = study.pairs(model, empty.images.shape[1:3], size, len(subject.functions))
    contrast, question = asked(subject, images)
    step = grid.step(make_counting_step(question, model, pairs))
    grid.trace(step, empty_counts(len(question.methods), model.num_classes, grid.columns), model.params, empty)
    config = (
        subject.configuration(images.indices, contrast) | study.settings(subject) | {"study": study.name, "tile": size}
    )
    config["pairs"] |= {"pixels": pairs.pixels}
    methods = tuple(question.methods)
    return PairsJob(subject, images, contrast, subject.names(), empty, pairs, grid, step, methods, config)


def run_pairs(
    job: PairsJob,
    folder: RunFolder | None,
    *,
    save_seconds: float = SAVE_SECONDS,
    stall: float | None = math.inf,
    progress: bool | None = None,
) -> Agreements:
    """Count, or go on counting.

    Of several processes (`parallel.join`) each takes its share of the tiles; the first returns when all are counted, the others when their share is. SIGTERM and
    Ctrl-C end it after the batch in hand, which is kept.

    Args:
        job: from `prepare_pairs`.
        folder: keeps the sums, so that a killed run resumes; where all processes see it; None keeps nothing.
        save_seconds: how often they are written, and what a killed run loses at most.
        stall: as `engine.run`.
        progress: show a bar; None shows it in a terminal.

    Raises:
        CaseJaxError: for several processes without a folder, or a folder that holds another run.
    """
    require_stall(stall)
    require_counted(job.contrast)
    alone = folder is not None or parallel.process()[1] == 1
    require(alone, "folder", folder, "a folder, where processes share a run")
    tiles = range(-(-len(job.images.indices) // len(job.empty.image_ids)))
    if folder is None:
        found = PairSums.none(*job.shape)
        _count(job, tiles, found, None, save_seconds, stall, progress)
        return of_sums(job.methods, found, job.pairs.pixels)
    with opened(folder, job.config, session()) as (number, count):
        if number == 0:
            write_json(folder.path / "contrast.json", contrast_facts(job.contrast, job.names))
        held = read_sums(folder, job.shape)
        parallel.meet("all have seen what is counted")
        done = {t for sums in held.values() for t in sums.tiles}
        mine = held.setdefault(number, PairSums.none(*job.shape))
        todo = [t for t in tiles if t not in done][number::count]
        if todo:
            _count(job, todo, mine, lambda: write_sums(folder, number, mine), save_seconds, stall, progress)
        if number == 0 and count > 1:
            wait_until(lambda: tiles_counted(folder) == len(tiles))
            held = read_sums(folder, job.shape)
    return of_sums(job.methods, total(held.values(), job.shape), job.pairs.pixels)


class _Counted(NamedTuple):
    """What is left of a tile when its images are gone."""

    number: int
    images: int
    excluded: list[dict[str, Any]]
    changed: Counter[str]


def _counted(tile: Tile) -> _Counted:
    return _Counted(tile.number, sum(example is not None for example in tile.examples), tile.excluded, tile.changed)


def _count(
    job: PairsJob,
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
    grid, size, indices = job.grid, len(job.empty.image_ids), job.images.indices
    images = len(indices)
    shapes = empty_counts(*job.shape, grid.columns)
    state, params = grid.zeros(shapes), grid.replicate(job.model.params)
    most = LARGEST // (size * job.pairs.pixels)  # steps whose sums are sure to fit the devices' 32 bits
    in_hand: list[_Counted] = []
    running, steps, saved = None, 0, time.monotonic()

    def fetch() -> None:
        for column, counts in grid.by_device(state):
            sums.add_device(column, counts)
        sums.tiles = sorted([*sums.tiles, *(t.number for t in in_hand)])
        sums.counted += sum(t.images for t in in_hand)
        sums.excluded += [entry for t in in_hand for entry in t.excluded]
        for t in in_hand:
            sums.changed += t.changed
        in_hand.clear()

    def keep() -> str:
        return (
            "the sums written last are kept, and the same command resumes"
            if save
            else "nothing is kept, as there is no folder"
        )

    stream = tiles(job.images.source, indices, numbers, job.empty, ahead=2 * grid.rows)
    missing = sum(min(size, images - t * size) for t in numbers)
    hidden = None if progress is None else not progress
    bar = tqdm(total=images, initial=images - missing, unit=" images", desc="pairs", disable=hidden)
    with bar, Stopping(keep, stall=stall) as stopping:
        for group in groups(stopping.until(stream), grid.rows):
            batches = [t.batch for t in group] + [job.empty] * (grid.rows - len(group))
            state, seen = job.step(state, params, grid.shard(jax.tree.map(lambda *a: np.stack(a), *batches)))
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

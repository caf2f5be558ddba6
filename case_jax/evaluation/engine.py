"""One engine for every study: images in fixed tiles over all devices and processes, into a run folder that survives being killed."""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require
from case_jax.contrast.choice import ContrastChoice, require_counted
from case_jax.evaluation.batches import (
    Batch,
    Pace,
    Tile,
    first_readable,
    load_tile,
    select,
    template,
    tiles,
)
from case_jax.evaluation.folders import share
from case_jax.evaluation.maps import Question
from case_jax.evaluation.memory import largest_tile, memory_bound
from case_jax.evaluation.subject import Subject
from case_jax.evaluation.through import through_devices
from case_jax.files import write_json
from case_jax.imageops import normalise_image
from case_jax.records import Records
from case_jax.results import RunFolder
from case_jax.source import Example, Source
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.tap.view import TappedModel

AUTO: Literal["auto"] = "auto"
LOG = logging.getLogger(__name__)

Through = Callable[[Callable[..., Any], Any, Iterable[Tile]], Iterator[tuple[Tile, Any]]]
"""`(step, params, tiles)` to each tile with the step's results on the host, see `through_devices`."""


class Images(NamedTuple):
    """The images of a run."""

    source: Source
    indices: np.ndarray
    """Which of the source's."""
    first: Example
    """The first that can be read: the shapes of all."""


class Compiled(NamedTuple):
    """A function under `parallel.over_devices` that a step calls."""

    function: Callable[..., Any]
    arguments: Callable[[Batch], tuple[Any, ...]]
    """One device's arguments for a batch of these shapes."""
    times: int = 1
    """How often a step calls it."""


class Found(NamedTuple):
    """What a study makes of one tile."""

    columns: Mapping[str, Any]
    """Of the rows, in order of the images."""
    excluded: Sequence[dict[str, Any]] = ()
    """Images that were read, but left out: index, name, reason."""
    sums: Mapping[str, np.ndarray] = {}
    """Integers of the data set as a whole."""


class Program(NamedTuple):
    """A study's compiled functions, and what it makes of tiles with them."""

    compiled: Sequence[Compiled]
    found: Callable[[Iterator[Tile], Through], Iterator[tuple[Tile, Found]]]
    """Every tile with what is found on it, in order."""


class Study(Protocol):
    """A question that is asked of every image, with what is made of the answers.

    A study is written for images that a device holds together; devices, processes, interruptions and files are the engine's.
    """

    @property
    def name(self) -> str:
        """What it is called: `config.json` and folders name it so."""
        ...

    def check(self, subject: Subject, images: Images) -> None:
        """Raise for what cannot be asked, before anything takes time."""
        ...

    def settings(self, subject: Subject) -> dict[str, Any]:
        """What of its options decides the rows, as JSON values."""
        ...


class TiledStudy(Study, Protocol):
    """A study that the engine runs."""

    @property
    def unit(self) -> str:
        """What is counted: images."""
        ...

    @property
    def scored(self) -> bool:
        """Whether two classes of an image are asked for and compared, so that methods of a pair run unnamed."""
        ...

    @property
    def tile(self) -> int:
        """Images per device and step, by default."""
        ...

    @property
    def part(self) -> int:
        """Images per result file, by default; a multiple of the tile."""
        ...

    def program(self, question: Question, model: TappedModel, images: Images) -> Program:
        """The compiled functions."""
        ...


class Job(NamedTuple):
    """A study that has been checked and can start."""

    study: TiledStudy
    subject: Subject
    question: Question
    images: Images
    contrast: ContrastChoice
    program: Program
    tile: int
    part: int
    config: dict[str, Any]

    @property
    def model(self) -> TappedModel:
        """The classifier."""
        return self.subject.model

    @property
    def empty(self) -> Batch:
        """A tile without images."""
        return template(self.images.source, self.images.indices, self.tile)

    @property
    def parts(self) -> range:
        """The numbers of the result files."""
        return range(-(-len(self.images.indices) // self.part))


def prepare(
    study: TiledStudy,
    subject: Subject,
    *,
    limit: int | None = None,
    tile: int | Literal["auto"] | None = None,
    part: int | None = None,
    memory: int | None = None,
) -> Job:
    """Check a run completely, before any long work; confusions are counted last, and every function is traced.

    Args:
        study: what is asked.
        subject: of what; its classifier of `at_precision`, where its passes are to have fewer bits (maps and scores are float32 always).
        limit: this many images, drawn once by the seed; None takes all.
        tile: images per device and step. It fixes the shapes, and so the last bits, of the computation. `auto` takes as many as
            `memory` holds, a power of two of at most `part`. None takes the study's own number.
        part: images per result file; a multiple of `tile`. What is lost when a run is killed is at most the parts in hand.
        memory: bytes per device for `tile="auto"`; by default 0.8 of what the device has.

    Raises:
        CaseJaxError: for anything that could not run: see the message.
    """
    proper = tile is None or tile == AUTO or tile >= 1
    require(proper, "tile", tile, "at least 1 image per device and step, or 'auto'")
    size = study.tile if tile is None else tile
    whole = part or (study.part if size == AUTO else -(-study.part // size) * size)
    require(whole >= 1 and whole % (1 if size == AUTO else size) == 0, "part", part, f"a multiple of the tile, {tile}")
    accepted = "a bound for a tile that is found: tile='auto'"
    require(memory is None or size == AUTO, "memory", memory, accepted)
    subject = subject.of_study(scored=study.scored)
    images = checked(study, subject, limit=limit)
    contrast, question = asked(subject, images)
    indices = images.indices
    program = study.program(question, subject.model, images)
    if size == AUTO:
        size = _largest_tile(program, subject.model, images, memory or memory_bound(), min(whole, len(indices)))
        whole -= whole % size
    empty = template(images.source, indices, size)
    for function, arguments, _ in program.compiled:
        parallel.trace(function, *arguments(empty))  # what a function refuses fails here
    config = (
        subject.configuration(indices, contrast)
        | study.settings(subject)
        | {"study": study.name, "tile": size, "part": whole}
    )
    return Job(study, subject, question, images, contrast, program, size, whole, config)


def checked(study: Study, subject: Subject, *, limit: int | None) -> Images:
    """The images, when subject and study have been checked. Arguments and errors as `prepare`."""
    subject.check()
    indices = select(subject.source, limit, subject.seed)
    images = Images(subject.source, indices, first_readable(subject.source, indices))
    study.check(subject, images)
    return images


def asked(subject: Subject, images: Images) -> tuple[ContrastChoice, Question]:
    """The contrast sets, found when all else has been checked, and what every image is asked."""
    contrast = subject.settled(normalise_image(images.first.image, *subject.pixels))
    return contrast, Question(subject.functions, contrast.sets, subject.pixels, subject.seed)


def _largest_tile(program: Program, model: TappedModel, images: Images, memory: int, most: int) -> int:
    def temporary(size: int) -> list[Any]:
        batch = load_tile(images.source, images.indices, 0, template(images.source, images.indices, size)).batch
        return [(function, arguments(batch)) for function, arguments, _ in program.compiled]

    return largest_tile(temporary, model.params, memory=memory, most=most)


def run(job: Job, folder: RunFolder, *, stall: float | None = math.inf, progress: bool | None = None) -> RunFolder:
    """Run a study into a folder, or resume it there; the rows do not depend on when it was interrupted.

    Of several processes (`parallel.join`) each takes its share of the parts; all return when all parts are there. SIGTERM and
    Ctrl-C end the run after the batch in hand, which is kept.

    Args:
        job: from `prepare`; in every process the same.
        folder: the run folder; new, empty, or holding this very run; where all processes see it.
        stall: minutes in which no batch finishes after which the process keeps what it can, says what it waits for and ends; None takes a
            multiple of what batches took, see `case_jax.stall`; inf waits for ever.
        progress: show a bar with rate and time left; None shows it in a terminal.

    Returns:
        The run folder, complete.

    Raises:
        CaseJaxError: when the folder cannot be written, holds another run or damaged parts, or is in use; for a stall of no minutes; when the job
            has but stand-ins for its contrast sets, as for a plan.
    """
    require_stall(stall)
    require_counted(job.contrast)
    with share(folder, job.config, job.parts) as (number, mine):
        if number == 0:
            write_json(folder.path / "contrast.json", contrast_facts(job.contrast, job.subject.names()))
        if mine:
            pace = _run_parts(job, folder, mine, stall, progress)
            LOG.info("%s: %s", job.study.name, pace)
            folder.log("pace", {"process": number, **pace.rates()})
        folder.wait_for(job.parts)
    return folder


def _run_parts(
    job: Job, folder: RunFolder, begun: dict[int, Records], stall: float | None, progress: bool | None
) -> Pace:
    """Answer what these parts lack; a part is written as soon as its last tile is there."""
    indices, size, per_part = job.images.indices, job.tile, job.part // job.tile
    total = -(-len(indices) // size)
    ends = {part: min((part + 1) * per_part, total) for part in begun}
    numbers = [t for part, kept in begun.items() for t in range(part * per_part + kept.tiles, ends[part])]
    sizes = {t: min(size, len(indices) - t * size) for t in numbers}
    all_mine = sum(min((part + 1) * job.part, len(indices)) - part * job.part for part in begun)
    writing = threading.Lock()

    def keep() -> str:
        with writing:
            kept = {part: records for part, records in begun.items() if records.tiles}
            for part, records in kept.items():
                folder.write_begun(part, records)
        return "all that was computed is kept, and the same command resumes"

    pace = Pace()
    stream = tiles(job.images.source, indices, numbers, job.empty, ahead=2 * parallel.device_count(), pace=pace)
    with _bar(job, all_mine, all_mine - sum(sizes.values()), progress) as bar, Stopping(keep, stall=stall) as stopping:
        for tile, found in job.program.found(stopping.until(stream), partial(through_devices, pace=pace)):
            part = tile.number // per_part
            with writing:
                left_out = [*tile.excluded, *found.excluded]
                begun[part] = begun[part].plus(found.columns, left_out, found.sums, tile.changed)
                if part * per_part + begun[part].tiles == ends[part]:
                    folder.write_part(part, begun.pop(part))
            stopping.finished()
            bar.update(sizes[tile.number])
    return pace


def _bar(job: Job, total: int, initial: int, progress: bool | None) -> Any:
    hidden = None if progress is None else not progress
    return tqdm(total=total, initial=initial, unit=f" {job.study.unit}", desc=job.study.name, disable=hidden)


def contrast_facts(contrast: ContrastChoice, names: Sequence[str] | None) -> dict[str, Any]:
    """The contrast sets and the names of the classes, for run folders."""
    counted = contrast.counted
    return {
        "name": contrast.name,
        "source": contrast.source,
        "class_names": list(names) if names else None,
        "table": None if contrast.table is None else np.asarray(contrast.table).tolist(),
        "filled": None if contrast.filled is None else np.asarray(contrast.filled).tolist(),
        "images": None if counted is None else counted.counts.sum(1).tolist(),
        "unlabelled": None if counted is None else counted.unlabelled,
        "left_out": None if counted is None else list(counted.left_out),
    }

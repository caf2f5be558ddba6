"""What all studies take from the shell, and the one way in which they are run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tabulate import tabulate

from case_jax._checks import require
from case_jax.cli.commands import report
from case_jax.cli.devices import Devices
from case_jax.cli.output import run_folder, say
from case_jax.cli.processes import Processes, together
from case_jax.cli.setup import Model, Names, Setup, set_up
from case_jax.data import Exif, require_outside
from case_jax.evaluation.cost import Cost, counting, described, measure
from case_jax.evaluation.engine import Job, TiledStudy, prepare, run
from case_jax.evaluation.kept_gallery import LIKELIEST, save_gallery
from case_jax.evaluation.studies.pairs import PairsJob
from case_jax.evaluation.subject import Subject
from case_jax.methods import MapFunction
from case_jax.results import RunFolder

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]
ProcessesArgs = Annotated[Processes, tyro.conf.arg(name="")]
DevicesArgs = Annotated[Devices, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Common:
    """What is studied, and how it is run."""

    model: ModelArgs
    processes: ProcessesArgs
    devices: DevicesArgs
    data: str = "digit_scenes"
    """`digit_scenes[:SPLIT[,OPTION=VALUE,…]]` (options: `case-jax guide tests`), `folder:PATH` (labels from sub-folders when there are any), `photos`, `photos:mosaics`, `tfds:NAME:SPLIT`, or of sounds `sound_scenes[:SPLIT]` and `folder:PATH` of WAV files."""
    methods: Names = ()
    """Names from `case-jax list methods`, or `all`, without those that need a transformer; by default all but the slow ones."""
    limit: int | None = None
    """Number of images, drawn once by the seed; all of a folder, 600 digit scenes, 200 sound scenes and 300 mosaics by default."""
    out: Path | None = None
    """Run folder; by default one below runs/, named after command, data, model and limit."""
    seed: int = 0
    """For drawing images and for random methods."""
    tile: int | Literal["auto"] | None = None
    """Images per device and step; `auto` takes as many as --memory holds."""
    part: int | None = None
    """Images per result file, a multiple of the tile. A killed run loses at most this many images per device."""
    memory: float | None = None
    """GB per device for `--tile auto`; by default 0.8 of what there is."""
    crops: Path | None = None
    """Folder in which decoded images are kept, for this run and later ones on the same images; by default none are kept."""
    exif: Exif = "ignore"
    """Turn photographs as their EXIF orientation says (apply), or ignore it, as torchvision does."""
    plan: bool = False
    """Do not run: measure a few steps, and print images, operations, bytes and how long the run would take here and on more chips."""

    def check(self) -> None:
        """Raise for what needs no classifier to be seen wrong."""
        accepted = "a bound in GB above 0, with --tile auto"
        proper = self.memory is None or (self.memory > 0 and self.tile == "auto")
        require(proper, "memory", self.memory, accepted)
        self.devices.check()

    def how(self) -> dict[str, Any]:
        """The options of `engine.prepare`."""
        memory = None if self.memory is None else int(self.memory * 1e9)
        return {
            "limit": self.limit,
            "tile": self.tile,
            "part": self.part,
            "memory": memory,
        }

    def subject(self, setup: Setup, methods: dict[str, MapFunction], *words: object) -> tuple[Subject, RunFolder]:
        """What is studied, and the run folder, which is the one asked for or named after the words, data, model and limit."""
        setup = setup._replace(exif=self.exif)
        source = setup.open(self.data, limit=self.limit, seed=self.seed)
        folder = run_folder(self.out, words[0], source.name, setup.choice.model, *words[1:], self.limit)
        require_outside(folder.path, source)
        if not self.plan:
            folder.require_writable()
        settings = {"evaluated": source, "seed": self.seed, "stall": self.devices.stall, "planning": self.plan}
        subject = Subject(
            source,
            setup.model,
            partial(setup.contrast, folder.path, **settings),
            setup.pixels,
            methods,
            seed=self.seed,
            model_name=setup.choice.model,
            class_names=setup.classifier.class_names,
        )
        return subject, folder


CommonArgs = Annotated[Common, tyro.conf.arg(name="")]
Asked = tuple[TiledStudy, Subject]


def run_study(
    common: Common,
    asked: Callable[[Setup, Subject], Asked],
    name: str,
    *words: object,
    methods: dict[str, MapFunction] | None = None,
    limited: bool = True,
    gallery: str | None = LIKELIEST,
) -> None:
    """Check, plan or run a study, and write its report.

    Args:
        common: options of all studies.
        asked: makes study and subject when classifier and data are there.
        name: of the study, in folder names.
        words: further words in the folder's name.
        methods: with their options bound; by default those that `common` names.
        limited: whether --limit is the number of images of the run, which `asked` has not used up.
        gallery: which maps are kept for the report, see `save_gallery`; None keeps none.
    """
    common.check()
    methods = common.model.methods(common.methods) if methods is None else methods
    with together(common.processes) as first, common.devices.mapped():
        setup = set_up(common.model.for_data(common.data), common.crops, methods)
        subject, folder = common.subject(setup, methods, name, *words)
        study, subject = asked(setup, subject)
        job = prepare(study, subject, **common.how() | ({} if limited else {"limit": None}))
        if common.plan:
            print_cost(measure(job), job)
            return
        count = len(job.images.indices)
        say(
            f"{name}: {count:,} {study.unit} of {subject.source.name} × {len(subject.functions)} methods into {folder.path}"
        )
        run(job, folder, stall=common.devices.stall)
        if first:
            if gallery is not None:
                save_gallery(job, folder, of=gallery)
            report(folder.path)


def print_cost(cost: Cost, job: Job | PairsJob) -> None:
    """What a run would cost here and elsewhere."""
    uncounted = job.contrast.uncounted
    lines = described(cost, job.config)
    if uncounted is not None:
        stand_in = f"not counted by a plan, which takes a {job.contrast.name} of the same shape"
        lines.append(("contrast sets", stand_in))
        counted = f"confusions are counted on {uncounted.source}: {counting(cost, uncounted.images)}"
        lines.append(("before a run", counted))
    print(tabulate(lines, tablefmt="plain"))
    rows = [(chips, hosts, f"{seconds:,.0f} s", bound) for chips, hosts, seconds, bound in cost.table()]
    without = "" if uncounted is None else ", counting of confusions not"
    print(f"\nPredicted for chips and hosts like this one, 4 chips a host, compilation included{without}:\n")
    print(tabulate(rows, headers=("chips", "hosts", "time", "bound by"), tablefmt="github"))

"""`case-jax train masker | classifier | infiller`."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from flax import nnx

from case_jax._checks import require, require_number, require_seed
from case_jax.cli.devices import Devices
from case_jax.cli.numerics import require_right_numbers
from case_jax.cli.processes import Processes, together
from case_jax.cli.setup import require_outside, run_folder, say
from case_jax.data import open_source
from case_jax.evaluation.batches import select
from case_jax.evaluation.folders import session
from case_jax.masking.infill import INFILLERS, Infiller, InfillNet, as_infiller, infill_task, infiller
from case_jax.masking.losses import TV_WEIGHT
from case_jax.masking.masker import WIDTH
from case_jax.masking.task import (
    OUT,
    OUT_TRAINED,
    ClassifierMode,
    Ingredients,
    Side,
    check,
    described,
    masker_task,
    networks,
)
from case_jax.masking.trained import CLASSIFIER, FILE, digest, save_masker
from case_jax.models import Classifier, load_classifier, load_weights, save_weights, with_new_head
from case_jax.results import RunFolder
from case_jax.source import Source
from case_jax.training import Examples, Network, Recipe, few_shot, require_shared, train
from case_jax.training.classifier import adamw, classifier_task
from case_jax.training.loop import Task

INFILLER = "infiller.safetensors"
UNREADABLE_SHOWN = 10
Words = Literal[
    "maximise-classification",
    "minimise-classification",
    "maximise-entropy",
    "minimise-entropy",
    "maximise-contrast",
    "minimise-contrast",
    "none",
]


DevicesArgs = Annotated[Devices, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained on, and for how long."""

    model: str = "digit_resnet"
    """A name from `case-jax list models`."""
    weights: str | None = None
    """As in `case-jax evaluate`."""
    data: str = "digit_scenes:train"
    """Labelled images, as in `case-jax evaluate`."""
    limit: int | None = None
    """Number of images, drawn by the seed; all of a folder, and 20,000 scenes, by default."""
    out: Path | None = None
    """Run folder; by default one below runs/."""
    epochs: int = 60
    """The paper's masker: 60."""
    share: float = 0.2
    """Share of the images that an epoch has; the paper: 0.2."""
    batch: int = 72
    """Images of a step, over all devices of all processes."""
    seed: int = 0
    """Of initial parameters, order and noise."""
    save_every: int = 500
    """Steps between checkpoints, which a killed run loses at most."""
    augment: bool = False
    """Random crops of whole images, and mirror images, for photographs."""
    devices: DevicesArgs = dataclasses.field(default_factory=Devices)

    def check(self) -> None:
        """Raise for numbers that mean nothing, before anything is loaded."""
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "a number of images of at least 1")
        require_seed(self.seed)
        self.devices.check()
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch >= 1, "batch", self.batch, "a multiple of the number of devices, of at least 1")
        require(self.save_every >= 1, "save_every", self.save_every, "a number of steps of at least 1")
        require(0 < self.share <= 1, "share", self.share, "a share of the images above 0 and at most 1")

    def open(self, classifier: Classifier, *, own_classes: bool = False) -> Source:
        """The images, as the classifier sees them; of its classes, unless the data may have their own."""
        facts = classifier.preprocessing
        source = open_source(
            self.data,
            None if own_classes else classifier.class_names,
            resize=facts.resize,
            crop=facts.crop,
            interpolation=facts.interpolation,
            size=self.limit or SCENES,
            seed=self.seed,
        )
        given, known = len(source.class_names or ()), len(classifier.class_names)
        accepted = f"the classifier's {known} (`train classifier --new-head` makes a classifier of the data's classes)"
        require(own_classes or given in (0, known), "data", f"{source.name} of {given} classes", accepted)
        return source

    def chosen(self, source: Source) -> np.ndarray:
        """Which images are trained on."""
        return select(source, self.limit, self.seed)

    def epoch_steps(self, source: Source) -> int:
        """Steps of an epoch: its share of the chosen images, also where few of each class are taken of them."""
        return max(1, round(self.share * len(self.chosen(source)) / self.batch))

    def recipe(self, source: Source) -> Recipe:
        """How long."""
        return Recipe(self.epochs * self.epoch_steps(source), self.batch, self.seed, save_every=self.save_every)


SCENES = 20_000
DataArgs = Annotated[Data, tyro.conf.arg(name="")]
ProcessesArgs = Annotated[Processes, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class MaskerRun:
    """A masking model for a classifier (arXiv 2010.09750)."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    classifier: ClassifierMode = "fixed"
    """fixed; alongside: it learns from clean and masked images, too; history: as that, but half of the time masked images go to a past
    classifier; history-reference: as the public code, which then takes the current one and leaves it as it is."""
    masked_in: Words = "maximise-classification"
    """What the classifier should make of the image seen through the mask; none: nothing."""
    masked_out: Words = "maximise-entropy"
    """... and of what the mask leaves."""
    lambda_in: float = 1.0
    """Reward for small masks, masked in."""
    lambda_out: float | None = None
    """Reward for small masks, masked out; the paper's 10 by default where the classifier is fixed, else 15."""
    weight_in: float = 1.0
    """Weight of the masked-in loss."""
    weight_out: float = 1.0
    """Weight of the masked-out loss."""
    infill: str = "none"
    """What fills the hidden parts: none (the mean of the data), blur, mean, noise, or a folder of `case-jax train infiller`."""
    gumbel: bool = False
    """Masks of 0 and 1."""
    stages: tuple[int, ...] = ()
    """Which stage maps of the classifier are read, from 0; the last two by default."""
    width: int = WIDTH
    """Channels of each stage's branch."""
    class_conditional: bool = False
    """Masks for a class asked about."""
    targets: Literal["label", "two"] = "label"
    """Which class masks are about in training: the label, or one of the image's two likeliest classes at random."""
    size_conditional: bool = False
    """Masks of a size asked for."""
    tv_weight: float = TV_WEIGHT
    """Weight of total variation."""
    tv_per_side: bool = False
    """Add total variation once per side, as the public code does."""
    per_class: int | None = None
    """Train on so many images of each class, drawn by the seed; all by default."""
    masker_rate: float = 1e-3
    """Learning rate of the masker (Adam)."""
    classifier_rate: float = 1e-3
    """Learning rate of the classifier (SGD), where it learns."""
    decay_epochs: int = 20
    """Epochs after which learning rates fall to a tenth, again and again."""
    history_size: int = 30
    """Past classifiers that are kept."""
    history_every: int = 100
    """Steps between them."""

    def check(self) -> None:
        """Raise for ingredients that do not go together."""
        check(self.ingredients(1))

    def ingredients(self, epoch_steps: int) -> Ingredients:
        """As the training takes them."""
        require(self.decay_epochs >= 1, "decay_epochs", self.decay_epochs, "at least 1")
        usual = OUT if self.classifier == "fixed" else OUT_TRAINED
        out = usual.size_weight if self.lambda_out is None else self.lambda_out
        return Ingredients(
            masked_in=_side(self.masked_in, self.lambda_in, self.weight_in),
            masked_out=_side(self.masked_out, out, self.weight_out),
            classifier=self.classifier,
            infill=self.infill,
            gumbel=self.gumbel,
            stages=self.stages or None,
            width=self.width,
            class_conditional=self.class_conditional,
            targets=self.targets,
            size_conditional=self.size_conditional,
            tv_weight=self.tv_weight,
            tv_per_side=self.tv_per_side,
            masker_rate=self.masker_rate,
            classifier_rate=self.classifier_rate,
            decay_every=self.decay_epochs * epoch_steps,
            history_size=self.history_size,
            history_every=self.history_every,
        )


@dataclasses.dataclass(frozen=True)
class ClassifierRun:
    """A bundled network on labelled images."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    fresh: bool = False
    """Start from random parameters instead of the weights."""
    new_head: bool = False
    """Put a fresh last layer in place of the classifier's, for the classes of the data."""
    shuffled_labels: bool = False
    """Give every image a random class, always the same one: for the sanity check of data randomisation."""
    rate: float = 4e-3
    """Highest learning rate (AdamW)."""
    weight_decay: float = 1e-3
    """Of AdamW."""

    def check(self) -> None:
        """Raise for numbers that mean nothing."""
        require_number("rate", self.rate, above=0)
        require_number("weight_decay", self.weight_decay, least=0)


@dataclasses.dataclass(frozen=True)
class InfillerRun:
    """A convolutional network that fills holes of images."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    rate: float = 1e-3
    """Learning rate (Adam)."""

    def check(self) -> None:
        """Raise for numbers that mean nothing."""
        require_number("rate", self.rate, above=0)


def train_(
    what: Annotated[
        Annotated[MaskerRun, tyro.conf.subcommand("masker", description="A masking model for a classifier.")]
        | Annotated[ClassifierRun, tyro.conf.subcommand("classifier", description="A bundled network.")]
        | Annotated[InfillerRun, tyro.conf.subcommand("infiller", description="A network that fills holes.")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Train a masking model, a classifier, or an infiller; killed anywhere, the same command goes on, in as many processes as you like.

    For example:

        case-jax train masker --epochs 20 --out runs/masker && case-jax evaluate --methods masker:runs/masker grad_cam case

        case-jax train masker --classifier history --infill runs/infiller --per-class 10

        case-jax train masker --model resnet50 --data tfds:imagenet2012:train --augment    # the paper's, fixed classifier

        case-jax train infiller --epochs 20 --out runs/infiller

        case-jax train classifier --shuffled-labels --fresh --limit 1000 --share 1 --out runs/shuffled

        case-jax train classifier --model densenet201 --new-head --data tfds:cifar100:train --augment --out runs/cifar

        case-jax train masker --coordinator host0:1234 --process-count 2 --process-id 0    # and the same with 1 on another host

    Args:
        what: which one; each has its own --help.
    """
    what.data.check()
    what.check()
    with together(what.processes) as first:
        require_right_numbers()
        require_shared(what.data.batch)
        if isinstance(what, MaskerRun):
            _masker(what, first=first)
        elif isinstance(what, ClassifierRun):
            _classifier(what, first=first)
        else:
            _infiller(what, first=first)


def _side(words: str, size_weight: float, weight: float) -> Side | None:
    direction, _, objective = words.partition("-")
    return None if words == "none" else Side(objective, direction, size_weight, weight)  # type: ignore[arg-type]


def _masker(run: MaskerRun, *, first: bool) -> None:
    fill = _fill(run.infill)
    classifier = load_classifier(run.data.model, weights=run.data.weights)
    say(f"model: {classifier}")
    _require_output_per_class(classifier)
    source = run.data.open(classifier)
    folder = _folder(run.data, "masker", run.data.model, source=source)
    made_of, facts = run.ingredients(run.data.epoch_steps(source)), classifier.preprocessing
    shape = (facts.crop, facts.crop, 3)
    nets = networks(
        classifier.module,
        classifier.entry.taps.stages,
        made_of,
        shape,
        num_classes=len(classifier.class_names),
        seed=run.data.seed,
    )
    folder.require_writable()
    indices = run.data.chosen(source)
    if run.per_class is not None:
        indices = few_shot(source, run.per_class, seed=run.data.seed, indices=indices)
    task = masker_task(nets, made_of, mean=facts.mean, std=facts.std, fill=fill)
    made = described(made_of) | {"per_class": run.per_class, "classifier_digest": digest(classifier.module)}
    if Path(run.infill).is_dir():
        made |= {"infill_digest": hashlib.sha256((Path(run.infill) / INFILLER).read_bytes()).hexdigest()[:16]}
    state = _run(task, run.data, source, folder, indices, {"masker": made})
    if not first:
        return
    trained: Any = nets.masker.module(state.masker)
    judge = nets.classifier.module(state.classifier)
    words = ", ".join([run.classifier, *_special(run)])
    save_masker(folder.path / FILE, trained, gumbel=run.gumbel, classifier=digest(judge), words=words)
    again = ""
    if run.classifier != "fixed":
        _save(folder.path / CLASSIFIER, judge, classifier)
        again = f" --weights {folder.path / CLASSIFIER}"
    elif run.data.weights:
        again = f" --weights {run.data.weights}"
    model = "" if run.data.model == "digit_resnet" else f" --model {run.data.model}"
    _finish(folder, FILE, f"case-jax evaluate --methods masker:{folder.path} grad_cam case{model}{again}")


def _require_output_per_class(classifier: Classifier) -> None:
    accepted = "a classifier with an output for each class: training takes the softmax over them"
    require(classifier.outputs >= 2, "weights", "a network of one output", accepted)


def _special(run: MaskerRun) -> list[str]:
    """What a reader of a table must know of a masker, where it is not the simplest one."""
    plain = MaskerRun(run.data)
    sides = [f"{name} {getattr(run, f'masked_{name}')}" for name in ("in", "out")]
    default = [f"{name} {getattr(plain, f'masked_{name}')}" for name in ("in", "out")]
    words = [] if sides == default else sides
    words += [] if run.infill == plain.infill else [f"infill {Path(run.infill).name}"]
    flags = ("gumbel", "class_conditional", "size_conditional")
    words += [flag.replace("_", "-") for flag in flags if getattr(run, flag)]
    return words + ([] if run.per_class is None else [f"{run.per_class} a class"])


def _classifier(run: ClassifierRun, *, first: bool) -> None:
    classifier = load_classifier(run.data.model, weights=run.data.weights)
    source = run.data.open(classifier, own_classes=run.new_head)
    if run.new_head:
        given, wanted = source.class_names or (), "labelled images, in a sub-folder for each class, of at least 2"
        require(len(given) >= 2, "data", f"{source.name} of {len(given)} classes", wanted)
        assert source.class_names is not None
        classifier = with_new_head(classifier, source.class_names, seed=run.data.seed)
    say(f"model: {classifier}")
    _require_output_per_class(classifier)
    module: Any = classifier.module
    if run.fresh:
        module = classifier.entry.build(len(classifier.class_names), rngs=nnx.Rngs(run.data.seed))
    folder = _folder(run.data, "classifier", run.data.model, source=source)
    folder.require_writable()
    facts, steps = classifier.preprocessing, run.data.recipe(source).steps
    optimiser = adamw(steps, rate=run.rate, weight_decay=run.weight_decay)
    task = classifier_task(module, mean=facts.mean, std=facts.std, optimiser=optimiser)
    made = {"rate": run.rate, "weight_decay": run.weight_decay, "shuffled_labels": run.shuffled_labels}
    made |= {"fresh": run.fresh, "new_head": run.new_head, "start": None if run.fresh else digest(classifier.module)}
    indices = run.data.chosen(source)
    state = _run(task, run.data, source, folder, indices, {"classifier": made}, shuffled_labels=run.shuffled_labels)
    if not first:
        return
    _save(folder.path / CLASSIFIER, Network(module).module(state.classifier), classifier)
    model = "" if run.data.model == "digit_resnet" else f" --model {run.data.model}"
    _finish(folder, CLASSIFIER, f"case-jax evaluate{model} --weights {folder.path / CLASSIFIER}")


def _infiller(run: InfillerRun, *, first: bool) -> None:
    classifier = load_classifier(run.data.model, weights=run.data.weights)
    source = run.data.open(classifier)
    folder = _folder(run.data, "infiller", source=source)
    folder.require_writable()
    facts = classifier.preprocessing
    net = InfillNet(rngs=nnx.Rngs(run.data.seed))
    task = infill_task(net, mean=facts.mean, std=facts.std, rate=run.rate)
    made = {"infiller": {"rate": run.rate, "pixels": facts._asdict()}}
    state = _run(task, run.data, source, folder, run.data.chosen(source), made)
    if not first:
        return
    save_weights(folder.path / INFILLER, Network(net).module(state[0]))
    _finish(folder, INFILLER, f"case-jax train masker --infill {folder.path}")


def _folder(data: Data, *names: str, source: Source) -> RunFolder:
    """The run folder, which does not lie among the images."""
    folder = run_folder(data.out, *names)
    require_outside(folder.path, source)
    return folder


def _fill(name: str) -> Infiller | None:
    """An infiller by name, or from the folder where it was trained."""
    file = Path(name) / INFILLER
    if name in INFILLERS or not Path(name).is_dir():
        return infiller(name)
    accepted = "a folder of `case-jax train infiller` whose training has ended"
    require(file.is_file(), "infill", f"{name}, which has no {INFILLER}", accepted)
    net = nnx.eval_shape(lambda: InfillNet(rngs=nnx.Rngs(0)))
    load_weights(file, net)
    return as_infiller(net)


def _run(
    task: Task,
    data: Data,
    source: Source,
    folder: RunFolder,
    indices: np.ndarray,
    made: dict[str, Any],
    *,
    shuffled_labels: bool = False,
) -> Any:
    examples = Examples(source, indices, seed=data.seed, shuffled_labels=shuffled_labels, augment=data.augment)
    recipe = data.recipe(source)
    config = {
        **made,
        "model": {"name": data.model, "weights": data.weights},
        "data": {"name": source.name, "fingerprint": source.fingerprint, "images": len(examples)},
        "augment": data.augment,
    }
    say(
        f"train: {recipe.steps:,} steps of {recipe.batch} images, from {len(examples):,} of {source.name}, into {folder.path}"
    )
    with data.devices.mapped():
        return train(task, examples, recipe, folder, config=config, facts=session(), stall=data.devices.stall)


def _save(file: Path, module: nnx.Module, classifier: Classifier) -> None:
    facts = {"preprocessing": classifier.preprocessing._asdict(), "class_names": list(classifier.class_names)}
    save_weights(file, module, metadata=facts)


def _finish(folder: RunFolder, file: str, command: str) -> None:
    from case_jax.report import write_report  # not before `--help`

    broken, images = folder.unreadable(), folder.config()["data"]["images"]
    if broken:
        print(f"Images that could not be read, others of their batches in their places: {len(broken):,} of {images:,}")
    for name, reason in list(broken.items())[:UNREADABLE_SHOWN]:
        print(f"  {name} ({reason})")
    page = write_report(folder.path)
    print((folder.path / "summary.md").read_text(), folder.path / file, f"Report: {page}", f"Next: {command}", sep="\n")

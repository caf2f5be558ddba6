"""`case-jax train masker`: its options, and what it does."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from case_jax._checks import require
from case_jax.cli.processes import Processes
from case_jax.cli.setup import say
from case_jax.cli.train.data import DataArgs, ProcessesArgs
from case_jax.cli.train.infiller import INFILLER
from case_jax.cli.train.running import finish, folder_outside, require_output_per_class, run_training, save_classifier
from case_jax.masking.infill import INFILLERS, Infiller, InfillNet, as_infiller, infiller
from case_jax.masking.ingredients import OUT, OUT_TRAINED, ClassifierMode, Ingredients, Side, check, described
from case_jax.masking.losses import TV_WEIGHT
from case_jax.masking.masker import WIDTH
from case_jax.masking.networks import networks
from case_jax.masking.task import masker_task
from case_jax.masking.trained import CLASSIFIER, FILE, digest, save_masker
from case_jax.models import load_classifier, load_weights
from case_jax.training import few_shot

Words = Literal[
    "maximise-classification",
    "minimise-classification",
    "maximise-entropy",
    "minimise-entropy",
    "maximise-contrast",
    "minimise-contrast",
    "none",
]


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


def train_masker(run: MaskerRun, *, first: bool) -> None:
    """Train a masking model for a classifier, and write it; the classifier, too, where it has learnt."""
    fill = _fill(run.infill)
    classifier = load_classifier(run.data.model, weights=run.data.weights)
    say(f"model: {classifier}")
    require_output_per_class(classifier)
    source = run.data.open(classifier)
    folder = folder_outside(run.data, "masker", run.data.model, source=source)
    made_of, facts = run.ingredients(run.data.epoch_steps(source)), classifier.preprocessing
    shape = facts.shape
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
    state = run_training(task, run.data, source, folder, indices, {"masker": made})
    if not first:
        return
    trained: Any = nets.masker.module(state.masker)
    judge = nets.classifier.module(state.classifier)
    words = ", ".join([run.classifier, *_special(run)])
    save_masker(folder.path / FILE, trained, gumbel=run.gumbel, classifier=digest(judge), words=words)
    again = ""
    if run.classifier != "fixed":
        save_classifier(folder.path / CLASSIFIER, judge, classifier)
        again = f" --weights {folder.path / CLASSIFIER}"
    elif run.data.weights:
        again = f" --weights {run.data.weights}"
    model = "" if run.data.model == "digit_resnet" else f" --model {run.data.model}"
    finish(folder, FILE, f"case-jax evaluate --methods masker:{folder.path} grad_cam case{model}{again}")


def _side(words: str, size_weight: float, weight: float) -> Side | None:
    direction, _, objective = words.partition("-")
    return None if words == "none" else Side(objective, direction, size_weight, weight)  # type: ignore[arg-type]


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

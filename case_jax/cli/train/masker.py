"""`case-jax train masker`: its options, and what it does."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from case_jax._checks import require
from case_jax.cli.output import say
from case_jax.cli.processes import Processes
from case_jax.cli.train.data import DataArgs, ProcessesArgs
from case_jax.cli.train.infiller import INFILLER
from case_jax.cli.train.running import finish, folder_outside, require_output_per_class, run_training, save_classifier
from case_jax.masking.infill import INFILLERS, Infiller, InfillNet, as_infiller, infiller
from case_jax.masking.ingredients import (
    LMAC,
    LMAC_CONTRASTIVE,
    OUT_TRAINED,
    ClassifierMode,
    Ingredients,
    Side,
    Targets,
    check,
    described,
)
from case_jax.masking.masker import WIDTH
from case_jax.masking.networks import Networks, networks
from case_jax.masking.task import masker_task
from case_jax.masking.trained import CLASSIFIER, FILE, learning, load_masker, save_masker
from case_jax.models import load_classifier, load_weights, model
from case_jax.models.preprocessing import SoundPreprocessing
from case_jax.models.trained_file import digest
from case_jax.training import Network, few_shot

Words = Literal[
    "maximise-classification",
    "minimise-classification",
    "maximise-entropy",
    "minimise-entropy",
    "maximise-contrast",
    "minimise-contrast",
    "none",
]
Losses = Literal["auto", "phang", "l-mac"]


@dataclasses.dataclass(frozen=True)
class MaskerRun:
    """A masking model for a classifier (arXiv 2010.09750; for sound arXiv 2403.13086)."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    classifier: ClassifierMode = "fixed"
    """fixed; alongside: it learns from clean and masked images, too; history: as that, but half of the time masked images go to a past
    classifier; history-reference: as the public code, which then takes the current one and leaves it as it is."""
    losses: Losses = "auto"
    """Whose losses, where no others are given. phang: the masking paper's (the label's class masked in, entropy masked out, rewards for small masks);
    l-mac: L-MAC's (the predicted class kept masked in and lost masked out, a price for large masks); auto: l-mac for classifiers of sounds, else phang."""
    masked_in: Words | None = None
    """What the classifier should make of the image seen through the mask; none: nothing."""
    masked_out: Words | None = None
    """... and of what the mask leaves."""
    lambda_in: float | None = None
    """Reward for small masks, masked in; phang: 1, l-mac: 0."""
    lambda_out: float | None = None
    """Reward for small masks, masked out; phang: 10, or 15 where the classifier learns; l-mac: 0."""
    weight_in: float | None = None
    """Weight of the masked-in loss; phang: 1, l-mac: 4."""
    weight_out: float | None = None
    """Weight of the masked-out loss; phang: 1, l-mac: 0.2, or 4 where both sides are contrasts."""
    clamp_out: float | None = None
    """Nats above which a masked-out class that is minimised gains nothing more; phang: no limit, l-mac: 20."""
    size_penalty: float | None = None
    """Price of the mask's mean, whatever the classifier answers; phang: 0, l-mac: 6.4, or 1 where both sides are contrasts."""
    guidance: float = 0.0
    """Weight of guidance by the sound before noise was added, L-MAC's fine-tuning (4 there): with --start, and data that know it."""
    start: Path | None = None
    """Go on from the masker of this run of `case-jax train masker`, made of the same parts for the same classifier."""
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
    targets: Targets | None = None
    """Which class masks are about in training: the label, the predicted class, or one of the image's two likeliest classes at random; phang: the
    label, l-mac: the predicted, or two where both sides are contrasts."""
    size_conditional: bool = False
    """Masks of a size asked for."""
    tv_weight: float | None = None
    """Weight of total variation; phang: 0.001, l-mac: 0."""
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
        require(
            not self.guidance or self.start is not None,
            "guidance",
            self.guidance,
            "a trained masker in --start, too: a fresh one has no masks to guide",
        )

    @property
    def lmac(self) -> bool:
        """Whether what is not given is L-MAC's."""
        sounds = isinstance(model(self.data.network).default_preprocessing, SoundPreprocessing)
        return self.losses == "l-mac" or (self.losses == "auto" and sounds)

    @property
    def contrasts(self) -> bool:
        """Whether both sides are about the difference of two classes."""
        return (self.masked_in, self.masked_out) == ("maximise-contrast", "minimise-contrast")

    @property
    def usual(self) -> Ingredients:
        """What is not given is as here."""
        if self.lmac:
            return LMAC_CONTRASTIVE if self.contrasts else LMAC
        return Ingredients() if self.classifier == "fixed" else Ingredients(masked_out=OUT_TRAINED)

    def ingredients(self, epoch_steps: int) -> Ingredients:
        """As the training takes them."""
        require(self.decay_epochs >= 1, "decay_epochs", self.decay_epochs, "at least 1")
        usual = self.usual
        assert usual.masked_in is not None
        assert usual.masked_out is not None
        return Ingredients(
            masked_in=_side(usual.masked_in, self.masked_in, self.lambda_in, self.weight_in, None),
            masked_out=_side(usual.masked_out, self.masked_out, self.lambda_out, self.weight_out, self.clamp_out),
            classifier=self.classifier,
            infill=self.infill,
            gumbel=self.gumbel,
            stages=self.stages or None,
            width=self.width,
            class_conditional=self.class_conditional,
            targets=usual.targets if self.targets is None else self.targets,
            size_conditional=self.size_conditional,
            size_penalty=usual.size_penalty if self.size_penalty is None else self.size_penalty,
            guidance=self.guidance,
            tv_weight=usual.tv_weight if self.tv_weight is None else self.tv_weight,
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
    classifier = load_classifier(run.data.network, weights=run.data.weights)
    say(f"model: {classifier}")
    require_output_per_class(classifier)
    source = run.data.open(classifier)
    folder = folder_outside(run.data, "masker", run.data.network, source=source)
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
    nets, start = (nets, None) if run.start is None else _started(nets, run.start, digest(classifier.module))
    folder.require_writable()
    indices = run.data.chosen(source)
    if run.per_class is not None:
        indices = few_shot(source, run.per_class, seed=run.data.seed, indices=indices)
    task = masker_task(nets, made_of, mean=facts.mean, std=facts.std, fill=fill)
    made = described(made_of) | {
        "per_class": run.per_class,
        "classifier_digest": digest(classifier.module),
        "start": start,
    }
    if Path(run.infill).is_dir():
        made |= {"infill_digest": hashlib.sha256((Path(run.infill) / INFILLER).read_bytes()).hexdigest()[:16]}
    state = run_training(task, run.data, source, folder, indices, {"masker": made}, clean=bool(run.guidance))
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
    finish(folder, FILE, f"case-jax evaluate --methods masker:{folder.path} grad_cam case{run.data.again}{again}")


def _started(nets: Networks, run: Path, classifier: str) -> tuple[Networks, str]:
    """The networks with a trained masker in the fresh one's place, and its digest.

    Raises:
        CaseJaxError: for a masker of other parts, or of another classifier.
    """
    found = load_masker(run)
    fresh: Any = nets.masker.module(nets.masker.variables)
    given, wanted = (
        {name: getattr(m, name) for name in ("channels", "stages", "width", "num_classes", "size_conditional")}
        for m in (found.masker, fresh)
    )
    require(given == wanted, "start", f"{run}, a masker of {given}", f"one of {wanted}")
    same = found.classifier == classifier
    require(same, "start", f"{run}, trained with another classifier", "a masker of this --model and --weights")
    return nets._replace(masker=Network(learning(found.masker))), found.digest


def _side(
    usual: Side, words: Words | None, size_weight: float | None, weight: float | None, most: float | None
) -> Side | None:
    """A side as it is usually, but for what is given."""
    if words == "none":
        return None
    direction, _, objective = words.partition("-") if words else (usual.direction, "", usual.objective)
    values = (size_weight, usual.size_weight), (weight, usual.weight), (most, usual.most)
    return Side(objective, direction, *(other if one is None else one for one, other in values))  # type: ignore[arg-type]


def _special(run: MaskerRun) -> list[str]:
    """What a reader of a table must know of a masker, where it is not the simplest one."""
    plain, made_of, usual = MaskerRun(run.data), run.ingredients(1), run.usual
    sides, default = ([_said("in", m.masked_in), _said("out", m.masked_out)] for m in (made_of, usual))
    words = [] if not run.lmac else ["contrastive L-MAC"] if run.contrasts else ["L-MAC"]
    words += [] if sides == default else sides
    words += ["guided"] if run.guidance else []
    words += [] if run.infill == plain.infill else [f"infill {Path(run.infill).name}"]
    flags = ("gumbel", "class_conditional", "size_conditional")
    words += [flag.replace("_", "-") for flag in flags if getattr(run, flag)]
    return words + ([] if run.per_class is None else [f"{run.per_class} a class"])


def _said(name: str, side: Side | None) -> str:
    return f"{name} " + ("none" if side is None else f"{side.direction}-{side.objective}")


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

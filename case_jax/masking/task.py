"""One training step of a masker, with its classifier fixed or trained alongside.

Phang, Park, Geras, arXiv 2010.09750, section 3.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from case_jax import parallel
from case_jax._checks import require, require_number, unknown
from case_jax.imageops import normalise_image
from case_jax.masking import infill
from case_jax.masking.losses import (
    TV_WEIGHT,
    Direction,
    Objective,
    correct,
    objective,
    size_reward,
    total_variation,
)
from case_jax.masking.masker import WIDTH, Masker, binary_concrete, to_image
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.training import Batch, Network, Task, Variables
from case_jax.training.loop import Keys
from case_jax.training.optimise import updated

ClassifierMode = Literal["fixed", "alongside", "history", "history-reference"]
CLASSIFIER_MODES: tuple[ClassifierMode, ...] = get_args(ClassifierMode)
Targets = Literal["label", "two"]


class Side(NamedTuple):
    """What the classifier should make of one of the two masked images."""

    objective: Objective
    direction: Direction
    size_weight: float
    """λ of the reward for small masks."""
    weight: float = 1.0


IN, OUT = Side("classification", "maximise", 1.0), Side("entropy", "maximise", 10.0)
OUT_TRAINED = OUT._replace(size_weight=15.0)
"""The paper's where the classifier learns, too."""
CONTRAST_IN, CONTRAST_OUT = Side("contrast", "maximise", 1.0), Side("contrast", "minimise", 1.0)


class Ingredients(NamedTuple):
    """What a masker is made of; the defaults are the paper's simplest model: both objectives, a fixed classifier, nothing filled in."""

    masked_in: Side | None = IN
    masked_out: Side | None = OUT
    classifier: ClassifierMode = "fixed"
    """`fixed`; `alongside`: it is trained on clean and on masked images; `history`: as that, but with probability ½ the masked images
    go to one of up to 30 past classifiers; `history-reference`: as the public code, which then takes the current one and leaves it as it is."""
    infill: str = "none"
    """A name in `INFILLERS`, or a folder of `case-jax train infiller`."""
    gumbel: bool = False
    """Masks of 0 and 1, drawn by the relaxed Bernoulli distribution in training and cut at ½ afterwards."""
    temperature: float = 0.1
    stages: tuple[int, ...] | None = None
    """Which stage maps are read; None: the last two."""
    width: int = WIDTH
    class_conditional: bool = False
    targets: Targets = "label"
    """Which class a masked image is about: its label, or one of its two likeliest classes at random, for class-conditional maskers."""
    size_conditional: bool = False
    tv_weight: float = TV_WEIGHT
    tv_per_side: bool = False
    """Add total variation once per side, as the public code does, instead of once."""
    masker_rate: float = 1e-3
    classifier_rate: float = 1e-3
    decay_every: int | None = None
    """Steps after which both learning rates fall to a tenth, again and again; None: never."""
    history_size: int = 30
    history_every: int = 100


PAPER_DECAY, CLIP, WEIGHT_DECAY, MOMENTUM = 0.1, 10.0, 1e-4, 0.9
SIZES = (0.25, 0.75)


class MaskerState(NamedTuple):
    """What a step changes."""

    masker: Variables
    masker_optimiser: Any
    classifier: Variables
    classifier_optimiser: Any
    history: Variables | None
    """Past classifiers, stacked."""
    held: Int[Array, ""]
    """How many of them there are."""
    steps: Int[Array, ""]


class Networks(NamedTuple):
    """The two networks, taken apart."""

    masker: Network
    classifier: Network


def check(made_of: Ingredients) -> None:
    """Raise for ingredients that do not go together, before anything is loaded.

    Raises:
        CaseJaxError: names the ingredient.
    """
    sides = [side for side in (made_of.masked_in, made_of.masked_out) if side is not None]
    require(sides, "masked_in, masked_out", "neither", "at least one of the two objectives")
    if made_of.classifier not in CLASSIFIER_MODES:
        raise unknown("classifier", made_of.classifier, CLASSIFIER_MODES)
    if made_of.targets not in get_args(Targets):
        raise unknown("targets", made_of.targets, get_args(Targets))
    wanted = "--class-conditional, without which every class has the same mask"
    contrasts = any(side.objective == "contrast" for side in sides) or made_of.targets == "two"
    require(made_of.class_conditional or not contrasts, "class_conditional", False, wanted)
    for name, side in (("in", made_of.masked_in), ("out", made_of.masked_out)):
        if side is not None:
            require_number(f"lambda_{name}", side.size_weight, least=0)
            require_number(f"weight_{name}", side.weight, least=0)
    require_number("tv_weight", made_of.tv_weight, least=0)
    for name in ("temperature", "masker_rate", "classifier_rate"):
        require_number(name, getattr(made_of, name), above=0)
    require(made_of.history_size >= 1, "history_size", made_of.history_size, "at least 1")
    require(made_of.history_every >= 1, "history_every", made_of.history_every, "at least 1")


def networks(
    classifier: nnx.Module,
    stages: tuple[str, ...],
    made_of: Ingredients,
    shape: tuple[int, ...],
    *,
    num_classes: int,
    seed: int,
) -> Networks:
    """The classifier and a fresh masker for it.

    Args:
        classifier: left untouched.
        stages: paths of its stage maps.
        made_of: ingredients.
        shape: of an image.
        num_classes: of the classifier.
        seed: of the masker's initial parameters.

    Raises:
        CaseJaxError: when the classifier has no stage maps, or not those that are wanted.
    """
    require(
        stages,
        "model",
        "a classifier with maps of one resolution only",
        "a ResNet, DenseNet, VGG, ConvNeXt or digit_resnet",
    )
    require(num_classes >= 2, "model", f"a classifier of {num_classes} class", "at least 2 classes")
    taken = Network(classifier, stages)
    maps = jax.eval_shape(lambda v, x: taken(v, x, train=False)[1], taken.variables, jnp.zeros((1, *shape)))
    masker = Masker(
        [m.shape[-1] for m in maps],
        stages=made_of.stages,
        width=made_of.width,
        num_classes=num_classes if made_of.class_conditional else None,
        size_conditional=made_of.size_conditional,
        rngs=nnx.Rngs(seed),
    )
    return Networks(Network(masker), taken)


MASKER_OPTIMISER = optax.chain(
    optax.clip_by_global_norm(CLIP), optax.add_decayed_weights(WEIGHT_DECAY), optax.scale_by_adam()
)
"""Adam on clipped gradients, weight decay in the gradient, as PyTorch's; without its learning rate."""
CLASSIFIER_OPTIMISER = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM))
"""SGD with momentum, likewise; it steps up to twice where the masker steps once, so that it cannot count the steps itself."""


def _rate(made_of: Ingredients, initial: float, steps: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate after so many steps."""
    if made_of.decay_every is None:
        return jnp.float32(initial)
    return jnp.float32(initial) * jnp.float32(PAPER_DECAY) ** (steps // made_of.decay_every).astype(jnp.float32)


def masker_task(
    nets: Networks,
    made_of: Ingredients,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    fill: infill.Infiller | None = None,
) -> Task:
    """The masker's training as a state and a step.

    A step: the classifier sees the clean images (and learns from them, unless it is fixed); the masker turns its stage maps, as constants,
    into masks; the classifier, as it is now or was once, sees the masked images; the masker learns from its answers and, unless it is
    fixed or a past one was asked, so does the classifier.

    Args:
        nets: from `networks`.
        made_of: ingredients.
        mean: of the pixels, as the classifier wants them.
        std: the same.
        fill: what is put where the mask hides the image; None: the data set's mean.

    Raises:
        CaseJaxError: see `check`.
    """
    check(made_of)
    keeps = made_of.classifier == "history"
    masker, classifier = nets.masker.variables, nets.classifier.variables
    state = MaskerState(
        masker,
        MASKER_OPTIMISER.init(masker.params),
        classifier,
        None if made_of.classifier == "fixed" else CLASSIFIER_OPTIMISER.init(classifier.params),
        _no_history(classifier, made_of.history_size) if keeps else None,
        jnp.int32(0),
        jnp.int32(0),
    )

    def step(state: MaskerState, batch: Batch, keys: Keys) -> tuple[MaskerState, dict[str, Array]]:
        drawn, chosen, old = jax.random.split(keys.shared, 3)
        questions, masks = jax.random.split(keys.own)
        images = normalise_image(batch.images, mean, std)
        state, clean, maps = _clean_step(nets, made_of, state, images, batch.targets)
        state = _remember(made_of, state, drawn) if keeps else state
        question = _question(made_of, clean, batch, questions)
        asked = partial(_masked, nets, made_of, fill, images, jax.lax.stop_gradient(maps), question, masks)
        past = jax.random.bernoulli(chosen) if made_of.classifier.startswith("history") else None
        found = _gradients(made_of, asked, state, past, old)
        state = _learnt(made_of, state, parallel.average(found), past)
        numbers = found.numbers | {"clean_accuracy": correct(clean, batch.labels).mean()}
        return state, parallel.average(numbers)

    return Task(state, step)


def _no_history(classifier: Variables, size: int) -> Variables:
    return jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), classifier)


def _clean_step(
    nets: Networks,
    made_of: Ingredients,
    state: MaskerState,
    images: Float[Array, "B H W 3"],
    answers: Float[Array, "B C"],
) -> tuple[MaskerState, Float[Array, "B C"], tuple[Array, ...]]:
    """The classifier on clean images: its logits and stage maps, before it has learnt from them."""
    if made_of.classifier == "fixed":
        logits, maps, _ = nets.classifier(state.classifier, images, train=False)
        return state, logits, maps

    def loss_of(params: Any) -> tuple[Array, Any]:
        logits, maps, new = nets.classifier(Variables(params, state.classifier.stats), images, train=True)
        loss = optax.softmax_cross_entropy(logits, answers).mean()
        return loss, (logits, maps, new.stats)

    gradient, (logits, maps, stats) = jax.grad(loss_of, has_aux=True)(state.classifier.params)
    gradient, stats = parallel.average((gradient, stats))
    state = _classifier_step(made_of, state, gradient)
    return state._replace(classifier=Variables(state.classifier.params, stats)), logits, maps


def _classifier_step(made_of: Ingredients, state: MaskerState, gradient: Any) -> MaskerState:
    rate = _rate(made_of, made_of.classifier_rate, state.steps)
    params, memory = updated(
        CLASSIFIER_OPTIMISER, gradient, state.classifier_optimiser, state.classifier.params, rate=rate
    )
    learnt = Variables(params, state.classifier.stats)
    return state._replace(classifier=learnt, classifier_optimiser=memory)


def _remember(made_of: Ingredients, state: MaskerState, key: Array) -> MaskerState:
    """Put the classifier among the past ones every so many steps; where there is no room, in place of a random one."""
    size = made_of.history_size
    due = (state.steps % made_of.history_every == made_of.history_every - 1) | (state.held == 0)
    slot = jnp.where(state.held < size, state.held, jax.random.randint(key, (), 0, size))
    history = jax.tree.map(
        lambda h, c: h.at[slot].set(jnp.where(due, c, h[slot])), state.history, state.classifier
    )  # one slot is written, never the whole copied
    return state._replace(history=history, held=jnp.minimum(state.held + due.astype(jnp.int32), size))


class _Question(NamedTuple):
    """What the masks of a batch are about."""

    answers: Float[Array, "B C"]
    """What the classifier is trained to answer."""
    targets: Int[Array, " B"]
    rivals: Int[Array, " B"]
    """The likeliest other class."""
    counted: Bool[Array, " B"]
    """Whether the classifier finds the target without a mask."""
    sizes: Float[Array, " B"] | None


def _question(made_of: Ingredients, logits: Float[Array, "B C"], batch: Batch, key: Array) -> _Question:
    labels = batch.labels
    likeliest = jax.lax.top_k(logits, 2)[1]
    which, size = jax.random.split(key)
    targets, counted = labels, correct(logits, labels)
    if made_of.targets == "two":
        second = jax.random.bernoulli(which, shape=labels.shape)
        targets, counted = jnp.where(second, likeliest[:, 1], likeliest[:, 0]), jnp.ones_like(counted)
    rivals = jnp.where(targets == likeliest[:, 0], likeliest[:, 1], likeliest[:, 0])
    sizes = (
        jax.random.uniform(size, labels.shape, minval=SIZES[0], maxval=SIZES[1]) if made_of.size_conditional else None
    )
    return _Question(batch.targets, targets, rivals, counted, sizes)


class _Found(NamedTuple):
    """Of one batch of masked images."""

    masker_gradient: Any
    masker_stats: Any
    classifier_gradient: Any
    classifier_stats: Any
    numbers: dict[str, Array]


def _gradients(made_of: Ingredients, asked: Any, state: MaskerState, past: Array | None, key: Array) -> _Found:
    """Gradients of both losses, by the classifier as it is or, where a past one is asked, as it was."""
    if made_of.classifier != "history":
        return asked(state.masker, state.classifier, train=made_of.classifier != "fixed")
    assert past is not None
    place = jax.random.randint(key, (), 0, jnp.maximum(state.held, 1))
    former = jax.tree.map(lambda h: h[place], state.history)
    return jax.lax.cond(
        past,
        cpu_convolutions(lambda: asked(state.masker, former, train=False)),
        cpu_convolutions(lambda: asked(state.masker, state.classifier, train=True)),
    )


def _masked(
    nets: Networks,
    made_of: Ingredients,
    fill: infill.Infiller | None,
    images: Float[Array, "B H W 3"],
    maps: tuple[Array, ...],
    question: _Question,
    key: Array,
    masker: Variables,
    classifier: Variables,
    *,
    train: bool,
) -> _Found:
    """Both losses and their gradients: the masker's in its own parameters, the classifier's in its own."""
    sample, hidden_in, hidden_out = jax.random.split(key, 3)

    def losses(masker_params: Any, classifier_params: Any) -> tuple[tuple[Array, Array], Any]:
        mask, masker_stats = _mask(
            nets.masker, made_of, Variables(masker_params, masker.stats), maps, question, images, sample
        )
        judge = Variables(classifier_params, classifier.stats)
        masker_loss = jnp.zeros(())
        classifier_loss = jnp.zeros(())
        variation = total_variation(mask, weight=made_of.tv_weight).mean()
        numbers = {"mask_mean": mask.mean(), "variation": variation}
        for name, side in (("in", made_of.masked_in), ("out", made_of.masked_out)):
            if side is None:
                continue
            inside = name == "in"
            hidden = 1 - mask if inside else mask
            put = None if fill is None else fill(images, hidden, hidden_in if inside else hidden_out)
            logits, _, judge_after = nets.classifier(judge, infill.masked_in(images, 1 - hidden, put), train=train)
            judge = Variables(classifier_params, judge_after.stats)
            values = _side_loss(side, logits, mask, question, inside=inside)
            entropy = optax.softmax_cross_entropy(logits, question.answers).mean()
            masker_loss += side.weight * (values.mean() + (variation if made_of.tv_per_side else 0.0))
            classifier_loss += side.weight * entropy
            numbers |= {f"{name}_loss": values.mean(), f"{name}_accuracy": correct(logits, question.targets).mean()}
        masker_loss += 0.0 if made_of.tv_per_side else variation
        return (masker_loss, classifier_loss), (masker_stats, judge.stats, {"loss": masker_loss} | numbers)

    _, pull, (masker_stats, classifier_stats, numbers) = jax.vjp(losses, masker.params, classifier.params, has_aux=True)
    one, nothing = jnp.ones(()), jnp.zeros(())
    for_masker, for_classifier = pull((one, nothing))[0], pull((nothing, one))[1]
    return _Found(for_masker, masker_stats, for_classifier, classifier_stats, numbers)


def _mask(
    network: Network,
    made_of: Ingredients,
    masker: Variables,
    maps: tuple[Array, ...],
    question: _Question,
    images: Array,
    key: Array,
) -> tuple[Float[Array, "B H W"], Any]:
    labels = question.targets if made_of.class_conditional else None
    logits, _, after = network(masker, maps, labels=labels, sizes=question.sizes, train=True)
    drawn = partial(binary_concrete, key, temperature=made_of.temperature)
    return to_image(drawn(logits) if made_of.gumbel else jax.nn.sigmoid(logits), images.shape[1:3]), after.stats


def _side_loss(
    side: Side, logits: Float[Array, "B C"], mask: Float[Array, "B H W"], question: _Question, *, inside: bool
) -> Float[Array, " B"]:
    """Objective and reward for small masks of one side."""
    if side.objective == "contrast":
        rows = jnp.arange(len(logits))
        wins = logits[rows, question.targets] > logits[rows, question.rivals]
    else:
        wins = correct(logits, question.targets)
    earned = wins if inside else question.counted & ~wins
    counted, rivals = question.counted, question.rivals
    wanted = objective(side.objective, side.direction, logits, question.targets, counted=counted, rivals=rivals)
    return wanted + size_reward(mask, earned, weight=side.size_weight, sizes=question.sizes)


def _learnt(made_of: Ingredients, state: MaskerState, found: _Found, past: Array | None) -> MaskerState:
    """After both networks have learnt from the masked images; the classifier not where it is fixed or a past one was asked."""
    rate = _rate(made_of, made_of.masker_rate, state.steps)
    params, memory = updated(
        MASKER_OPTIMISER, found.masker_gradient, state.masker_optimiser, state.masker.params, rate=rate
    )
    masker = Variables(params, found.masker_stats)
    after = state._replace(masker=masker, masker_optimiser=memory)
    if made_of.classifier != "fixed":
        new = _classifier_step(made_of, after, found.classifier_gradient)
        new = new._replace(classifier=Variables(new.classifier.params, found.classifier_stats))
        after = new if past is None else jax.tree.map(lambda o, n: jnp.where(past, o, n), after, new)
    return after._replace(steps=state.steps + 1)


def described(made_of: Ingredients) -> dict[str, Any]:
    """The ingredients as plain values, for configurations."""
    plain = made_of._asdict()
    for side in ("masked_in", "masked_out"):
        plain[side] = None if plain[side] is None else plain[side]._asdict()
    return plain | {"stages": None if made_of.stages is None else list(made_of.stages)}

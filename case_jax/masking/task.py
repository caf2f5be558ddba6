"""A masker's training as a state and a step, with its classifier fixed or trained alongside.

Phang, Park, Geras, arXiv 2010.09750, section 3.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from case_jax import parallel
from case_jax._checks import require
from case_jax.imageops import normalise_image
from case_jax.masking import infill
from case_jax.masking.ingredients import Ingredients, check
from case_jax.masking.losses import correct
from case_jax.masking.masked_batch import Found, masked_gradients, question_of
from case_jax.masking.networks import Networks
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.training import Batch, Task, Variables
from case_jax.training.loop import Keys
from case_jax.training.optimise import updated

PAPER_DECAY, CLIP, WEIGHT_DECAY, MOMENTUM = 0.1, 10.0, 1e-4, 0.9


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


MASKER_OPTIMISER = optax.chain(
    optax.clip_by_global_norm(CLIP), optax.add_decayed_weights(WEIGHT_DECAY), optax.scale_by_adam()
)
"""Adam on clipped gradients, weight decay in the gradient, as PyTorch's; without its learning rate."""
CLASSIFIER_OPTIMISER = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM))
"""SGD with momentum, likewise; it steps up to twice where the masker steps once, so that it cannot count the steps itself."""


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
        if made_of.guidance:
            require(batch.clean is not None, "guidance", "a batch without clean sounds", "Examples(…, clean=True)")
            assert batch.clean is not None
            batch = batch._replace(clean=normalise_image(batch.clean, mean, std))
        state, clean, maps = _clean_step(nets, made_of, state, images, batch.targets)
        state = _remember(made_of, state, drawn) if keeps else state
        question = question_of(made_of, clean, batch, questions)
        asked = partial(masked_gradients, nets, made_of, fill, images, jax.lax.stop_gradient(maps), question, masks)
        past = jax.random.bernoulli(chosen) if made_of.classifier.startswith("history") else None
        found = _gradients(made_of, asked, state, past, old)
        state = _learnt(made_of, state, parallel.average(found), past)
        numbers = found.numbers | {"clean_accuracy": correct(clean, batch.labels).mean()}
        return state, parallel.average(numbers)

    return Task(state, step)


def _clean_step(
    nets: Networks,
    made_of: Ingredients,
    state: MaskerState,
    images: Float[Array, "B H W D"],
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


def _gradients(made_of: Ingredients, asked: Any, state: MaskerState, past: Array | None, key: Array) -> Found:
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


def _learnt(made_of: Ingredients, state: MaskerState, found: Found, past: Array | None) -> MaskerState:
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


def _classifier_step(made_of: Ingredients, state: MaskerState, gradient: Any) -> MaskerState:
    rate = _rate(made_of, made_of.classifier_rate, state.steps)
    params, memory = updated(
        CLASSIFIER_OPTIMISER, gradient, state.classifier_optimiser, state.classifier.params, rate=rate
    )
    learnt = Variables(params, state.classifier.stats)
    return state._replace(classifier=learnt, classifier_optimiser=memory)


def _rate(made_of: Ingredients, initial: float, steps: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate after so many steps."""
    if made_of.decay_every is None:
        return jnp.float32(initial)
    return jnp.float32(initial) * jnp.float32(PAPER_DECAY) ** (steps // made_of.decay_every).astype(jnp.float32)


def _remember(made_of: Ingredients, state: MaskerState, key: Array) -> MaskerState:
    """Put the classifier among the past ones every so many steps; where there is no room, in place of a random one."""
    size = made_of.history_size
    due = (state.steps % made_of.history_every == made_of.history_every - 1) | (state.held == 0)
    slot = jnp.where(state.held < size, state.held, jax.random.randint(key, (), 0, size))
    history = jax.tree.map(
        lambda h, c: h.at[slot].set(jnp.where(due, c, h[slot])), state.history, state.classifier
    )  # one slot is written, never the whole copied
    return state._replace(history=history, held=jnp.minimum(state.held + due.astype(jnp.int32), size))


def _no_history(classifier: Variables, size: int) -> Variables:
    return jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), classifier)

"""One batch of masked images: what is asked of it, both losses, and their gradients.

Phang, Park, Geras, arXiv 2010.09750, section 3; Paissan, Ravanelli, Subakan, L-MAC, arXiv 2403.13086.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from case_jax.masking import infill
from case_jax.masking.guidance import guidance, guided
from case_jax.masking.ingredients import Ingredients, Side
from case_jax.masking.losses import correct, objective, size_reward, total_variation
from case_jax.masking.masker import binary_concrete, to_image
from case_jax.masking.networks import Networks
from case_jax.training import Batch, Network, Variables

SIZES = (0.25, 0.75)


class Question(NamedTuple):
    """What the masks of a batch are about."""

    answers: Float[Array, "B C"]
    """What the classifier is trained to answer."""
    targets: Int[Array, " B"]
    rivals: Int[Array, " B"]
    """The likeliest other class."""
    counted: Bool[Array, " B"]
    """Whether the classifier finds the target without a mask."""
    sizes: Float[Array, " B"] | None
    clean: Float[Array, "B H W D"] | None = None
    """What the images were before noise was added, where masks are guided by it."""


def question_of(made_of: Ingredients, logits: Float[Array, "B C"], batch: Batch, key: Array) -> Question:
    """What is asked of the masks, from the clean images' logits."""
    labels = batch.labels
    likeliest = jax.lax.top_k(logits, 2)[1]
    which, size = jax.random.split(key)
    targets, counted = labels, correct(logits, labels)
    if made_of.targets == "predicted":
        targets, counted = likeliest[:, 0], jnp.ones_like(counted)
    if made_of.targets == "two":
        second = jax.random.bernoulli(which, shape=labels.shape)
        targets, counted = jnp.where(second, likeliest[:, 1], likeliest[:, 0]), jnp.ones_like(counted)
    rivals = jnp.where(targets == likeliest[:, 0], likeliest[:, 1], likeliest[:, 0])
    sizes = (
        jax.random.uniform(size, labels.shape, minval=SIZES[0], maxval=SIZES[1]) if made_of.size_conditional else None
    )
    return Question(batch.targets, targets, rivals, counted, sizes, batch.clean if made_of.guidance else None)


class Found(NamedTuple):
    """Gradients, new statistics and numbers of one batch of masked images."""

    masker_gradient: Any
    masker_stats: Any
    classifier_gradient: Any
    classifier_stats: Any
    numbers: dict[str, Array]


def masked_gradients(
    nets: Networks,
    made_of: Ingredients,
    fill: infill.Infiller | None,
    images: Float[Array, "B H W D"],
    maps: tuple[Array, ...],
    question: Question,
    key: Array,
    masker: Variables,
    classifier: Variables,
    *,
    train: bool,
) -> Found:
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
        of_mask, led = _mask_loss(made_of, mask, images, question)
        masker_loss += of_mask
        numbers |= led
        return (masker_loss, classifier_loss), (masker_stats, judge.stats, {"loss": masker_loss} | numbers)

    _, pull, (masker_stats, classifier_stats, numbers) = jax.vjp(losses, masker.params, classifier.params, has_aux=True)
    one, nothing = jnp.ones(()), jnp.zeros(())
    for_masker, for_classifier = pull((one, nothing))[0], pull((nothing, one))[1]
    return Found(for_masker, masker_stats, for_classifier, classifier_stats, numbers)


def _mask(
    network: Network,
    made_of: Ingredients,
    masker: Variables,
    maps: tuple[Array, ...],
    question: Question,
    images: Array,
    key: Array,
) -> tuple[Float[Array, "B H W"], Any]:
    labels = question.targets if made_of.class_conditional else None
    logits, _, after = network(masker, maps, labels=labels, sizes=question.sizes, train=True)
    drawn = partial(binary_concrete, key, temperature=made_of.temperature)
    return to_image(drawn(logits) if made_of.gumbel else jax.nn.sigmoid(logits), images.shape[1:3]), after.stats


def _mask_loss(
    made_of: Ingredients, mask: Float[Array, "B H W"], images: Float[Array, "B H W D"], question: Question
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What the mask costs whatever the classifier answers: its size, or, where it is guided, its distance from the clean sound's."""
    size = made_of.size_penalty * mask.mean((1, 2))
    if question.clean is None:
        return size.mean(), {}
    led = guided(question.clean, images, jax.lax.stop_gradient(mask))
    cost = jnp.where(led, made_of.guidance * guidance(question.clean, mask), size)
    return cost.mean(), {"guided": led.mean()}


def _side_loss(
    side: Side, logits: Float[Array, "B C"], mask: Float[Array, "B H W"], question: Question, *, inside: bool
) -> Float[Array, " B"]:
    """Objective and reward for small masks of one side."""
    if side.objective == "contrast":
        rows = jnp.arange(len(logits))
        wins = logits[rows, question.targets] > logits[rows, question.rivals]
    else:
        wins = correct(logits, question.targets)
    earned = wins if inside else question.counted & ~wins
    counted, rivals = question.counted, question.rivals
    wanted = objective(
        side.objective, side.direction, logits, question.targets, counted=counted, rivals=rivals, most=side.most
    )
    return wanted + size_reward(mask, earned, weight=side.size_weight, sizes=question.sizes)

"""Training of a classifier on labelled images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from case_jax import parallel
from case_jax.imageops import normalise_image
from case_jax.training.loop import Batch, Keys, Task
from case_jax.training.network import Network, Variables
from case_jax.training.optimise import updated


class ClassifierState(NamedTuple):
    """What a step changes."""

    classifier: Variables
    optimiser: Any


def classifier_task(
    module: nnx.Module,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    optimiser: optax.GradientTransformation,
) -> Task:
    """Cross-entropy by an optimiser.

    Args:
        module: the classifier, from its initial parameters or others; left untouched.
        mean: of the pixels.
        std: the same.
        optimiser: from optax, learning rate included; `adamw` gives the usual one.
    """
    network = Network(module)

    def step(state: ClassifierState, batch: Batch, keys: Keys) -> tuple[ClassifierState, dict[str, Array]]:
        images = normalise_image(batch.images, mean, std)

        def loss_of(params: Any) -> tuple[Array, Any]:
            logits, _, after = network(Variables(params, state.classifier.stats), images, train=True)
            right = (logits.argmax(-1) == batch.labels).astype(jnp.float32).mean()
            return optax.softmax_cross_entropy(logits, batch.targets).mean(), (after.stats, right)

        (loss, (stats, right)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.classifier.params)
        gradient, stats, numbers = parallel.average((gradient, stats, {"loss": loss, "accuracy": right}))
        params, memory = updated(optimiser, gradient, state.optimiser, state.classifier.params)
        return ClassifierState(Variables(params, stats), memory), numbers

    return Task(ClassifierState(network.variables, optimiser.init(network.variables.params)), step)


def adamw(steps: int, *, rate: float, weight_decay: float = 1e-3) -> optax.GradientTransformation:
    """AdamW whose learning rate rises for a twentieth of the steps and falls to zero as a cosine.

    Args:
        steps: how many there will be.
        rate: the highest learning rate.
        weight_decay: of AdamW.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), max(steps, 2))
    return optax.adamw(schedule, weight_decay=weight_decay)

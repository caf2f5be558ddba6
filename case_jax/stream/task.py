"""A stream's training as a state and a step; the network that it pools for stays as it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from case_jax import parallel
from case_jax.imageops import normalise_image
from case_jax.stream.module import Stream
from case_jax.stream.network import StreamedParams, with_stream
from case_jax.tap.view import Params, TappedModel
from case_jax.training import Batch, Task
from case_jax.training.loop import Keys
from case_jax.training.optimise import updated


class StreamState(NamedTuple):
    """What a step is given; it changes all but the network."""

    stream: Any
    optimiser: Any
    network: Params


def stream_task(
    model: TappedModel,
    stream: Stream,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    optimiser: optax.GradientTransformation,
) -> Task:
    """Cross-entropy of the network with the stream; only the stream learns, the network is in evaluation.

    The gradient ends at the maps that the token visits, so a step costs a forward pass through the network, and little more.

    Args:
        model: as `with_stream` takes it.
        stream: with its initial values; left untouched.
        mean: of the pixels, as the network wants them.
        std: the same.
        optimiser: from optax, learning rate included.

    Raises:
        CaseJaxError: as `with_stream` does.
    """
    whole = with_stream(model, stream)
    state = nnx.state(stream)
    start = StreamState(state, optimiser.init(state), model.params)

    def step(state: StreamState, batch: Batch, keys: Keys) -> tuple[StreamState, dict[str, Array]]:
        images = normalise_image(batch.images, mean, std)

        def loss_of(stream: Any) -> tuple[Array, Array]:
            logits = jax.vmap(whole.apply, (None, 0))(StreamedParams(state.network, stream), images)
            right = (logits.argmax(-1) == batch.labels).astype(jnp.float32).mean()
            return optax.softmax_cross_entropy(logits, batch.targets).mean(), right

        (loss, right), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.stream)
        gradient, numbers = parallel.average((gradient, {"loss": loss, "accuracy": right}))
        learnt, memory = updated(optimiser, gradient, state.optimiser, state.stream)
        return StreamState(learnt, memory, state.network), numbers

    return Task(start, step)


def learnt(stream: Stream, state: StreamState) -> Stream:
    """A copy of the stream with what it has learnt."""
    return nnx.merge(nnx.graphdef(stream), state.stream, copy=True)

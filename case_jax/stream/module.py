"""What is learnt: a token, and a projection behind each map that it visits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.stream.pooling import Pooled, attention_pool


class Stream(nnx.Module):
    """A token that visits a network's maps one after the other and ends as their pooled features.

        q_0 learnt;   r_l = pool(F_l, q_l);   q_{l+1} = W_l r_l + b_l,   l = 0 … L;   the answer is q_{L+1}

    There is no residual, no normalisation and no perceptron. With one map alone (the last) it is the paper's simpler variant.

    As the public code does: q_0 is drawn from a normal law of mean 1 and deviation 1, W by Xavier's uniform law, b from ±1/√d.

    Args:
        channels: of the maps, in the network's order; the answer has as many as the last.
        heads: of the attention; a divisor of all of them.
        rngs: for the initial values.

    Raises:
        CaseJaxError: for no map, or a number of heads that does not divide every map's channels.
    """

    def __init__(self, channels: Sequence[int], *, heads: int = 1, rngs: nnx.Rngs):
        require(len(channels) >= 1, "channels", tuple(channels), "those of at least one map")
        proper = heads >= 1 and all(count % heads == 0 for count in channels)
        require(proper, "heads", f"{heads} for maps of {tuple(channels)} channels", "a divisor of all of them")
        self.channels, self.heads = tuple(channels), heads
        self.query = nnx.Param(1 + jax.random.normal(rngs.params(), (channels[0],)))
        self.projections = nnx.List(
            [_projection(a, b, rngs) for a, b in zip(channels, (*channels[1:], channels[-1]), strict=True)]
        )

    def visits(self, maps: Sequence[Float[Array, "*space k"]]) -> tuple[Pooled, ...]:
        """What the token takes from each map of one image.

        Raises:
            CaseJaxError: unless there are as many maps as the stream has projections, of the same channels.
        """
        given = tuple(features.shape[-1] for features in maps)
        require(given == self.channels, "maps", f"maps of {given} channels", f"maps of {self.channels} channels")
        found: list[Pooled] = []
        for number, features in enumerate(maps):
            query = self.projections[number - 1](found[-1].features) if found else self.query[...]
            found.append(attention_pool(features, query.astype(features.dtype), heads=self.heads))
        return tuple(found)

    def __call__(self, maps: Sequence[Float[Array, "*space k"]]) -> Float[Array, " K"]:
        """The pooled features that take the place of the last map's average."""
        return self.projections[-1](self.visits(maps)[-1].features)


def _projection(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    bound = inputs**-0.5

    def bias(key: Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)  # type: ignore[arg-type]

    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.xavier_uniform(), bias_init=bias, rngs=rngs)

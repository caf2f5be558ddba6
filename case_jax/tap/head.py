"""The closed form of class weights: a tail that acts on each channel alone up to a first dense layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from case_jax._checks import require
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.split import Tail, only_backwards, split

HEAD_INPUT = "case_jax.head_input"
HEAD_OUTPUT = "case_jax.head_output"
CHUNK = 64
"""Most features in front of the head whose gradients are in memory at once."""

Weights = Callable[[Int[Array, " n"]], Float[Array, "n K"]]
"""Class indices to class weights; those of a view are pytrees."""


def at_least_float32(array: Array) -> Array:
    """Weights and maps are computed in float32 also for models in bfloat16 or float16, and in float64 for those."""
    return array if jnp.finfo(array.dtype).bits >= 32 else array.astype(jnp.float32)


@partial(jax.tree_util.register_dataclass, data_fields=["tail"], meta_fields=["first", "count", "total"])
@dataclass(frozen=True, eq=False)
class HeadInputs:
    """The features in front of the head as a function of the activation; a pytree."""

    tail: Tail
    """The classifier after the layer, the head's input tagged."""
    first: int
    """The first of the layer's channels among those in front of the head."""
    count: int
    """How many channels the layer has."""
    total: int
    """How many are in front of the head."""

    def __call__(self, activation: Float[Array, "*space K"]) -> Float[Array, "P K"]:
        """P features of each channel."""
        features = split(self.tail, HEAD_INPUT)(activation)[0].reshape(-1, self.total)
        return features[:, self.first : self.first + self.count]


class Head(NamedTuple):
    """The first dense layer behind the tapped one, as one image meets it; channels do not mix before it.

    `y = rest(z)`, `z = Σ_k Σ_p kernel[p,k] x[p,k] + (what the layer's other inputs and its bias give)`, where `x[p,k]` depends on
    channel k of the activation alone.
    """

    inputs: Callable[[Float[Array, "*space K"]], Float[Array, "P K"]]
    """The features x in front of the dense layer, P of each channel: 1 behind a global average pool."""
    kernel: Float[Array, "P K M"]
    output: Float[Array, " M"]
    """z of this image."""
    rest: Callable[[Float[Array, " M"]], Float[Array, " C"]] | None
    """What follows the dense layer; None when z are the logits."""


def positions_first(rows: Float[Array, "F *M"], channels: int) -> Float[Array, "F *M"]:
    """A head's inputs from (channel, position) to (position, channel); as they are where they are no whole channels, which is refused later."""
    return _turned(rows, channels, -1)


def channels_first(rows: Float[Array, "F *M"], channels: int) -> Float[Array, "F *M"]:
    """The inverse of `positions_first`."""
    return _turned(rows, -1, channels)


def _turned(rows: Array, *shape: int) -> Array:
    if rows.shape[0] % max(shape):
        return rows
    return jnp.swapaxes(rows.reshape(*shape, *rows.shape[1:]), 0, 1).reshape(rows.shape)


def one_head(linear_head: str | None, dense_head: str | None) -> str | None:
    """The declared head's path, of which an adapter takes one kind.

    Raises:
        CaseJaxError: when both are given.
    """
    accepted = "one of the two: linear_head where it is the last layer, dense_head where others follow it"
    require(
        linear_head is None or dense_head is None,
        "linear_head, dense_head",
        f"{linear_head!r}, {dense_head!r}",
        accepted,
    )
    return linear_head or dense_head


def as_used(kernel: Array, dtype: Any) -> Array:
    """A kernel as a dense layer reads it: rounded to the type in which it computes, where it says one."""
    return kernel if dtype is None else kernel.astype(dtype)


def head_of(
    tail: Tail,
    activation: Float[Array, "*space K"],
    logits: Float[Array, " C"],
    kernel: Float[Array, "F M"],
    *,
    channels: tuple[int, int] | None,
    last: bool,
) -> Head:
    """The declared head behind an activation.

    Args:
        tail: the classifier after the layer, the head's input tagged and, unless it is the last layer, its output.
        activation: one image's.
        logits: `tail(activation)`.
        kernel: of the dense layer; its inputs are ordered (position, channel).
        channels: the first of the layer's channels among those in front of the head, and how many these are; None for all.
        last: whether the dense layer's output are the logits.
    """
    count = activation.shape[-1]
    first, total = channels or (0, count)
    blocks = kernel.reshape(-1, total, kernel.shape[-1])[:, first : first + count]
    output, rest = (logits, None) if last else split(tail, HEAD_OUTPUT)(activation)
    return Head(HeadInputs(tail, first, count, total), blocks, output, rest)


def response(head: Head, activation: Float[Array, "*space K"]) -> Float[Array, "P K"]:
    """`Σ_s ∂x[p,k]/∂A[s,k] / S` over the S places, for all channels from one forward-mode pass: a uniform shift of every channel by one.

    Where something in front of the head has a gradient of its own, from a backward pass for each of the P features.
    """
    size = math.prod(activation.shape[:-1])
    if not only_backwards(head.inputs, activation):
        _, d = jax.jvp(head.inputs, (activation,), (jnp.ones_like(activation),))
        return at_least_float32(d) / size
    features, pull = jax.vjp(head.inputs, activation)

    def of_feature(position: Array) -> Array:
        row = jnp.zeros_like(features).at[position].set(1)  # channels do not mix, so one pass serves them all
        return at_least_float32(pull(row)[0]).sum(tuple(range(activation.ndim - 1))) / size

    return map_in_chunks(of_feature, jnp.arange(len(features)), chunk=CHUNK)


def _shifts(head: Head, activation: Float[Array, "*space K"]) -> Float[Array, "K M"]:
    """How z answers a uniform shift of each channel."""
    kernel = at_least_float32(head.kernel)
    return jnp.einsum("pkm,pk->km", kernel, response(head, activation), precision=jax.lax.Precision.HIGHEST)


class Factors(NamedTuple):
    """Class weights as a product, `α_c[k] = columns[c,k] · response[k]`, columns those of the head's kernel."""

    columns: Float[Array, "C K"]
    """One row per class: its column of the kernel, the same for all images."""
    response: Float[Array, " K"]
    """d of this image."""

    def rows(self, classes: Int[Array, " n"]) -> Float[Array, "n K"]:
        """Columns of the given classes; NaN for a class that does not exist."""
        exists = (classes >= 0) & (classes < len(self.columns))
        return jnp.where(exists[:, None], self.columns[classes], jnp.nan)


def factors(head: Head | None, activation: Float[Array, "*space K"]) -> Factors | None:
    """The factors of class weights where the head's output are the logits and it sees one number per channel; else None."""
    if head is None or head.rest is not None or len(head.kernel) != 1:
        return None
    return Factors(at_least_float32(head.kernel[0]).T, response(head, activation)[0])


def closed_form(head: Head, activation: Float[Array, "*space K"]) -> Weights:
    """Weights of any classes: `α_c[k] = Σ_p Σ_m ∂y_c/∂z[m] · kernel[p,k,m] · d[p,k] / (HW)`.

    `d[p,k] = Σ_{hw} ∂x[p,k]/∂A[h,w,k]`, see `response`. Where z are the logits, `∂y_c/∂z` is a unit vector, and the kernel's column c
    is looked up. True only if `x[.,k]` depends on channel k alone.
    """
    if head.rest is None:
        return Partial(_columns_times, jnp.moveaxis(head.kernel, -1, 0), response(head, activation))
    logits, pull = jax.vjp(head.rest, head.output)
    return Partial(_through_rest, logits, pull, _shifts(head, activation))


def _columns_times(
    columns: Float[Array, "C P K"], response: Float[Array, "P K"], classes: Int[Array, " n"]
) -> Float[Array, "n K"]:
    return (at_least_float32(columns[classes]) * response).sum(1)


def _through_rest(
    logits: Float[Array, " C"], pull: Callable[..., Any], shifts: Float[Array, "K M"], classes: Int[Array, " n"]
) -> Float[Array, "n K"]:
    rows = jax.nn.one_hot(classes, len(logits), dtype=logits.dtype)
    gradients = at_least_float32(jax.vmap(lambda row: pull(row)[0])(rows))
    return jnp.einsum("nm,km->nk", gradients, shifts, precision=jax.lax.Precision.HIGHEST)


def all_weights(head: Head, activation: Float[Array, "*space K"], num_classes: int) -> Float[Array, "C K"]:
    """`closed_form` for all classes at once: what follows the head is passed forwards or backwards, whichever is fewer and possible."""
    if head.rest is None or activation.shape[-1] >= num_classes or only_backwards(head.rest, head.output):
        return closed_form(head, activation)(jnp.arange(num_classes))
    shifts = _shifts(head, activation).astype(head.output.dtype)
    _, push = jax.linearize(head.rest, head.output)
    return at_least_float32(jax.vmap(push)(shifts)).T

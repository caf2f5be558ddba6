"""The blocks of a transformer: the stream of tokens that they add to, cut after each, and what the classifier says of each cut."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jax.extend.core import Literal as Constant
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.attention import Attention, Reduce, empty, observed
from case_jax.tap.flattening import beginning, replay
from case_jax.tap.split import read

Pool = Literal["mean", "network"]


def ends(attention: Attention) -> list[Any]:
    """The tokens behind each block, as variables of the flat program.

    A block ends in the last sum of two values, both of the image, through which everything passes that the logits know of the image, and
    that comes before the next attention.

    Raises:
        CaseJaxError: for an attention behind which there is none, as its network does not add to one stream of tokens.
    """
    jaxpr = attention.flat.jaxpr
    tokens = attention.places[0].shape[-1]
    sums = [(i, v) for i, v in _bottlenecks(jaxpr) if tokens in v.aval.shape]
    number = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.outvars}
    starts = [number[place.value] for place in attention.places]
    found = []
    for start, stop in zip(starts, [*starts[1:], len(jaxpr.eqns)], strict=True):
        inside = [v for i, v in sums if start < i < stop]
        if not inside or inside[-1].aval.shape != sums[-1][1].aval.shape:
            raise CaseJaxError(
                f"model: no sum of all tokens follows the attention number {len(found)}, so the network is no stack of blocks that add to "
                "one stream of tokens, which this method cuts after each block; take gradient_rollout or attention_rollout."
            )
        found.append(inside[-1])
    return found


def _bottlenecks(jaxpr: Jaxpr) -> list[tuple[int, Any]]:
    """The sums of two values of the image through which all passes that the output knows of it: equation and variable, in order."""
    wanted, needed = set(jaxpr.outvars), []
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if wanted & set(eqn.outvars):
            needed.append(i)
            wanted.update(v for v in eqn.invars if not isinstance(v, Constant))
    needed.reverse()
    last = {v: i for i in needed for v in jaxpr.eqns[i].invars if not isinstance(v, Constant)}
    last |= dict.fromkeys(jaxpr.outvars, len(jaxpr.eqns))
    alive, found = set(jaxpr.invars), []
    for i in needed:
        eqn = jaxpr.eqns[i]
        of_image = [v for v in eqn.invars if not isinstance(v, Constant) and v in alive]
        if of_image:
            alive.update(v for v in eqn.outvars if v in last)
        alive = {v for v in alive if last.get(v, -1) > i}
        if eqn.primitive.name == "add" and len(of_image) == 2 and alive == set(eqn.outvars):
            found.append((i, eqn.outvars[0]))
    return found


def block_pullback(
    attention: Attention, x: Array, reduce: Reduce, *, pool: Pool, last: int | None = None
) -> Callable[[Array], tuple[Array, ...]]:
    """`reduce(A_l, ∂⟨row, y^l⟩/∂A_l)` of each attention l, with y^l the logits that the classifier gives the tokens behind block l.

    What stands behind the last block, final normalisation and head, reads these tokens in place of its own. Only block l is
    differentiated: the tokens before it are constants.

    Args:
        attention: of a network of blocks that add to one stream of tokens.
        x: the network's argument.
        reduce: as for `Attention.pullback`.
        pool: "network", the tokens as they are; "mean", the mean of all tokens in place of each.
        last: of how many blocks, counted from the last; None for all.

    Raises:
        CaseJaxError: for a network without such a stream.
    """
    cuts = ends(attention)
    kept = len(cuts) if last is None else last
    seen, jaxpr = attention.places[-kept:], attention.flat.jaxpr
    stop = 1 + next(i for i, eqn in enumerate(jaxpr.eqns) if cuts[-1] in eqn.outvars)
    axis = cuts[-1].aval.shape.index(attention.places[-1].shape[-1])

    def run(slots: tuple[Array, ...]) -> Array:
        streams: list[Array] = []

        def cut(stream: Array) -> Array:
            streams.append(stream)
            return jax.lax.stop_gradient(stream)

        env = beginning(attention.flat, x)
        replay(jaxpr.eqns[:stop], env, {**dict.fromkeys(cuts, cut), **observed(seen, slots, reduce)})

        def logits(stream: Array) -> Array:
            if pool == "mean":
                stream = jnp.broadcast_to(stream.mean(axis, keepdims=True), stream.shape)
            behind = env | {cuts[-1]: stream}
            replay(jaxpr.eqns[stop:], behind, {})
            return read(behind, jaxpr.outvars[0])

        return jax.vmap(logits)(jnp.stack(streams[-kept:]))

    logits, pull = jax.vjp(run, empty(seen, reduce))
    return lambda row: pull(jnp.broadcast_to(row.astype(logits.dtype), logits.shape))[0]

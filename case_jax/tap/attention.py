"""Attention probabilities found in a traced network, whatever the network calls them, and gradients with respect to them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError
from case_jax.tap.flattening import beginning, flattened, operations, replay
from case_jax.tap.gates import RESHAPING
from case_jax.tap.head import at_least_float32
from case_jax.tap.split import read

KEEPING = ("convert_element_type", "copy", "mul", "name", "reduce_precision", "select_n", "stop_gradient")
"""Operations between probabilities and values that leave each probability in its place: a change of type, a mask, dropout."""
FUSED = ("dot_product_attention", "flash", "fmha")
"""In the names of primitives that hold a whole attention."""

Matrix = Float[Array, "heads n m"]
Reduce = Callable[[Matrix, Matrix], Array]
"""Probabilities and a gradient with respect to them to what is kept of both."""


class Place(NamedTuple):
    """One attention in a flat program."""

    value: Any
    """The variable of the probabilities."""
    query: int
    """The axis of queries."""
    key: int
    """The axis along which probabilities sum to one."""

    def matrix(self, value: Array) -> Matrix:
        """Probabilities or a gradient of them, one row a query, at least in float32; all other axes are heads."""
        moved = jnp.moveaxis(at_least_float32(value), (self.query, self.key), (-2, -1))
        return moved.reshape(-1, *moved.shape[-2:])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, queries, keys."""
        shape = self.value.aval.shape
        return self.value.aval.size // (shape[self.query] * shape[self.key]), shape[self.query], shape[self.key]


class Attention(NamedTuple):
    """A network as a flat program, and its attentions in order of evaluation."""

    flat: ClosedJaxpr
    places: tuple[Place, ...]

    def matrices(self, x: Array) -> tuple[Matrix, ...]:
        """The probabilities of each attention, from one forward pass."""
        env = beginning(self.flat, x)
        replay(self.flat.jaxpr.eqns, env, {})
        return tuple(place.matrix(env[place.value]) for place in self.places)

    def pullback(self, x: Array, reduce: Reduce) -> Callable[[Array], tuple[Array, ...]]:
        """`reduce(A_l, ∂⟨row, y⟩/∂A_l)` of each attention l, from one forward pass and one backward pass for each row.

        The gradient is that of a disturbance of A_l with all that comes after it. It is reduced where it arises, so that of many rows at
        once no more than what is kept is in memory.
        """

        def run(slots: tuple[Array, ...]) -> Array:
            env = beginning(self.flat, x)
            replay(self.flat.jaxpr.eqns, env, observed(self.places, slots, reduce))
            return read(env, self.flat.jaxpr.outvars[0])

        logits, pull = jax.vjp(run, empty(self.places, reduce))
        return lambda row: pull(row.astype(logits.dtype))[0]


def empty(places: Sequence[Place], reduce: Reduce) -> tuple[Array, ...]:
    """Zeros of the shape of what is kept of each attention."""
    kept = (jax.eval_shape(reduce, *2 * [jax.ShapeDtypeStruct(place.shape, jnp.float32)]) for place in places)
    return tuple(jnp.zeros(one.shape, one.dtype) for one in kept)


def observed(places: Sequence[Place], slots: Sequence[Array], reduce: Reduce) -> Mapping[Any, Callable[[Array], Array]]:
    """Changes of a program that leave all values as they are and give each slot what is kept of its attention as its gradient."""
    return {place.value: partial(_observed(place, reduce), slot) for place, slot in zip(places, slots, strict=True)}


def _observed(place: Place, reduce: Reduce) -> Callable[[Array, Array], Array]:
    @jax.custom_vjp
    def same(slot: Array, value: Array) -> Array:
        return value

    def back(value: Array, gradient: Array) -> tuple[Array, Array]:
        return reduce(place.matrix(value), place.matrix(gradient)), gradient

    same.defvjp(lambda slot, value: (value, value), back)
    return same


def attention(function: Callable[[Array], Array], x: Any) -> Attention:
    """The attentions of a function.

    An attention is a softmax over the last axis, `exp(s − max s) / Σ exp(s − max s)`, whose result is multiplied, along that axis, with
    values; a mask, dropout or a change of type or of the order of axes may lie between. Calls and scans are looked into.

    Args:
        function: a traceable function of one array that returns one array.
        x: an argument, or a `jax.ShapeDtypeStruct`; only its shape and type matter.

    Returns:
        The flat program with its attentions; none where there are none.

    Raises:
        CaseJaxError: where attention is computed by a fused kernel, which keeps no probabilities, or inside a `while` loop or branch.
    """
    flat = flattened(function, x)
    fused = sorted(n for n in operations(flat.jaxpr) if any(word in n for word in FUSED))
    if fused:
        raise CaseJaxError(
            f"model: its attention is fused ({fused[0]!r}) and never holds its probabilities; switch that off: implementation='xla' in "
            "jax.nn.dot_product_attention, or the attention_fn of the layer left at Flax's own."
        )
    return Attention(flat, tuple(places(flat.jaxpr)))


def places(jaxpr: Jaxpr) -> list[Place]:
    """The attentions of a flat program."""
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    found = (_multiplied(jaxpr.eqns[i:], eqn.outvars[0]) for i, eqn in enumerate(jaxpr.eqns) if _is_softmax(eqn, made))
    return [place for place in found if place is not None]


def _is_softmax(eqn: JaxprEqn, made: Mapping[Any, JaxprEqn]) -> bool:
    """Whether an equation is the division in which a softmax over the last axis ends."""
    if eqn.primitive.name != "div":
        return False
    above, below = (_maker(v, made) for v in eqn.invars)
    if above is None or below is None or (above.primitive.name, below.primitive.name) != ("exp", "reduce_sum"):
        return False
    last = len(_shape(below.invars[0])) - 1
    return _maker(below.invars[0], made) is above and tuple(below.params["axes"]) == (last,)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _maker(atom: Any, made: Mapping[Any, JaxprEqn]) -> JaxprEqn | None:
    """The equation that makes a value, behind changes of shape and type."""
    eqn = None if isinstance(atom, Literal) else made.get(atom)
    while eqn is not None and eqn.primitive.name in RESHAPING:
        source = eqn.invars[0]
        eqn = None if isinstance(source, Literal) else made.get(source)
    return eqn


def _multiplied(later: Sequence[JaxprEqn], value: Any) -> Place | None:
    """The place of probabilities that are multiplied with values along their last axis; None where they are not."""
    axes = range(len(_shape(value)))
    at: dict[Any, tuple[int, ...]] = {
        value: tuple(axes)
    }  # for each value that holds them, which of their axes stands where
    for eqn in later:
        name = eqn.primitive.name
        for side, v in enumerate(eqn.invars):
            if isinstance(v, Literal) or v not in at:
                continue
            if name in KEEPING and _shape(eqn.outvars[0]) == _shape(v):
                at[eqn.outvars[0]] = at[v]
            elif name == "transpose":
                at[eqn.outvars[0]] = tuple(at[v][i] for i in eqn.params["permutation"])
            elif name == "dot_general":
                contracted, batched = (sides[side] for sides in eqn.params["dimension_numbers"])
                free = [at[v][i] for i in axes if i not in contracted and i not in batched]
                if [at[v][i] for i in contracted] == [axes[-1]] and free:
                    return Place(value, max(free), axes[-1])
    return None

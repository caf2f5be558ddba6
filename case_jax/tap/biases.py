"""The biases of a network, wherever they are in its traced program: what the output has besides its gradient at the input times the input."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read

SHAPING = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "name", "neg", "reshape", "squeeze", "transpose")  # fmt: skip
ADDING = ("add", "add_any", "sub")
HOMOGENEOUS = (
    *ADDING, "abs", "concatenate", "cumsum", "dynamic_slice", "gather", "max", "min", "pad", "reduce_max", "reduce_min", "reduce_sum",
    "reduce_window_max", "reduce_window_sum", "rev", "select_n", "slice",
)  # fmt: skip
"""Primitives f with f(t v) = t f(v) for t > 0, all float operands that are not zero taken together."""
BILINEAR = ("conv_general_dilated", "dot_general", "mul")


class Decomposition(NamedTuple):
    """`f(x) = ⟨f'(x), x⟩ + Σ_l ⟨∂f/∂z_l, b_l⟩`, with the values z_l at which biases come in."""

    output: Array
    biases: list[Array]
    """b_l, in the shapes of z_l."""
    pull: Callable[[Array], tuple[Array, list[Array]]]
    """A cotangent of the output to its gradients at x and at all z_l."""
    program: Jaxpr
    """The function, traced."""


def decomposed(function: Callable[[Array], Array], x: Array) -> Decomposition:
    """A function's output as a sum over its input and its biases, exact but for rounding.

    A bias is what is added to a value that depends on x, and what a primitive that is not homogeneous adds of itself, `f(v) − f'(v) v`. On their way
    through shapes, constant factors and further sums biases are taken together, so a normalisation by fixed statistics behind a convolution has one.

    Args:
        function: a traceable function of one array that returns one array.
        x: the argument.
    """
    closed = jax.make_jaxpr(function)(x)

    def run(x: Array, probes: Sequence[Array] | None) -> tuple[Array, list[Array]]:
        met = _Met(probes)
        (out,) = _run(closed.jaxpr, closed.consts, [_Seen(x)], met)
        return (out.settled(met) if isinstance(out, _Seen) else out), met.biases

    shapes = jax.eval_shape(partial(run, probes=None), x)[1]
    probes = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    output, pull, biases = jax.vjp(run, x, probes, has_aux=True)
    return Decomposition(output, biases, pull, closed.jaxpr)


class _Met:
    """The biases met so far, and zeros of their shapes that are added where they come in, so that gradients there can be asked for."""

    def __init__(self, probes: Sequence[Array] | None):
        self.probes, self.biases = probes, []

    def add(self, value: Array, bias: Array) -> Array:
        self.biases.append(jax.lax.stop_gradient(bias))
        return value if self.probes is None else value + self.probes[len(self.biases) - 1]


class _Seen:
    """A value that depends on the input, with the bias in it that has not been noted yet."""

    def __init__(self, value: Array, bias: Array | None = None):
        self.value, self.bias, self._settled = value, bias, None

    def settled(self, met: _Met) -> Array:
        """The value, its bias noted once."""
        if self.bias is None:
            return self.value
        if self._settled is None:
            self._settled = met.add(self.value, self.bias)
        return self._settled


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], met: _Met) -> list[Any]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(env, v) for v in eqn.invars]
        seen = any(isinstance(operand, _Seen) for operand in operands)
        if not seen:
            out = _bound(eqn, operands)
        elif eqn.primitive.name in CALLS and not _rectifies(eqn):
            body, body_consts = next(inner_jaxprs(eqn))
            out = _run(body, body_consts, operands, met)
        else:
            out = _through(eqn, operands, met)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(env, v) for v in jaxpr.outvars]


def _bound(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    env = {v: value for v, value in zip(eqn.invars, operands, strict=True) if not isinstance(v, Literal)}
    evaluate([eqn], env)
    return [env[v] for v in eqn.outvars]


def _through(eqn: JaxprEqn, operands: Sequence[Any], met: _Met) -> list[Any]:
    """The outputs of an equation of which some operands depend on the input."""
    name, which = eqn.primitive.name, [i for i, operand in enumerate(operands) if isinstance(operand, _Seen)]
    if not any(map(_is_float, eqn.outvars)):  # comparisons: constant around the input
        return _bound(eqn, [o.value if isinstance(o, _Seen) else o for o in operands])
    if len(which) == 1 and (name in SHAPING or name in ADDING or name == "mul" or (name == "div" and which == [0])):
        (own,) = which
        values, bias = list(operands), operands[own].bias
        values[own] = operands[own].value
        (out,) = _bound(eqn, values)
        if bias is None and name not in ADDING:
            return [_Seen(out)]
        values[own] = jnp.zeros_like(values[own]) if bias is None else bias
        return [_Seen(out, *_bound(eqn, values))]
    values = [o.settled(met) if isinstance(o, _Seen) else o for o in operands]
    out = _bound(eqn, values)
    biases = [None] * len(out) if _homogeneous(eqn, which) else _residuals(eqn, values, which)
    return [
        _Seen(*pair) if _is_float(v) else pair[0]
        for v, pair in zip(eqn.outvars, zip(out, biases, strict=True), strict=True)
    ]


def _homogeneous(eqn: JaxprEqn, which: Sequence[int]) -> bool:
    name = eqn.primitive.name
    if name in BILINEAR:
        return len(which) == 1
    if name not in HOMOGENEOUS:
        return _rectifies(eqn)
    return all(i in which or not _is_float(v) or _is_zero(v) for i, v in enumerate(eqn.invars))


def _is_float(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def _is_zero(atom: Any) -> bool:
    return isinstance(atom, Literal) and not atom.val


def _rectifies(eqn: JaxprEqn) -> bool:
    """Whether a call of one operand is no more than `max(v, 0)`, with a derivative of its own at 0."""
    bodies = [body for body, _ in inner_jaxprs(eqn)] if eqn.primitive.name in CALLS else []
    if len(bodies) != 1 or len(eqn.invars) != 1 or len(bodies[0].eqns) != 1:
        return False
    (inner,) = bodies[0].eqns
    return _rectifies(inner) or (inner.primitive.name == "max" and any(map(_is_zero, inner.invars)))


def _residuals(eqn: JaxprEqn, values: Sequence[Any], which: Sequence[int]) -> list[Array | None]:
    """`f(v) − f'(v) v` of each output of an equation, None of integers, as a function of the operands that depend on the input."""

    def of_seen(*seen: Array) -> list[Array]:
        own = list(values)
        for i, value in zip(which, seen, strict=True):
            own[i] = value
        return _bound(eqn, own)

    at = [jax.lax.stop_gradient(values[i]) for i in which]
    out, linear = jax.jvp(of_seen, at, at)
    return [a - b if _is_float(v) else None for v, a, b in zip(eqn.outvars, out, linear, strict=True)]

"""A traced function as one flat program: calls spelt out and loops written out wherever they hold what is to be changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read, scan_parts

SOFTMAX = frozenset({"exp", "reduce_sum", "div"})
"""What a softmax is made of."""


def operations(jaxpr: Jaxpr) -> set[str]:
    """The names of all primitives of a program, those inside its equations included."""
    found = {eqn.primitive.name for eqn in jaxpr.eqns}
    return found.union(*(operations(inner) for eqn in jaxpr.eqns for inner, _ in inner_jaxprs(eqn)))


def flattened(function: Callable[[Array], Array], x: Any, touched: frozenset[str] = frozenset()) -> ClosedJaxpr:
    """The program of a function, flat as far as softmaxes and the `touched` operations go.

    Calls are spelt out. A call with a derivative rule of its own is spelt out, and loses the rule, only where it holds a softmax or a
    touched operation; a scan that does is written out, iteration by iteration.

    Args:
        function: a traceable function of one array that returns one array.
        x: an argument, or a `jax.ShapeDtypeStruct`; only its shape and type matter.
        touched: names of primitives.

    Raises:
        CaseJaxError: where a `while` loop or a branch holds a softmax or a touched operation.
    """
    closed = jax.make_jaxpr(function)(x)
    opening = _Opening(touched)
    return jax.make_jaxpr(lambda *args: opening.run(closed.jaxpr, closed.consts, args))(*closed.in_avals)


class _Opening:
    """A program evaluated with its calls and loops spelt out."""

    def __init__(self, touched: frozenset[str]):
        self.touched = touched

    def _opens(self, body: Jaxpr) -> bool:
        found = operations(body)
        return found >= SOFTMAX or not found.isdisjoint(self.touched)

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """The outputs."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            name, bodies = eqn.primitive.name, list(inner_jaxprs(eqn))
            opens = any(self._opens(body) for body, _ in bodies)
            if bodies and name in CALLS and (opens or not name.startswith("custom")):
                out = self.run(*bodies[0], [read(env, v) for v in eqn.invars])
            elif opens and name == "scan":
                out = self._iterations(eqn, [read(env, v) for v in eqn.invars])
            elif opens and name in ("while", "cond"):
                inside = [operations(body) for body, _ in bodies]
                what = (
                    "a softmax"
                    if any(found >= SOFTMAX for found in inside)
                    else min(self.touched & set().union(*inside))
                )
                raise CaseJaxError(
                    f"model: {what} lies inside a {name!r} loop or branch, which this method cannot look into; write the loop as "
                    "jax.lax.scan or a Python loop, or leave out the methods for transformers."
                )
            else:
                evaluate([eqn], env)
                continue
            env.update(zip(eqn.outvars, out, strict=True))
        return [read(env, v) for v in jaxpr.outvars]

    def _iterations(self, eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
        """The outputs of a scan, every iteration in turn."""
        body, backwards = eqn.params["jaxpr"], eqn.params["reverse"]
        start, carries = scan_parts(eqn)
        shared, stacked = operands[:start], operands[start + carries :]
        carry, rows = operands[start : start + carries], []
        order = range(eqn.params["length"])
        for i in reversed(order) if backwards else order:
            out = self.run(body.jaxpr, body.consts, [*shared, *carry, *(x[i] for x in stacked)])
            carry = out[:carries]
            rows.append(out[carries:])
        return [*carry, *(jnp.stack(ys) for ys in zip(*(rows[::-1] if backwards else rows), strict=True))]


Changes = Mapping[Any, Callable[[Array], Array]]
"""By variable of a program, what takes the place of its value."""


def replay(eqns: Sequence[JaxprEqn], env: dict[Any, Any], changes: Changes) -> None:
    """Evaluate equations in turn, some of their values changed."""
    for eqn in eqns:
        evaluate([eqn], env)
        for v in eqn.outvars:
            if v in changes:
                env[v] = changes[v](env[v])


def beginning(flat: ClosedJaxpr, x: Array) -> dict[Any, Any]:
    """The values that a program of one argument starts with."""
    return dict(zip([*flat.jaxpr.constvars, *flat.jaxpr.invars], [*flat.consts, x], strict=True))

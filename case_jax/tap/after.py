"""A tap behind the rectifier that takes a layer's output, where a network calls it as a function: `nnx.relu(self.conv(x))`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import name_p
from jaxtyping import Array

from case_jax._checks import CaseJaxError, require
from case_jax.tap.layer import Tapped
from case_jax.tap.outputs import changed
from case_jax.tap.relu import RESHAPING, inlined, rectifiers
from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read, require_once, tag, tags

BEFORE = "case_jax.before:"
"""Before a module's path this is the tag of its output where another value is tapped."""
BOUNDING = ("max", "min")


def require_after(after: str | None) -> None:
    """Raise unless it is known what is meant."""
    require(after in (None, "relu"), "after", repr(after), "'relu', or None for the layer's own output")


def tag_before(output: Any, tapped: Tapped) -> Any:
    """Mark what is tapped of a layer's output, for `after_relu` to find."""
    return changed(output, tapped.output, lambda value: tag(value, BEFORE + tapped.layer), tapped.layer)


def after_relu(function: Callable[..., Array], tapped: Tapped) -> Callable[..., Array]:
    """The same function with the layer's tag on the output of the one rectifier that takes the layer's output.

    A rectifier is `max(v, 0)`, as in `replace_relus`, alone or in a call that does no more than bound its input (`jax.nn.relu`,
    `jax.nn.relu6`); its derivative stays its own.

    Args:
        function: a traceable function of parameters and one image with one output, the layer's output marked by `tag_before`.
        tapped: the layer, and how its tokens lie.

    Raises:
        CaseJaxError: when traced: unless the layer is called once, and one rectifier takes its output, with nothing in between but
            changes of shape or type.
    """
    layer = tapped.layer
    name, whole = BEFORE + layer, tapped._replace(output=None)

    def run(*args: Any) -> Array:
        closed = jax.make_jaxpr(function)(*args)
        require_once(tags(closed.jaxpr), name, layer)
        leaves = jax.tree.leaves(args)
        flat = jax.make_jaxpr(lambda *leaves: _spelt_out(closed.jaxpr, closed.consts, leaves, name))(*leaves)
        place = _place(flat, name, layer)
        env = dict(zip([*flat.jaxpr.constvars, *flat.jaxpr.invars], [*flat.consts, *leaves], strict=True))
        for i, eqn in enumerate(flat.jaxpr.eqns):
            evaluate([eqn], env)
            if i == place:
                env[eqn.outvars[0]] = whole.tag(env[eqn.outvars[0]], args[-1].shape)
        return read(env, flat.jaxpr.outvars[0])

    return run


def _spelt_out(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], name: str) -> list[Any]:
    """Evaluate a jaxpr with the calls that hold the tag spelt out."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        inside = [body for body in inner_jaxprs(eqn) if name in tags(body[0])]
        if inside and eqn.primitive.name in CALLS:
            found = _spelt_out(*inside[0], [read(env, v) for v in eqn.invars], name)
            env.update(zip(eqn.outvars, found, strict=True))
        else:
            evaluate([eqn], env)
    return [read(env, v) for v in jaxpr.outvars]


def _place(flat: ClosedJaxpr, name: str, layer: str) -> int:
    """The number of the equation that rectifies the tagged value."""
    alone, reached, takers, others = rectifiers(flat), set(), [], []
    for i, eqn in enumerate(flat.jaxpr.eqns):
        operand = next((v for v in eqn.invars if not isinstance(v, Literal) and v in reached), None)
        if eqn.primitive is name_p and eqn.params["name"] == name:
            reached.update(eqn.outvars)
        elif operand is None:
            continue
        elif eqn.primitive.name in (*RESHAPING, "name"):
            reached.update(eqn.outvars)
        elif alone.get(i) == operand or _only_rectifies(eqn):
            takers.append(i)
        else:
            others.append(eqn.primitive.name)
    if not reached:
        raise CaseJaxError(f"layer: {layer!r} lies inside a loop or branch; tap a layer outside of it, or unroll it.")
    require(
        len(takers) == 1,
        "after",
        f"'relu' at layer {layer!r}, whose output is taken by {len(takers)} rectifiers"
        + (f" and by: {', '.join(dict.fromkeys(others))}" if others else ""),
        "a layer whose output is rectified next, relu(layer(x)); else tap the module that stands before the rectifier (a "
        "normalisation, a block) and leave `after` out where its output is rectified already",
    )
    return takers[0]


def _only_rectifies(eqn: JaxprEqn) -> bool:
    """Whether a call rectifies its one input and does no more than bound it."""
    free = [v for v in eqn.invars if not isinstance(v, Literal)]
    if eqn.primitive.name not in CALLS or len(free) != 1:
        return False
    body, consts = next(inner_jaxprs(eqn))
    flat = jax.make_jaxpr(lambda v: inlined(body, consts, [read({free[0]: v}, u) for u in eqn.invars]))(free[0].aval)
    same_shape = [a.shape for a in flat.in_avals] == [a.shape for a in flat.out_avals]  # type: ignore[attr-defined]
    bounds = {e.primitive.name for e in flat.jaxpr.eqns} <= {*BOUNDING, *RESHAPING}
    return same_shape and bounds and bool(rectifiers(flat))

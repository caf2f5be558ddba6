"""A tap behind the rectifier that takes a layer's output, where a network calls it as a function: `nnx.relu(self.conv(x))`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.extend.core.primitives import name_p
from jaxtyping import Array

from case_jax._checks import require
from case_jax.tap.gates import RESHAPING, gates
from case_jax.tap.layer import Tapped
from case_jax.tap.loops import out_of_loops
from case_jax.tap.outputs import changed
from case_jax.tap.split import CALLS, LAYER, evaluate, in_a_loop, inner_jaxprs, read, require_once, tag, tags

BEFORE = "case_jax.before:"
"""Before a module's path this is the tag of its output where another value is tapped."""


def require_after(after: str | None) -> None:
    """Raise unless it is known what is meant."""
    require(after in (None, "relu"), "after", repr(after), "'relu', or None for the layer's own output")


def tag_before(output: Any, tapped: Tapped) -> Any:
    """Mark what is tapped of a layer's output, for `after_relu` to find."""
    return changed(output, tapped.output, lambda value: tag(value, BEFORE + tapped.layer), tapped.layer)


def mark(output: Any, tapped: Tapped, after: str | None, image_shape: Sequence[int]) -> Any:
    """Mark what is tapped of a layer's output, or, with `after`, what the rectifier takes; `at_its_place` then completes the function."""
    return tapped.tag(output, image_shape) if after is None else tag_before(output, tapped)


def at_its_place(function: Callable[..., Array], tapped: Tapped, after: str | None) -> Callable[..., Array]:
    """The same function with the layer's tag where it belongs: in one iteration of the loops around it, behind its rectifier.

    Args:
        function: the layer's output marked by `mark`, under its path without numbers of iterations.
        tapped: the layer, its path as given.
        after: "relu", or None.
    """
    function = out_of_loops(function, tapped.layer, LAYER if after is None else BEFORE)
    return function if after is None else after_relu(function, tapped)


def after_relu(function: Callable[..., Array], tapped: Tapped) -> Callable[..., Array]:
    """The same function with the layer's tag on the output of the one rectifier that takes the layer's output.

    A rectifier is `max(v, 0)` in any spelling, as in `replace_relus`, alone or in a call that does no more than bound its input
    (`jax.nn.relu`, `jax.nn.relu6`); its derivative stays its own.

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
        elif inside:
            raise in_a_loop(name.removeprefix(BEFORE), eqn)
        else:
            evaluate([eqn], env)
    return [read(env, v) for v in jaxpr.outvars]


def _place(flat: ClosedJaxpr, name: str, layer: str) -> int:
    """The number of the equation that rectifies the tagged value."""
    alone, reached, takers, others = gates(flat).rectifiers, set(), [], []
    for i, eqn in enumerate(flat.jaxpr.eqns):
        operand = next((v for v in eqn.invars if not isinstance(v, Literal) and v in reached), None)
        if eqn.primitive is name_p and eqn.params["name"] == name:
            reached.update(eqn.outvars)
        elif i in alone and alone[i].operand in reached:
            takers.append(i)
        elif operand is None:
            continue
        elif eqn.primitive.name in (*RESHAPING, "name"):
            reached.update(eqn.outvars)
        else:
            others.append(eqn.primitive.name)
    require(
        len(takers) == 1,
        "after",
        f"'relu' at layer {layer!r}, whose output is taken by {len(takers)} rectifiers"
        + (f" and by: {', '.join(dict.fromkeys(others))}" if others else ""),
        "a layer whose output is rectified next, relu(layer(x)); else tap the module that stands before the rectifier (a "
        "normalisation, a block) and leave `after` out where its output is rectified already",
    )
    return takers[0]

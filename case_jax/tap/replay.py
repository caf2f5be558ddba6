"""Tagged values of a function changed where they stand in its whole program: with the axes of every `jax.vmap` around the tag."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jax.extend.core.primitives import name_p
from jaxtyping import Array

from case_jax.tap.after import BEFORE
from case_jax.tap.layer import Tapped
from case_jax.tap.loops import out_of_loops
from case_jax.tap.split import CALLS, evaluate, in_a_loop, inner_jaxprs, read, require_once, tags

Change = Callable[[str, Array], Array]


def replayed(function: Callable[..., Any], prefix: str, change: Change, *, loops: bool = False) -> Callable[..., Any]:
    """The same function, in which every value v that is tagged `prefix + name` becomes `change(name, v)`.

    Args:
        function: a traceable function of arrays and pytrees of them.
        prefix: of the tags.
        change: array to array of the same shape and type.
        loops: whether tags may lie in loops and branches, where they stay without effect.

    Raises:
        CaseJaxError: when traced: for such a tag, unless `loops`.
    """

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args), prefix, change, loops)
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return run


def _run(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], prefix: str, change: Change, loops: bool
) -> list[Any]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        if eqn.primitive is name_p and eqn.params["name"].startswith(prefix):
            env[eqn.outvars[0]] = change(eqn.params["name"].removeprefix(prefix), read(env, eqn.invars[0]))
            continue
        bodies = list(inner_jaxprs(eqn))
        inside = [name for body, _ in bodies for name in tags(body) if name.startswith(prefix)]
        if inside and eqn.primitive.name in CALLS:
            found = _run(*bodies[0], [read(env, v) for v in eqn.invars], prefix, change, loops)
            env.update(zip(eqn.outvars, found, strict=True))
        elif inside and not loops:
            raise in_a_loop(inside[0].removeprefix(prefix), eqn)
        else:
            evaluate([eqn], env)
    return [read(env, v) for v in jaxpr.outvars]


def at_output(
    function: Callable[[Any, Array], Array], tapped: Tapped, *, argument: str = "layer"
) -> Callable[[Any, Array], Array]:
    """The same function with the layer's tag on its output as the whole program has it.

    Args:
        function: parameters and one image to logits, the layer's output marked by `tag_before` under its path without numbers of iterations.
        tapped: the layer, its path as given.
        argument: which named it, for errors.

    Raises:
        CaseJaxError: when traced: unless the layer is called once, outside loops but for those whose iterations its path names.
    """
    name, whole, written_out = (
        BEFORE + tapped.layer,
        tapped._replace(output=None),
        out_of_loops(function, tapped.layer, BEFORE),
    )

    def run(params: Any, x: Array) -> Array:
        require_once(tags(jax.make_jaxpr(written_out)(params, x).jaxpr), name, tapped.layer, argument=argument)
        return replayed(written_out, name, lambda _, value: whole.tag(value, x.shape))(params, x)

    return run

"""A function traced, its program changed, and the changed program as a function again."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

from case_jax.tap.split import inner_jaxprs


def retraced(function: Callable, change: Callable[[ClosedJaxpr], ClosedJaxpr]) -> Callable:
    """The function whose program is `change` of the given one's, for arrays and pytrees of them as positional arguments."""

    def run(*args):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        out = jaxpr_as_fun(change(closed))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return run


def each_equation(closed: ClosedJaxpr, change: Callable[[JaxprEqn], JaxprEqn]) -> ClosedJaxpr:
    """A program with every equation changed, also those inside calls, loops and branches, which stay what they are.

    What two calls share, they share afterwards. Custom derivative rules are functions, not equations, and stay as they are.
    """
    known: dict[int, Any] = {}

    def changed(value: Any) -> Any:
        if not isinstance(value, (Jaxpr, ClosedJaxpr)):
            return value
        if id(value) not in known:
            known[id(value)] = renewed(value)
        return known[id(value)]

    def renewed(value: Any) -> Any:
        bare = getattr(value, "jaxpr", value)
        if bare is not value:  # a program with its constants; since JAX 0.12 every program is one
            return value if changed(bare) is bare else value.replace(jaxpr=changed(bare))
        eqns = [change(inside(eqn)) for eqn in value.eqns]
        same = all(new is old for new, old in zip(eqns, value.eqns, strict=True))
        return value if same else value.replace(eqns=eqns)

    def inside(eqn: JaxprEqn) -> JaxprEqn:
        if all(changed(jaxpr) is jaxpr for jaxpr, _ in inner_jaxprs(eqn)):
            return eqn
        params = jax.tree.map(changed, eqn.params, is_leaf=lambda v: isinstance(v, (Jaxpr, ClosedJaxpr)))
        return eqn.replace(params=params)

    return changed(closed)

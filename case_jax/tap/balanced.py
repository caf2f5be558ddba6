"""A traced function in which the backward paths of products are pruned or scaled, so that gradient × input adds up to the output."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.attention import places
from case_jax.tap.flattening import beginning, flattened, replay
from case_jax.tap.split import inner_jaxprs, read, scan_parts

FACTORS = frozenset({"erf", "erfc", "logistic", "rsqrt", "sqrt", "tanh"})
"""Operations whose value is taken for a constant factor of what it is multiplied with: the gate of GELU and SiLU, one over a deviation."""
PRODUCTS = frozenset({"mul", "dot_general", "square", "integer_pow"})


@jax.custom_vjp
def halved(value: Array) -> Array:
    """The identity, which passes back half of the gradient."""
    return value


halved.defvjp(lambda value: (value, None), lambda _, gradient: (gradient / 2,))


def balanced(function: Callable[[Array], Array], x: Any, *, through_softmax: bool) -> Callable[[Array], Array]:
    """The same function, whose gradient treats every product as a sum of equal shares.

    In the backward pass, factors of the input's own making are constants: the deviation of a normalisation, the gate of a GELU or SiLU
    (`x · stop(Φ(x))`) and, unless `through_softmax`, attention probabilities. A product of two values that both still pass gradients back
    (values and attention, queries and keys, the branches of a gated perceptron) passes back half to each.

    Args:
        function: a traceable function of one array that returns one array.
        x: an argument, or a `jax.ShapeDtypeStruct`; only its shape and type matter.
        through_softmax: whether gradients pass through the softmax of attention.

    Returns:
        The function for arguments of x's shape and type.

    Raises:
        CaseJaxError: for one of the `FACTORS` that multiplies nothing (a tanh as activation of its own): no gradient would pass it; and as `flattened`.
    """
    flat = flattened(function, x, FACTORS)
    if _gated_scan(flat.jaxpr):
        flat = flattened(function, x, FACTORS | PRODUCTS)
    eqns = flat.jaxpr.eqns
    stopped = set() if through_softmax else {place.value for place in places(flat.jaxpr)}
    alive, changes = set(flat.jaxpr.invars), {}
    for eqn in eqns:
        passing = [v for v in eqn.invars if not isinstance(v, Literal) and v in alive]
        if not passing or eqn.primitive.name == "stop_gradient":
            continue
        if eqn.primitive.name in FACTORS or eqn.outvars[0] in stopped:
            changes[eqn.outvars[0]] = jax.lax.stop_gradient
            continue
        if _halves(eqn, passing):
            changes[eqn.outvars[0]] = halved
        alive.update(_floating(eqn.outvars))
    _require_factors(flat.jaxpr, changes, alive)

    def run(x: Array) -> Array:
        env = beginning(flat, x)
        replay(eqns, env, changes)
        return read(env, flat.jaxpr.outvars[0])

    return run


def _floating(variables: Iterable[Any]) -> list[Any]:
    return [v for v in variables if jnp.issubdtype(v.aval.dtype, jnp.floating)]


def _halves(eqn: JaxprEqn, passing: Sequence[Any]) -> bool:
    """Whether an operation multiplies two values that pass gradients back, or one with itself."""
    name = eqn.primitive.name
    return name == "square" or eqn.params.get("y") == 2 or (name in ("mul", "dot_general") and len(passing) == 2)


def _gated_scan(jaxpr: Jaxpr) -> bool:
    """Whether such a product lies in a scan of a flat program, which then has to be written out, too."""
    alive = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        operands = [v for v in eqn.invars if not isinstance(v, Literal)]
        if alive.isdisjoint(operands) or eqn.primitive.name == "stop_gradient":
            continue
        if eqn.primitive.name == "scan":
            body, (start, carries) = eqn.params["jaxpr"].jaxpr, scan_parts(eqn)
            given = zip(eqn.invars, body.invars, strict=True)
            inside = {b for v, b in given if not isinstance(v, Literal) and v in alive}
            if _multiplies(body, inside.union(_floating(body.invars[start : start + carries]))):
                return True
        alive.update(_floating(eqn.outvars))
    return False


def _multiplies(jaxpr: Jaxpr, alive: set[Any]) -> bool:
    """Whether such a product lies in a program or in its calls and loops, when these of its inputs pass gradients back."""
    for eqn in jaxpr.eqns:
        passing = [v for v in eqn.invars if not isinstance(v, Literal) and v in alive]
        if not passing or eqn.primitive.name == "stop_gradient":
            continue
        for body, _ in inner_jaxprs(eqn):
            given = zip(eqn.invars[-len(body.invars) :], body.invars, strict=False)
            if _multiplies(body, {b for v, b in given if v in passing}):
                return True
        if _halves(eqn, passing):
            return True
        alive = alive.union(_floating(eqn.outvars))
    return False


def _require_factors(jaxpr: Jaxpr, changed: Iterable[Any], alive: set[Any]) -> None:
    """Raise for an operation whose value is taken for a factor and is none."""
    changed = set(changed)
    for i, eqn in enumerate(jaxpr.eqns):
        name = eqn.primitive.name
        if name not in FACTORS or eqn.outvars[0] not in changed:
            continue
        meets = _meets(jaxpr, i, alive)
        if meets and not {"mul", "div"} & meets:
            raise CaseJaxError(
                f"model: {name!r} stands as an activation of its own; this method takes it for a factor of what it is multiplied with, and no "
                "gradient would pass it. Take another method, for example input_x_gradient."
            )


def _meets(jaxpr: Jaxpr, start: int, alive: set[Any]) -> set[str]:
    """The operations in which a value, or what is made of it alone, meets one that passes gradients back; or `output`."""
    reached, found = set(jaxpr.eqns[start].outvars), set()
    for eqn in jaxpr.eqns[start + 1 :]:
        operands = {v for v in eqn.invars if not isinstance(v, Literal)}
        if reached.isdisjoint(operands):
            continue
        if operands & alive:
            found.add(eqn.primitive.name)
        else:
            reached.update(eqn.outvars)
    return found | ({"output"} if reached & set(jaxpr.outvars) else set())

"""A traced function in which the backward paths of products are pruned or scaled, so that gradient × input adds up to the output."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.attention import places
from case_jax.tap.flattening import beginning, flattened, replay
from case_jax.tap.split import read

FACTORS = frozenset({"erf", "erfc", "logistic", "rsqrt", "sqrt", "tanh"})
"""Operations whose value is taken for a constant factor of what it is multiplied with: the gate of GELU and SiLU, one over a deviation."""
PRODUCTS = ("mul", "dot_general")


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
        square = eqn.primitive.name == "square" or eqn.params.get("y") == 2
        if square or (eqn.primitive.name in PRODUCTS and len(passing) == 2):
            changes[eqn.outvars[0]] = halved
        alive.update(v for v in eqn.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating))  # type: ignore[attr-defined]
    _require_factors(flat.jaxpr, changes, alive)

    def run(x: Array) -> Array:
        env = beginning(flat, x)
        replay(eqns, env, changes)
        return read(env, flat.jaxpr.outvars[0])

    return run


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

"""Convolutions in loops, written so that XLA's CPU back end has fast code for them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn
from jax.extend.core.primitives import conv_general_dilated_p

from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read


def cpu_convolutions(function: Callable) -> Callable:
    """The same function with every convolution in the layout that XLA's CPU back end runs fast.

    The gradient of a convolution is a convolution with its kernel's channels swapped. On CPU XLA rewrites such layouts to
    (N, spatial, C) × (spatial, I, O), the only ones with fast code, in a program's outermost computation alone: inside a loop the
    same gradient runs tens of times slower. Here the swap is written as a transpose before the compiler sees it. On other
    devices the program is left as it is, because their compilers know the swapped form by sight.

    Args:
        function: arrays to a pytree of arrays, the body of a loop, for example `jax.value_and_grad(f)`. What is inside calls is
            reached; inner loops and branches stay as they are. Differentiate before, not after: custom derivative rules of
            calls that contain a convolution are dropped.

    Returns:
        A function of the same arguments and results, equal up to the order of summation.
    """

    def run(*args):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        out = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return run


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        if eqn.primitive is conv_general_dilated_p:
            with eqn.ctx.manager:
                env[eqn.outvars[0]] = _convolution(eqn, *(read(env, v) for v in eqn.invars))
        elif eqn.primitive.name in CALLS and any(_convolves(inner) for inner, _ in inner_jaxprs(eqn)):
            inner, inner_consts = next(inner_jaxprs(eqn))
            env.update(zip(eqn.outvars, _run(inner, inner_consts, [read(env, v) for v in eqn.invars]), strict=True))
        else:
            evaluate([eqn], env)
    return [read(env, v) for v in jaxpr.outvars]


def _convolves(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive is conv_general_dilated_p or any(_convolves(inner) for inner, _ in inner_jaxprs(eqn))
        for eqn in jaxpr.eqns
    )


def _convolution(eqn: JaxprEqn, image: jax.Array, kernel: jax.Array) -> jax.Array:
    given = eqn.params["dimension_numbers"]
    rank = image.ndim
    outer = (0, rank - 1, *range(1, rank - 1))
    canonical = jax.lax.ConvDimensionNumbers(outer, (rank - 1, rank - 2, *range(rank - 2)), outer)

    def moved(array, spec, target):
        """From axes at positions `spec` to the same axes at positions `target`."""
        order = [0] * rank
        for source, place in zip(spec, target, strict=True):
            order[place] = source
        return jnp.transpose(array, order)

    def plain(image, kernel):
        return eqn.primitive.bind(image, kernel, **eqn.params)

    def transposed(image, kernel):
        out = eqn.primitive.bind(
            moved(image, given.lhs_spec, canonical.lhs_spec),
            moved(kernel, given.rhs_spec, canonical.rhs_spec),
            **(eqn.params | {"dimension_numbers": canonical}),
        )
        return moved(out, canonical.out_spec, given.out_spec)

    if given == canonical:
        return plain(image, kernel)
    return jax.lax.platform_dependent(image, kernel, cpu=transposed, default=plain)

"""A traced function in which every ReLU answers to another backward rule."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.gates import gates
from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read

LOOPS = ("scan", "while", "cond")
COMPARING = ("abs", "clamp", "ge", "gt", "le", "lt", "max", "select_n", "sign")
"""Without one of these nothing is a ReLU."""


@jax.custom_vjp
def guided_relu(x: Array) -> Array:
    """ReLU that passes back positive gradients to positive inputs only: `ḡ_x = 1[x > 0] · relu(ḡ_y)`.

    Springenberg et al., Striving for Simplicity, ICLR workshop 2015 (arXiv 1412.6806).
    """
    return jax.nn.relu(x)


guided_relu.defvjp(
    lambda x: (jax.nn.relu(x), x > 0),
    lambda positive, gradient: (jnp.where(positive, jax.nn.relu(gradient), jnp.zeros_like(gradient)),),
)


@jax.custom_vjp
def deconvolution_relu(x: Array) -> Array:
    """ReLU that passes back positive gradients, whatever its input was: `ḡ_x = relu(ḡ_y)`.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv 1311.2901).
    """
    return jax.nn.relu(x)


deconvolution_relu.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, gradient: (jax.nn.relu(gradient),))


def _may_rectify(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name in COMPARING or any(_may_rectify(inner) for inner, _ in inner_jaxprs(eqn))
        for eqn in jaxpr.eqns
    )


def _flat(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> ClosedJaxpr:
    return jax.make_jaxpr(lambda *args: inlined(jaxpr, consts, args))(*args)


def _rectifies(jaxpr: Jaxpr, consts: Sequence[Any]) -> bool:
    """Whether a ReLU lies inside a jaxpr, its zero included."""
    return bool(gates(_flat(jaxpr, consts, [v.aval for v in jaxpr.invars])).rectifiers)


def inlined(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list:
    """Evaluate a jaxpr with the calls that may hold a ReLU spelt out."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        name, bodies = eqn.primitive.name, [body for body in inner_jaxprs(eqn) if _may_rectify(body[0])]
        call, custom = name in CALLS, name.startswith("custom")
        if bodies and call and (not custom or _rectifies(*bodies[0])):
            out = inlined(*bodies[0], [read(env, v) for v in eqn.invars])
            env.update(zip(eqn.outvars, out, strict=True))
        elif bodies and name in LOOPS and any(_rectifies(*body) for body in bodies):
            raise CaseJaxError(
                f"model: a ReLU lies inside a {name!r} loop or branch, where its backward rule cannot be replaced; "
                "unroll the loop (for flax, a Python loop instead of nn.scan), or leave out guided backprop and deconvolution."
            )
        else:
            evaluate([eqn], env)
    return [read(env, v) for v in jaxpr.outvars]


class Units(NamedTuple):
    """How many gates a network has."""

    relus: int
    others: dict[str, int]
    """Those that are no ReLU but take the place of one, by name: GELU, SiLU, softplus, leaky ReLU and the like."""


def count_gates(function: Callable[[Array], Array], x: Any) -> Units:
    """How many gates a function evaluates; arguments and errors as `replace_relus`."""
    return replace_relus(function, guided_relu, x)[1]


def replace_relus(
    function: Callable[[Array], Array], replacement: Callable[[Array], Array], x: Array
) -> tuple[Callable[[Array], Array], Units]:
    """The same function with every ReLU replaced, and how many there are.

    A ReLU is `max(v, 0)`, in whichever way it was written: `jax.nn.relu`, `jnp.maximum(v, 0)`, `jnp.clip(v, 0)`, `jnp.where(v > 0, v, 0)`,
    `v * (v > 0)`, `(v + abs(v)) / 2`; the lower half of `jax.nn.relu6`, and with it the gate of `jax.nn.hard_swish`. See `gates`. Not counted
    is one whose value goes straight into a square root: that guards a variance, as in flax's normalisation layers. GELU, SiLU, leaky ReLU,
    softplus and others like them are left as they are, and counted; max-pooling is left as it is.

    Args:
        function: a traceable function of one array that returns one array.
        replacement: what takes the place of each ReLU, `guided_relu` for example.
        x: an argument, or a `jax.ShapeDtypeStruct`; only its shape and type matter.

    Returns:
        The function, for arguments of x's shape and type, and the numbers of gates; without ReLUs it is the given function. It works under
        jit, vmap and grad, and looks into jit, remat, custom_jvp and custom_vjp calls; a custom rule is dropped only for a call that
        itself contains a ReLU.

    Raises:
        CaseJaxError: when a ReLU lies inside a loop or branch.
    """
    closed = jax.make_jaxpr(function)(x)
    flat = _flat(closed.jaxpr, closed.consts, closed.in_avals)
    found = gates(flat)

    def run(x):
        env = dict(zip([*flat.jaxpr.constvars, *flat.jaxpr.invars], [*flat.consts, x], strict=True))
        for i, eqn in enumerate(flat.jaxpr.eqns):
            if i in found.rectifiers:
                operand, bound = found.rectifiers[i]
                value = replacement(read(env, operand))
                bounded = value if math.isinf(bound) else jnp.minimum(value, bound)
                shaped: Any = eqn.outvars[0].aval
                env[eqn.outvars[0]] = bounded.reshape(shaped.shape).astype(shaped.dtype)
            else:
                evaluate([eqn], env)
        return read(env, flat.jaxpr.outvars[0])

    return run, Units(len(found.rectifiers), dict(found.others))

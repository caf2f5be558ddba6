"""A traced function in which every ReLU answers to another backward rule."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read

RESHAPING = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze")
ADDING = ("add", "add_any")
ROOTS = ("sqrt", "rsqrt")
LOOPS = ("scan", "while", "cond")


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


def _has_max(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name == "max" or any(_has_max(inner) for inner, _ in inner_jaxprs(eqn)) for eqn in jaxpr.eqns
    )


def _zeros(jaxpr: Jaxpr, consts: Sequence[Any]) -> set:
    """The variables of a flat jaxpr that are known to be zero: single constants, and what is reshaped from them."""

    def is_zero(value):
        return not isinstance(value, Tracer) and np.size(value) == 1 and not np.any(value)

    found = {var for var, value in zip(jaxpr.constvars, consts, strict=True) if is_zero(value)}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in RESHAPING:
            source = eqn.invars[0]
            if is_zero(source.val) if isinstance(source, Literal) else source in found:
                found.add(eqn.outvars[0])
    return found


def _under_a_root(jaxpr: Jaxpr, start: int) -> bool:
    """Whether the value of an equation meets a square root after nothing but sums and changes of shape.

    Then it is a variance kept from rounding below zero, as in flax's normalisation layers, and not an activation.
    """
    reached = set(jaxpr.eqns[start].outvars)
    for eqn in jaxpr.eqns[start + 1 :]:
        if reached.isdisjoint(v for v in eqn.invars if not isinstance(v, Literal)):
            continue
        if eqn.primitive.name in ROOTS:
            return True
        if eqn.primitive.name in (*RESHAPING, *ADDING):
            reached.update(eqn.outvars)
    return False


def rectifiers(flat: ClosedJaxpr) -> dict[int, Any]:
    """The ReLUs of a flat jaxpr: the number of the equation and the variable that it rectifies."""
    zeros, found = _zeros(flat.jaxpr, flat.consts), {}
    for i, eqn in enumerate(flat.jaxpr.eqns):
        if eqn.primitive.name != "max":
            continue
        known = [not np.any(v.val) if isinstance(v, Literal) else v in zeros for v in eqn.invars]
        if known.count(True) == 1 and not _under_a_root(flat.jaxpr, i):
            found[i] = eqn.invars[known.index(False)]
    return found


def _flat(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> ClosedJaxpr:
    return jax.make_jaxpr(lambda *args: inlined(jaxpr, consts, args))(*args)


def _rectifies(jaxpr: Jaxpr, consts: Sequence[Any]) -> bool:
    """Whether a ReLU lies inside a jaxpr, its zero included."""
    return bool(rectifiers(_flat(jaxpr, consts, [v.aval for v in jaxpr.invars])))


def inlined(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list:
    """Evaluate a jaxpr with the calls that may hold a ReLU spelt out."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        name, bodies = eqn.primitive.name, [body for body in inner_jaxprs(eqn) if _has_max(body[0])]
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


def replace_relus(
    function: Callable[[Array], Array], replacement: Callable[[Array], Array], x: Array
) -> tuple[Callable[[Array], Array], int]:
    """The same function with every ReLU replaced, and how many there are.

    A ReLU is `max(v, 0)`, in whichever way it was written: `jax.nn.relu`, `jnp.maximum(v, 0)`, `jnp.clip(v, 0)`, the lower half of
    `jax.nn.relu6`, and with it the gate of `jax.nn.hard_swish`. Not counted is one whose value goes straight into a square root: that
    guards a variance, as in flax's normalisation layers. GELU, SiLU, leaky ReLU, softplus and max-pooling are left as they are.

    Args:
        function: a traceable function of one array that returns one array.
        replacement: what takes the place of each ReLU, `guided_relu` for example.
        x: an argument; only its shape and type matter.

    Returns:
        The function, for arguments of x's shape and type, and the number of ReLUs; 0 means that it is the given function. It works under jit,
        vmap and grad, and looks into jit, remat, custom_jvp and custom_vjp calls; a custom rule is dropped only for a call that
        itself contains a ReLU.

    Raises:
        CaseJaxError: when a ReLU lies inside a loop or branch.
    """
    closed = jax.make_jaxpr(function)(x)
    flat = _flat(closed.jaxpr, closed.consts, [x])
    relus = rectifiers(flat)

    def run(x):
        env = dict(zip([*flat.jaxpr.constvars, *flat.jaxpr.invars], [*flat.consts, x], strict=True))
        for i, eqn in enumerate(flat.jaxpr.eqns):
            if i in relus:
                env[eqn.outvars[0]] = replacement(read(env, relus[i]))
            else:
                evaluate([eqn], env)
        return read(env, flat.jaxpr.outvars[0])

    return run, len(relus)

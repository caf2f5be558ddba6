"""The softmax or sigmoid in which a traced network ends, and the network without it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.extend.core import Literal as Constant
from jax.extend.core.primitives import name_p
from jaxtyping import Array

from case_jax._checks import CaseJaxError
from case_jax.tap.gates import RESHAPING
from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read

Kind = Literal["softmax", "sigmoid"]
LINEAR = ("dot_general", "conv_general_dilated")
PASSING = (*RESHAPING, "stop_gradient")


class Ending(NamedTuple):
    """The last operation of a program, changes of shape and type left out."""

    program: ClosedJaxpr
    """With the calls spelt out that the last operation lies in."""
    operation: str
    """The primitive's name; empty where the output is a constant or an argument."""
    linear: bool
    """Whether it is a dense layer or convolution, with or without its bias."""
    kind: Kind | None = None
    eqn: JaxprEqn | None = None
    logits: Any = None
    """What the softmax or sigmoid takes."""


def ending(closed: ClosedJaxpr) -> Ending:
    """How a program of one output ends.

    A softmax is seen as `exp(y − max y) / Σ exp(y − max y)`, with or without the shift, or as `exp` of `y − log Σ exp(y)`; a sigmoid as
    `jax.nn.sigmoid`.
    """
    while (last := _maker(closed.jaxpr, closed.jaxpr.outvars[0])) is not None:
        before = _maker(closed.jaxpr, last.invars[0]) if _is(last, "exp") else None
        call = next((e for e in (last, before) if e is not None and e.primitive.name in CALLS), None)
        if call is None:
            break
        closed = _spelt_out(closed, call)
    jaxpr = closed.jaxpr
    if last is None:
        return Ending(closed, "", False)
    name, operands = last.primitive.name, [_maker(jaxpr, v) for v in last.invars]
    linear = name in LINEAR or (name == "add" and any(e is not None and e.primitive.name in LINEAR for e in operands))
    if name == "logistic":
        return Ending(closed, name, linear, "sigmoid", last, last.invars[0])
    logits = None
    if name == "div" and _is(operands[0], "exp") and _is(operands[1], "reduce_sum"):
        logits = _unshifted(jaxpr, operands[0].invars[0])  # type: ignore[union-attr]
    elif name == "exp" and _is(operands[0], "sub"):  # the exponential of a log-softmax
        shifted, total = operands[0].invars  # type: ignore[union-attr]
        log = _maker(jaxpr, total)
        if _is(log, "log") and _is(_maker(jaxpr, log.invars[0]), "reduce_sum"):  # type: ignore[union-attr]
            logits = _unshifted(jaxpr, shifted)
    if logits is None or logits.aval.shape != last.outvars[0].aval.shape:  # type: ignore[attr-defined]
        return Ending(closed, name, linear)
    return Ending(closed, name, linear, "softmax", last, logits)


def ends_in_tag(closed: ClosedJaxpr, name: str) -> bool:
    """Whether a program's output, or what its last softmax or sigmoid takes, is the value of that tag; changes of shape and type left out."""
    found = ending(closed)
    jaxpr = found.program.jaxpr
    last = _maker(jaxpr, jaxpr.outvars[0] if found.kind is None else found.logits)
    return last is not None and last.primitive is name_p and last.params["name"] == name


def without_ending(apply: Callable[[Any, Array], Array], kind: Kind) -> Callable[[Any, Array], Array]:
    """The network up to what its last softmax or sigmoid takes; tags and derivative rules before it stay.

    Raises:
        CaseJaxError: when traced for arguments with which it does not end so.
    """

    def run(params: Any, x: Array) -> Array:
        found = ending(jax.make_jaxpr(apply)(params, x))
        if found.kind != kind or found.eqn is None:
            raise CaseJaxError(f"link: the network does not end in {kind} for an image of shape {x.shape}.")
        program = found.program
        args = jax.tree.leaves((params, x))
        env = dict(zip([*program.jaxpr.constvars, *program.jaxpr.invars], [*program.consts, *args], strict=True))
        for eqn in program.jaxpr.eqns:
            if eqn is found.eqn:
                env[eqn.outvars[0]] = read(env, found.logits)
            else:
                evaluate([eqn], env)
        return read(env, program.jaxpr.outvars[0])

    return run


def _is(eqn: JaxprEqn | None, name: str) -> bool:
    return eqn is not None and eqn.primitive.name == name


def _maker(jaxpr: Jaxpr, atom: Any) -> JaxprEqn | None:
    """The equation that makes a value, behind changes of shape and type; None for a constant or an argument."""
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    eqn = None if isinstance(atom, Constant) else made.get(atom)
    while eqn is not None and eqn.primitive.name in PASSING:
        source = eqn.invars[0]
        eqn = None if isinstance(source, Constant) else made.get(source)
    return eqn


def _unshifted(jaxpr: Jaxpr, shifted: Any) -> Any:
    """y of `y − max y`; another value as it is, which is y but for a shift."""
    eqn = _maker(jaxpr, shifted)
    if not _is(eqn, "sub"):
        return shifted
    shift = _maker(jaxpr, eqn.invars[1])  # type: ignore[union-attr]
    while _is(shift, "max"):  # with −∞, the maximum of nothing
        shift = next((e for v in shift.invars if (e := _maker(jaxpr, v)) is not None), None)  # type: ignore[union-attr]
    return eqn.invars[0] if _is(shift, "reduce_max") else shifted  # type: ignore[union-attr]


def _spelt_out(closed: ClosedJaxpr, call: JaxprEqn) -> ClosedJaxpr:
    """The program with one of its calls evaluated in its place."""

    def run(*args: Any) -> list[Any]:
        env = dict(zip([*closed.jaxpr.constvars, *closed.jaxpr.invars], [*closed.consts, *args], strict=True))
        for eqn in closed.jaxpr.eqns:
            if eqn is not call:
                evaluate([eqn], env)
                continue
            body, consts = next(inner_jaxprs(eqn))
            inside = dict(
                zip([*body.constvars, *body.invars], [*consts, *(read(env, v) for v in eqn.invars)], strict=True)
            )
            evaluate(body.eqns, inside)
            env.update(zip(eqn.outvars, [read(inside, v) for v in body.outvars], strict=True))
        return [read(env, v) for v in closed.jaxpr.outvars]

    return jax.make_jaxpr(run)(*closed.in_avals)

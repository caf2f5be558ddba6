"""Rectifiers and their smooth relatives in a program: functions of one number, known by their values however they are written."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from case_jax.tap.split import CALLS, inner_jaxprs

RESHAPING = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze")
ADDING = ("add", "add_any")
ROOTS = ("sqrt", "rsqrt")

PROBES = np.array(
    [-1e6, -1e3, -30, -9, -3.1, -1.7, -1, -0.5, -0.1, -1e-3, 0, 1e-3, 0.1, 0.5, 1, 1.7, 2.5, 3.1, 5.5, 9, 30, 1e3, 1e6]
)
"""Numbers at which a function is tried."""
MODEST = np.abs(PROBES) <= 30
"""Those at which exponentials neither overflow nor cancel."""
SOURCES = 8
"""Of how many earlier values, the nearest first, a value is known as a function."""


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[float])(x)


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _selected(which: Any, *cases: Any) -> Any:
    return np.select([np.asarray(which).astype(int) == i for i in range(len(cases))], cases)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "add": np.add, "add_any": np.add, "and": np.logical_and, "clamp": lambda low, x, high: np.clip(x, low, high),
    "copy": np.asarray, "div": np.divide, "eq": np.equal, "erf": _erf, "erfc": lambda x: 1 - _erf(x), "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal, "log": np.log, "log1p": np.log1p,
    "logistic": _logistic, "lt": np.less, "max": np.maximum, "min": np.minimum, "mul": np.multiply, "name": np.asarray,
    "ne": np.not_equal, "neg": np.negative, "not": np.logical_not, "or": np.logical_or, "pow": np.power,
    "reduce_precision": np.asarray, "rsqrt": lambda x: 1 / np.sqrt(x), "select_n": _selected, "sign": np.sign, "sqrt": np.sqrt,
    "square": np.square, "stop_gradient": np.asarray, "sub": np.subtract, "tanh": np.tanh,
}  # fmt: skip
"""JAX's elementwise operations, on numbers."""

SMOOTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "GELU": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "GELU (tanh)": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "GELU (logistic)": lambda x: x * _logistic(1.702 * x),
    "SiLU": lambda x: x * _logistic(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
    "SELU": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
}
"""Gates that take the place of a ReLU and are none."""
with np.errstate(all="ignore"):
    KNOWN = {name: function(PROBES[MODEST]) for name, function in SMOOTH.items()}
OTHER = "leaky ReLU", "ELU", *SMOOTH


class Rectifier(NamedTuple):
    """A ReLU: what it rectifies, and where it stops to grow."""

    operand: Any
    """The variable."""
    bound: float
    """6 where a ReLU6 is one operation; infinite where nothing bounds it, or another operation does."""


class Gates(NamedTuple):
    """The gates of a flat program."""

    rectifiers: dict[int, Rectifier]
    """By the number of the equation."""
    others: Counter[str]
    """How often gates of other kinds are evaluated, loops and calls included, by name."""


class _Function(NamedTuple):
    """A value as a function of an earlier one."""

    values: np.ndarray
    """At the probes."""
    through: frozenset[int]
    """The gates, by the number of their equation, that lie in between."""


def kind(values: np.ndarray) -> str | float | None:
    """A gate by its values at the probes: a rectifier's bound, the name of another, None for no gate."""
    if not (values[MODEST][-1] > 0 and abs(values[PROBES == 0][0]) < 2):
        return None
    bound = values[-1]
    if np.isfinite(bound) and np.allclose(values, np.clip(PROBES, 0, bound), rtol=1e-6, atol=0):
        return math.inf if bound == PROBES[-1] else float(bound)
    modest, x = values[MODEST], PROBES[MODEST]
    positive = x >= 0
    if np.allclose(modest[positive], x[positive], rtol=1e-6, atol=0):
        below, low = modest[~positive], x[~positive]
        slope, height = below[low == -1][0] / -1, below[low == -1][0] / np.expm1(-1)
        if 0 < slope < 1 and np.allclose(below, slope * low, rtol=1e-5, atol=0):
            return "leaky ReLU"
        if height > 0 and np.allclose(below, height * np.expm1(low), rtol=1e-5, atol=0):
            return "ELU"
    return next((name for name, known in KNOWN.items() if np.allclose(modest, known, rtol=1e-4, atol=1e-6)), None)


def gates(flat: ClosedJaxpr) -> Gates:
    """The gates of a flat jaxpr.

    A gate is a function of one number, `f(v)` for each value v of one array, that is a ReLU at all probes (or a ReLU and a bound), or one
    of the `OTHER` kinds; how it is written does not matter. One that goes straight into a square root guards a variance and is none.
    Gates of other kinds are looked for in calls, loops and branches too.
    """
    with np.errstate(all="ignore"):
        return _gates(flat.jaxpr, flat.consts)


def _gates(jaxpr: Jaxpr, consts: Sequence[Any]) -> Gates:
    known: dict[Any, Any] = {v: _number(value) for v, value in zip(jaxpr.constvars, consts, strict=True)}
    found: dict[int, Rectifier | str] = {}
    others: Counter[str] = Counter()
    for i, eqn in enumerate(jaxpr.eqns):
        result = _result(eqn, [_of(known, v) for v in eqn.invars])
        gate = None
        if isinstance(result, dict) and _is_floating(eqn.outvars[0]):
            gate = _gate(jaxpr, i, result, found)
            if gate is None and _is_learned_slope(eqn, known):
                gate = "PReLU"
        if gate is not None:
            found[i] = gate
            result = {source: f._replace(through=f.through | {i}) for source, f in result.items()}
        else:
            others += _inside(eqn)
        for out in eqn.outvars:
            known[out] = {out: _Function(PROBES, frozenset()), **result} if isinstance(result, dict) else result
    others.update(gate for gate in found.values() if isinstance(gate, str))
    return Gates({i: gate for i, gate in found.items() if isinstance(gate, Rectifier)}, others)


def _gate(
    jaxpr: Jaxpr, i: int, result: dict[Any, _Function], found: dict[int, Rectifier | str]
) -> Rectifier | str | None:
    """The gate that ends at an equation; what it is made of is no longer `found`."""
    for source, function in result.items():
        plain = _is_floating(source) and function.values.shape == PROBES.shape
        name = kind(function.values) if plain else None
        if isinstance(name, str):
            for part in function.through:
                found.pop(part, None)
            return name
        if name is not None and not function.through and not _under_a_root(jaxpr, i):
            return Rectifier(source, name)
    return None


def _is_learned_slope(eqn: JaxprEqn, known: dict[Any, Any]) -> bool:
    """Whether an equation is `where(v > 0, v, u)` with a u that is not known: a slope that is a parameter."""
    if eqn.primitive.name != "select_n" or len(eqn.invars) != 3:
        return False
    which, *cases = (_of(known, v) for v in eqn.invars)
    if not isinstance(which, dict):
        return False
    for source, function in which.items():
        for sign, (kept, other) in ((1, (cases[1], cases[0])), (-1, (cases[0], cases[1]))):
            step = np.array_equal(function.values[PROBES != 0], (sign * PROBES > 0)[PROBES != 0])
            same = isinstance(kept, dict) and source in kept and np.array_equal(kept[source].values, PROBES)
            if step and same and isinstance(other, dict) and source not in other:
                return True
    return False


def _inside(eqn: JaxprEqn) -> Counter[str]:
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    found: Counter[str] = Counter()
    for body, consts in inner_jaxprs(eqn):
        found += Counter({name: times * count for name, count in _gates(body, consts).others.items()})
    return found


def _is_floating(atom: Any) -> bool:
    return jnp.issubdtype(getattr(atom.aval, "dtype", bool), jnp.floating)


def _number(value: Any) -> Any:
    """A single known number as an array without axes; a function of nothing for any other value."""
    if isinstance(value, Tracer) or np.size(value) != 1:
        return {}
    dtype = getattr(value, "dtype", None)
    plain = dtype is None or jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)
    return np.asarray(value).astype(np.float64).reshape(()) if plain else {}


def _of(known: dict[Any, Any], atom: Any) -> Any:
    """A number, or functions of earlier values, the nearest first; of an argument, the identity alone."""
    if isinstance(atom, Literal):
        return _number(atom.val)
    found = known.get(atom, {})
    return found if not isinstance(found, dict) or found else {atom: _Function(PROBES, frozenset())}


def _result(eqn: JaxprEqn, operands: Sequence[Any]) -> Any:
    """What an equation gives: a number, or its value as functions of earlier ones."""
    rule, free = _rule(eqn), [o for o in operands if isinstance(o, dict)]
    if rule is None:
        return {}
    if not free:
        value = rule(*operands)
        return value if np.ndim(value) == 0 and value is not None else {}
    sources = [s for s in free[0] if all(s in o for o in free[1:])][:SOURCES]
    found = {}
    for source in sources:
        values = rule(*(o[source].values if isinstance(o, dict) else o for o in operands))
        if values is not None:
            found[source] = _Function(values, frozenset().union(*(o[source].through for o in free)))
    return found


def _rule(eqn: JaxprEqn) -> Callable[..., Any] | None:
    """The equation on the values of numbers, None where it is no function of each number alone."""
    name, params = eqn.primitive.name, eqn.params
    if len(eqn.outvars) != 1:
        return None
    if name in CALLS:
        body, consts = next(inner_jaxprs(eqn))
        return lambda *args: _evaluated(body, consts, args)
    if name in ("stack", "concatenate"):  # jnp.select chooses by the first of a stack of conditions
        along = params["axis"] if name == "stack" else params["dimension"]
        joined = along == 0 and (name == "stack" or all(v.aval.shape[0] == 1 for v in eqn.invars))  # type: ignore[attr-defined]
        return (lambda *args: np.stack(np.broadcast_arrays(*args))) if joined else None
    if name == "argmax":
        return (lambda x: x.argmax(0) if np.ndim(x) == 2 else None) if tuple(params["axes"]) == (0,) else None
    sizes = {np.prod(v.aval.shape) for v in (*eqn.invars, *eqn.outvars)} - {1}  # type: ignore[attr-defined]
    if name == "convert_element_type" and not jnp.issubdtype(params["new_dtype"], jnp.floating):
        boolean = jnp.issubdtype(params["new_dtype"], jnp.bool_)
        return (lambda x: np.not_equal(x, 0)) if boolean else np.trunc
    if name in RESHAPING:
        same = len({np.prod(v.aval.shape) for v in (eqn.invars[0], eqn.outvars[0])}) == 1  # type: ignore[attr-defined]
        return lambda x: x if same or np.ndim(x) == 0 else None
    if name == "integer_pow":
        return lambda x: np.asarray(x, float) ** params["y"]
    return ELEMENTWISE.get(name) if len(sizes) <= 1 else None


def _evaluated(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> Any:
    """The one output of a jaxpr on the values of numbers, None where it is no function of each number alone."""
    env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
    env |= {v: _number(value) for v, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Any:
        return _number(atom.val) if isinstance(atom, Literal) else env.get(atom)

    for eqn in jaxpr.eqns:
        rule, operands = _rule(eqn), [read(v) for v in eqn.invars]
        known = rule is not None and not any(o is None or isinstance(o, dict) for o in operands)
        env.update(dict.fromkeys(eqn.outvars, rule(*operands) if known and rule is not None else None))
    return read(jaxpr.outvars[0])


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

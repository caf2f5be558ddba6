"""Which part of its inputs a program's outputs need, read backwards from the program; nothing is run."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, scan_parts

Box = tuple[tuple[int, int], ...] | None
"""For each axis the first index and one behind the last; None: nothing of it."""
Resolve = Callable[[Any], np.ndarray | None]

FEW = 64
"""Most indices that are looked up where they are constants."""
ROUNDS = 16
"""Most rounds through a loop before all that it carries counts as needed."""
ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp conj convert_element_type copy copy_p cos cosh div eq erf
    erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not
    or population_count pow real reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin
    sinh sqrt square stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905
)


class Met(NamedTuple):
    """A tagged value on the way."""

    name: str
    shape: tuple[int, ...]
    box: Box
    """What the outputs need of it."""


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def whole(shape: Sequence[int]) -> Box:
    """All of an array; nothing of an empty one."""
    return None if 0 in shape else tuple((0, int(n)) for n in shape)


def needed(program: ClosedJaxpr, wanted: Sequence[Box]) -> tuple[list[Box], list[Met]]:
    """The smallest known box of every input on which the wanted parts of the outputs depend, and the same of every tagged value.

    An operation that is not known needs all of its inputs; so a box may be too large, and None is a proof that nothing is needed.

    Args:
        program: calls, scans and branches are looked into.
        wanted: a box for each output.

    Returns:
        One box for each input; the tagged values in order of evaluation.
    """
    met: list[Met] = []
    boxes = _back(program.jaxpr, program.consts, wanted, met, lambda _: None)
    return boxes, met[::-1]


def _back(
    jaxpr: Jaxpr, consts: Sequence[Any], wanted: Sequence[Box], met: list[Met] | None, outer: Callable[[int], Any]
) -> list[Box]:
    constants = dict(zip(jaxpr.constvars, consts, strict=True))
    env: dict[Any, Box] = {}
    made_by = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    place = {v: i for i, v in enumerate(jaxpr.invars)}

    def add(atom: Any, box: Box) -> None:
        if box is not None and not isinstance(atom, Literal):
            env[atom] = _union(env.get(atom), box)

    def resolve(atom: Any) -> np.ndarray | None:
        """The value of a few integers that do not depend on the inputs."""
        if isinstance(atom, Literal):
            return np.asarray(atom.val)
        few = atom.aval.size <= FEW and (jnp.issubdtype(atom.aval.dtype, jnp.integer) or atom.aval.dtype == bool)
        if few and atom in constants and not isinstance(constants[atom], Tracer):
            return np.asarray(constants[atom])
        if atom in place or not few:
            return outer(place[atom]) if atom in place and few else None
        eqn = made_by.get(atom)
        known = [None] if eqn is None else [resolve(v) for v in eqn.invars]
        if eqn is None or any(v is None for v in known):
            return None
        found = {v: jnp.asarray(k) for v, k in zip(eqn.invars, known, strict=True) if not isinstance(v, Literal)}
        evaluate([eqn], found)
        return np.asarray(found[atom])

    for atom, box in zip(jaxpr.outvars, wanted, strict=True):
        add(atom, box)
    for eqn in reversed(jaxpr.eqns):
        boxes = [env.get(v) for v in eqn.outvars]
        if eqn.primitive.name == "name" and met is not None:
            met.append(Met(eqn.params["name"], _shape(eqn.outvars[0]), boxes[0]))
        alive = any(box is not None for box in boxes)
        if alive or (met is not None and any(True for _ in inner_jaxprs(eqn))):
            for atom, box in zip(eqn.invars, _needs(eqn, boxes, met, resolve), strict=True):
                add(atom, box)
    return [env.get(v) for v in jaxpr.invars]


def _union(a: Box, b: Box) -> Box:
    if a is None or b is None:
        return b if a is None else a
    return tuple((min(p, r), max(q, s)) for (p, q), (r, s) in zip(a, b, strict=True))


def _needs(eqn: JaxprEqn, boxes: list[Box], met: list[Met] | None, resolve: Resolve) -> list[Box]:
    """A box for each operand of an equation."""
    name = eqn.primitive.name
    if name in CALLS and (inner := next(inner_jaxprs(eqn), None)) is not None:
        return _back(*inner, boxes, met, lambda i: resolve(eqn.invars[i]))
    if name == "scan":
        return _scan(eqn, boxes, met)
    if name == "cond":
        return _branches(eqn, boxes, met)
    everything = [whole(_shape(v)) for v in eqn.invars]
    if all(box is None for box in boxes):
        return [None] * len(everything)
    if name in ("optimization_barrier", "device_put"):
        return boxes
    if name == "split":
        return [_pieces(eqn, boxes)]
    if name in ("sort", *(f"cum{kind}" for kind in ("sum", "prod", "max", "min", "logsumexp"))):
        axis = eqn.params["dimension" if name == "sort" else "axis"]
        box = boxes[0]
        for other in boxes[1:]:
            box = _union(box, other)
        return [_full_along(box, _shape(eqn.invars[0]), (axis,))] * len(everything)
    box = boxes[0]
    if box is None or len(boxes) > 1:
        return everything
    if name in ELEMENTWISE:
        return [_at(_shape(v), box) for v in eqn.invars]
    rule = RULES.get(name)
    if rule is None and "axes" in eqn.params and name.startswith(("reduce_", "arg")):
        rule = _reduced
    if rule is None and name.startswith("reduce_window"):
        rule = _windows
    return everything if rule is None else rule(eqn, box, everything, resolve)


def _at(shape: Sequence[int], box: Any) -> Box:
    """Of an operand of an elementwise operation: the same places, an axis of one or none at all being repeated."""
    return tuple((0, 1) if n == 1 else pair for n, pair in zip(shape, box, strict=True)) if shape else ()


def _full_along(box: Box, shape: Sequence[int], axes: Sequence[int]) -> Box:
    assert box is not None
    return tuple((0, shape[i]) if i in axes else pair for i, pair in enumerate(box))


def _broadcast(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    shape, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    at = eqn.params["broadcast_dimensions"]
    first = tuple(box[d] if n == out[d] else (0, 1) for n, d in zip(shape, at, strict=True))
    return [first, *everything[1:]]


def _reshape(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    if eqn.params.get("dimensions") is not None:
        return everything
    shape, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    same = 0  # leading axes that stay
    while same < min(len(shape), len(out)) and shape[same] == out[same]:
        same += 1
    return [(*box[:same], *_refolded(box[same:], out[same:], shape[same:])), *everything[1:]]


def _refolded(box: Sequence[tuple[int, int]], out: Sequence[int], shape: Sequence[int]) -> list[tuple[int, int]]:
    """The box of another shape that holds all places between the first and the last of the given box, row by row."""
    low = high = 0
    for (start, stop), n in zip(box, out, strict=True):
        low, high = low * n + start, high * n + stop - 1
    found: list[tuple[int, int]] = []
    for i in range(len(shape)):
        inner = math.prod(shape[i + 1 :])
        found.append((low // inner, high // inner + 1))
        if low // inner != high // inner:
            return [*found, *((0, n) for n in shape[i + 1 :])]
        low, high = low % inner, high % inner
    return found


def _squeeze(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    rest = iter(box)
    gone = eqn.params["dimensions"]
    return [tuple((0, 1) if i in gone else next(rest) for i in range(len(_shape(eqn.invars[0]))))]


def _transpose(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    order = eqn.params["permutation"]
    return [tuple(box[order.index(i)] for i in range(len(order)))]


def _slice(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    starts = eqn.params["start_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    return [tuple((s + a * t, s + (b - 1) * t + 1) for s, t, (a, b) in zip(starts, steps, box, strict=True))]


def _dynamic_slice(eqn: JaxprEqn, box: Any, everything: list[Box], resolve: Resolve) -> list[Box]:
    shape, sizes = _shape(eqn.invars[0]), eqn.params["slice_sizes"]
    found = []
    for n, size, (a, b), atom in zip(shape, sizes, box, eqn.invars[1:], strict=True):
        start = np.int64(0) if size == n else resolve(atom)
        begin = None if start is None else min(max(int(start), 0), n - size)
        found.append((0, n) if begin is None else (begin + a, begin + b))
    return [tuple(found), *everything[1:]]


def _gather(eqn: JaxprEqn, box: Any, everything: list[Box], resolve: Resolve) -> list[Box]:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, indices = _shape(eqn.invars[0]), resolve(eqn.invars[1])
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = dict(zip((i for i in range(len(shape)) if i not in gone), numbers.offset_dims, strict=True))
    found = [(0, n) for n in shape]
    for i, n in enumerate(shape):
        if i in numbers.start_index_map and indices is not None:
            at = np.clip(indices[..., numbers.start_index_map.index(i)], 0, n - sizes[i])
            found[i] = (int(at.min()), int(at.max()) + sizes[i])
        elif i in kept and i not in numbers.start_index_map and sizes[i] == n:
            found[i] = box[kept[i]]
    return [tuple(found), everything[1]]


def _concatenate(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    axis, offset, found = eqn.params["dimension"], 0, []
    for v in eqn.invars:
        n = _shape(v)[axis]
        start, stop = max(box[axis][0] - offset, 0), min(box[axis][1] - offset, n)
        found.append((*box[:axis], (start, stop), *box[axis + 1 :]) if start < stop else None)
        offset += n
    return found


def _pieces(eqn: JaxprEqn, boxes: list[Box]) -> Box:
    axis, offset, found = eqn.params["axis"], 0, None
    for box, n in zip(boxes, eqn.params["sizes"], strict=True):
        if box is not None:
            start, stop = box[axis]
            found = _union(found, (*box[:axis], (start + int(offset), stop + int(offset)), *box[axis + 1 :]))
        offset += n
    return found


def _pad(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    found = []
    for n, (low, _high, gap), (a, b) in zip(_shape(eqn.invars[0]), eqn.params["padding_config"], box, strict=True):
        start, stop = max(-((low - a) // (gap + 1)), 0), min((b - 1 - low) // (gap + 1) + 1, n)
        if start >= stop:
            return [None, *everything[1:]]
        found.append((int(start), int(stop)))
    return [tuple(found), *everything[1:]]


def _reduced(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    rest, axes, shape = iter(box), eqn.params["axes"], _shape(eqn.invars[0])
    found = tuple((0, n) if i in axes else next(rest) for i, n in enumerate(shape))
    return [found if _shape(v) == shape else e for v, e in zip(eqn.invars, everything, strict=True)]


def _windows(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    """Axes on which a window is one wide and moves by one stay; others are needed in whole."""
    shape, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    sizes, steps = eqn.params["window_dimensions"], eqn.params["window_strides"]
    moved = [i for i in range(len(shape)) if (sizes[i], steps[i], shape[i]) != (1, 1, out[i])]
    return [_full_along(box, shape, moved), *everything[1:]]


def _dot_general(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    contracted, batched = eqn.params["dimension_numbers"]
    place, found = len(batched[0]), []
    for v, contract, batch in zip(eqn.invars, contracted, batched, strict=True):
        shape, pairs = _shape(v), []
        for i in range(len(shape)):
            if i in contract:
                pairs.append((0, shape[i]))
            elif i in batch:
                pairs.append(box[batch.index(i)])
            else:
                pairs.append(box[place])
                place += 1
        found.append(tuple(pairs))
    return found


def _convolution(eqn: JaxprEqn, box: Any, everything: list[Box], _: Resolve) -> list[Box]:
    """The images of the batch stay apart; of positions and channels all are needed."""
    numbers, images = eqn.params["dimension_numbers"], list(everything[0] or ())
    if eqn.params["batch_group_count"] == 1:
        images[numbers.lhs_spec[0]] = box[numbers.out_spec[0]]
    return [tuple(images), everything[1]]


def _scan(eqn: JaxprEqn, boxes: list[Box], met: list[Met] | None) -> list[Box]:
    closed = eqn.params["jaxpr"]
    consts, carried = scan_parts(eqn)
    ends = [box and box[1:] for box in boxes[carried:]]
    carry = boxes[:carried]

    def once(met: list[Met] | None) -> list[Box]:
        return _back(closed.jaxpr, closed.consts, [*carry, *ends], met, lambda _: None)

    for round_ in range(ROUNDS + 1):
        inside = once(None)
        grown = [_union(a, b) for a, b in zip(carry, inside[consts : consts + carried], strict=True)]
        if grown == carry:
            break
        carry = grown if round_ < ROUNDS else [whole(_shape(v)) for v in closed.jaxpr.invars[consts:][:carried]]
    inside = once(met)
    steps = [box and ((0, eqn.params["length"]), *box) for box in inside[consts + carried :]]
    return [*inside[:consts], *carry, *steps]


def _branches(eqn: JaxprEqn, boxes: list[Box], met: list[Met] | None) -> list[Box]:
    found: list[Box] = [None] * (len(eqn.invars) - 1)
    for closed in eqn.params["branches"]:
        inside = _back(closed.jaxpr, closed.consts, boxes, met, lambda _: None)
        found = [_union(a, b) for a, b in zip(found, inside, strict=True)]
    return [None if all(box is None for box in boxes) else (), *found]


RULES: dict[str, Callable[[JaxprEqn, Any, list[Box], Resolve], list[Box]]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "concatenate": _concatenate,
    "pad": _pad,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}

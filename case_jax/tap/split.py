"""A traced function split in two at a tagged intermediate value."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import name_p
from jax.tree_util import Partial

from case_jax._checks import CaseJaxError, unknown

Tail = Callable[[jax.Array], Any]
"""What follows a tagged value; `split` gives a pytree, whose leaves are what it needs of what came before."""
Rest = Callable[[Any, jax.Array], list[Any]]
"""The same as a program without values of its own: saved values and the tagged one to the outputs."""

LAYER = "case_jax.layer:"
"""Before a module's path this makes the tag that an adapter puts on its output; errors show the path alone."""


def tag(value: jax.Array, name: str) -> jax.Array:
    """Mark an intermediate value of a function so that `split` can find it; the identity otherwise."""
    return checkpoint_name(value, name)


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[tuple[Jaxpr, Sequence[Any]]]:
    """The jaxprs inside an equation, with their constants."""
    for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: isinstance(v, (Jaxpr, ClosedJaxpr))):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr, value.consts
        elif isinstance(value, Jaxpr):
            yield value, ()


def tags(jaxpr: Jaxpr) -> list[str]:
    """The tags of a jaxpr in order of evaluation, inner jaxprs included."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive is name_p:
            found.append(eqn.params["name"])
        for inner, _ in inner_jaxprs(eqn):
            found += tags(inner)
    return found


def tagged_shapes(jaxpr: Jaxpr) -> dict[str, tuple[int, ...]]:
    """The shapes of the tagged values of a jaxpr, inner jaxprs included, by tag."""
    found = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive is name_p:
            found[eqn.params["name"]] = eqn.outvars[0].aval.shape  # type: ignore[attr-defined]
        for inner, _ in inner_jaxprs(eqn):
            found |= tagged_shapes(inner)
    return found


def scan_parts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many operands of a scan all its iterations share, and how many values it carries; versions of JAX name these numbers differently."""
    body = eqn.params["jaxpr"].jaxpr

    def stacked(outer: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(len(a.aval.shape) != len(b.aval.shape) for a, b in zip(outer, inside, strict=True))

    carried = len(eqn.outvars) - stacked(eqn.outvars, body.outvars)
    return len(eqn.invars) - stacked(eqn.invars, body.invars) - carried, carried


def only_backwards(function: Callable[..., Any], *args: Any) -> bool:
    """Whether forward-mode differentiation would fail: whether a call with a gradient of its own (`jax.custom_vjp`) lies inside."""
    return _holds_own_gradient(jax.make_jaxpr(function)(*args).jaxpr)


def _holds_own_gradient(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name.startswith("custom_vjp_call")
        or any(_holds_own_gradient(inner) for inner, _ in inner_jaxprs(eqn))
        for eqn in jaxpr.eqns
    )


CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
)
"""Primitives that do no more than evaluate the jaxpr inside them, so that it may be spelt out in their place."""


def read(env: dict, atom: Any) -> Any:
    """The value of a variable or literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def evaluate(eqns: Sequence[JaxprEqn], env: dict) -> None:
    """Bind equations again, one after the other, their results added to the values of variables."""
    for eqn in eqns:
        bound = eqn.primitive.get_bind_params(eqn.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*functions, *(read(env, v) for v in eqn.invars), **params)
        env.update(zip(eqn.outvars, out if eqn.primitive.multiple_results else [out], strict=True))


def _run_to_tag(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], name: str) -> tuple[jax.Array, Any, Rest]:
    """Evaluate up to the tag; return the tagged value, the values that the rest of the program needs, and that rest."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for i, eqn in enumerate(jaxpr.eqns):
        here = eqn.primitive is name_p and eqn.params["name"] == name
        inside = [] if here else [j for j in inner_jaxprs(eqn) if name in tags(j[0])]
        if not here and not inside:
            evaluate([eqn], env)
            continue
        operands = [read(env, v) for v in eqn.invars]
        if here:
            value, kept_inside, rest_inside = operands[0], (), lambda _, a: [a]
        elif eqn.primitive.name in CALLS:
            value, kept_inside, rest_inside = _run_to_tag(*inside[0], operands, name)
        else:
            raise in_a_loop(name.removeprefix(LAYER), eqn)
        later = jaxpr.eqns[i + 1 :]
        wanted = {v for v in (*jaxpr.outvars, *(v for e in later for v in e.invars)) if not isinstance(v, Literal)}
        kept = [v for v in env if v in wanted]

        def rest(saved, a, eqn=eqn, later=later, kept=kept, rest_inside=rest_inside):
            after = dict(zip(kept, saved[0], strict=True))
            after.update(zip(eqn.outvars, rest_inside(saved[1], a), strict=True))
            evaluate(later, after)
            return [read(after, v) for v in jaxpr.outvars]

        return value, ([env[v] for v in kept], kept_inside), rest
    raise AssertionError(f"tag {name!r} counted but not met")


def values_at(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., tuple[jax.Array, ...]]:
    """The values that carry these tags, in the order of the names, from one evaluation that ends at the last of them.

    Raises:
        CaseJaxError: when traced, for a tag inside a loop or branch.
    """

    def run(*args: Any) -> tuple[jax.Array, ...]:
        closed = jax.make_jaxpr(function)(*args)
        found: dict[str, jax.Array] = {}
        _note(closed.jaxpr, closed.consts, jax.tree.leaves(args), frozenset(names), found)
        return tuple(found[name] for name in names)

    return run


def _note(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], names: frozenset[str], found: dict[str, jax.Array]
) -> list[Any]:
    """Evaluate a jaxpr until all named values are found; its outputs, or nothing where it ended before."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        inside = [body for body in inner_jaxprs(eqn) if names & set(tags(body[0]))]
        if not inside:
            evaluate([eqn], env)
        elif eqn.primitive.name in CALLS:
            outputs = _note(*inside[0], [read(env, v) for v in eqn.invars], names, found)
            env.update(zip(eqn.outvars, outputs, strict=False))  # none where all were found inside
        else:
            raise in_a_loop(min(names & set(tags(inside[0][0]))).removeprefix(LAYER), eqn)
        if eqn.primitive is name_p and eqn.params["name"] in names:
            found[eqn.params["name"]] = env[eqn.outvars[0]]
        if len(found) == len(names):
            return []
    return [read(env, v) for v in jaxpr.outvars]


def in_a_loop(layer: str, eqn: JaxprEqn) -> CaseJaxError:
    """The error for a layer inside a loop or branch of which no iteration is named."""
    kind, (outer, dot, last) = eqn.primitive.name, layer.rpartition(".")
    words = "which cannot be split; tap a layer outside it, or unroll the loop"
    if kind == "scan":
        count, named = eqn.params["length"], f"{outer or last}[-1]{dot}{last if outer else ''}"
        words = f"of {count} iterations: name one, {-count} to {count - 1}, as in {named!r} for the last; or tap a layer outside it"
    return CaseJaxError(f"layer: {layer!r} lies inside a {kind!r} loop or branch, {words}.")


def require_once(found: Sequence[str], name: str, layer: str, *, argument: str = "layer") -> None:
    """Raise unless a tag was met once."""
    if found.count(name) != 1:
        raise CaseJaxError(
            f"{argument}: {layer!r} is evaluated {found.count(name)} times in one forward pass; tap a layer that is used once."
        )


def split(function: Callable[..., jax.Array], name: str) -> Callable[..., tuple[jax.Array, Tail]]:
    """Split a function of one output at its value tagged `name`.

    `split(f, name)(*args)` returns `(a, tail)` with `tail(a) == f(*args)`: everything before the tag is evaluated once, and
    differentiating `tail` differentiates nothing before the tag. The tail is a pytree (`jax.tree_util.Partial`): it may leave a
    compiled function and enter another.

    Args:
        function: a traceable function returning one array, in which exactly one value carries the tag.
        name: the tag, as given to `tag` (or `jax.ad_checkpoint.checkpoint_name`).

    Returns:
        A function of the same arguments. It works under jit, vmap, grad, pmap and shard_map, and looks into jit, remat,
        custom_jvp and custom_vjp calls; a custom rule is dropped only for the call that contains the tag.

    Raises:
        CaseJaxError: when no value, or more than one, carries the tag, or when it lies inside a loop or branch.
    """

    def run(*args):
        closed = jax.make_jaxpr(function)(*args)
        found = tags(closed.jaxpr)
        shown = name.removeprefix(LAYER)
        if name == shown and name not in found:
            marked = {other for other in found if not other.startswith("case_jax.")}
            if not marked:
                raise CaseJaxError(f"layer: {name!r} is no tag; mark the value to tap: a = case_jax.tag(a, {name!r}).")
            raise unknown("layer", name, marked)
        require_once(found, name, shown)
        value, saved, rest = _run_to_tag(closed.jaxpr, closed.consts, jax.tree.leaves(args), name)
        return value, Partial(lambda saved, a: rest(saved, a)[0], saved)

    return run

"""A layer inside a loop (`nnx.scan`, `nn.scan`): one of its iterations written out, so that the program may be split in it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, jaxpr_as_fun
from jax.extend.core.primitives import name_p

from case_jax._checks import require
from case_jax.tap.split import CALLS, evaluate, in_a_loop, inner_jaxprs, read, scan_parts, tag, tags

INDEX = re.compile(r"\[(-?\d+)\]")


def iterations(layer: str) -> tuple[str, tuple[int, ...]]:
    """A layer's path without the numbers of iterations, and these numbers: `encoder.layers[-1].norm` is `encoder.layers.norm` and (−1,).

    A number is a place in the stack of parameters that the loop runs over; of loops in loops the outer one's stands first.
    """
    return INDEX.sub("", layer), tuple(int(number) for number in INDEX.findall(layer))


def out_of_loops(function: Callable[..., Any], layer: str, prefix: str) -> Callable[..., Any]:
    """The same function with the loops around a layer run up to one iteration, that one written out, and the others after it.

    Args:
        function: a traceable function of arrays and pytrees of them, in which the layer's output is tagged by the prefix and its path
            without numbers.
        layer: its path with a number for each loop around it, from the outermost; without numbers the function is returned.
        prefix: of its tag. In the iteration that is written out the tag is the prefix and the path as given.

    Raises:
        CaseJaxError: when traced: unless there are as many loops as numbers, all of them scans that have such an iteration.
    """
    path, numbers = iterations(layer)
    if not numbers:
        return function

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _Unrolling(layer, prefix + path, prefix + layer).run(
            closed.jaxpr, closed.consts, jax.tree.leaves(args), numbers
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return run


class _Unrolling:
    """A program evaluated with one iteration of each loop around a tag written out."""

    def __init__(self, layer: str, name: str, renamed: str):
        self.layer, self.name, self.renamed = layer, name, renamed

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], numbers: tuple[int, ...]) -> list[Any]:
        """The outputs; `numbers` are those of the loops that are still to come."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            inside = [body for body in inner_jaxprs(eqn) if self.name in tags(body[0])]
            operands = [read(env, v) for v in eqn.invars] if inside else []
            if eqn.primitive is name_p and eqn.params["name"] == self.name:
                require(
                    not numbers,
                    "layer",
                    f"{self.layer!r}, {len(numbers)} numbers too many",
                    "one for each loop around it",
                )
                env[eqn.outvars[0]] = tag(read(env, eqn.invars[0]), self.renamed)
            elif not inside:
                evaluate([eqn], env)
            elif eqn.primitive.name in CALLS:
                env.update(zip(eqn.outvars, self.run(*inside[0], operands, numbers), strict=True))
            elif eqn.primitive.name == "scan" and numbers:
                env.update(zip(eqn.outvars, self._scan(eqn, operands, numbers), strict=True))
            else:
                raise in_a_loop(self.layer, eqn)
        return [read(env, v) for v in jaxpr.outvars]

    def _scan(self, eqn: JaxprEqn, operands: Sequence[Any], numbers: tuple[int, ...]) -> list[Any]:
        params = eqn.params
        body, length = params["jaxpr"], params["length"]
        start, carries = scan_parts(eqn)
        accepted = f"a number from {-length} to {length - 1}, as the loop has {length} iterations"
        require(-length <= numbers[0] < length, "layer", repr(self.layer), accepted)
        number = numbers[0] % length
        shared, stacked = operands[:start], operands[start + carries :]

        def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            out = jaxpr_as_fun(body)(*shared, *carry, *x)
            return out[:carries], out[carries:]

        def others(carry: list[Any], first: int, last: int) -> tuple[list[Any], list[Any]]:
            """Iterations from `first` to before `last`, and what they stack."""
            if first == last:
                return carry, []
            part, unroll = [x[first:last] for x in stacked], min(params["unroll"], last - first)
            return jax.lax.scan(step, carry, part, last - first, reverse=params["reverse"], unroll=unroll)

        pieces = [(0, number), (number + 1, length)]
        before, after = pieces[::-1] if params["reverse"] else pieces
        carry, first = others([*operands[start : start + carries]], *before)
        out = self.run(body.jaxpr, body.consts, [*shared, *carry, *(x[number] for x in stacked)], numbers[1:])
        carry, last = others(out[:carries], *after)
        first, last = (last, first) if params["reverse"] else (first, last)
        whole = [[*first], [y[None] for y in out[carries:]], [*last]]
        return [*carry, *(jnp.concatenate(ys) for ys in zip(*(piece for piece in whole if piece), strict=True))]

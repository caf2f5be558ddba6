"""Whether a network is what it is in evaluation: a function of its parameters and of each image alone, and of the tapped layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax import parallel
from case_jax._checks import CaseJaxError
from case_jax.tap.needed import Box, Met, needed, whole
from case_jax.tap.outputs import is_array
from case_jax.tap.split import tag
from case_jax.tap.tokens import Tokens

NOTED, CHOSEN = "case_jax.output:", "case_jax.chosen:"
"""Before a module's path: the tag of what it returns, and of the part of it that is tapped."""
TOLERANCE = 1e-5
"""Largest difference of two runs, relative to the largest value, that counts as rounding."""
WAY_OUT = "check=False skips the question."

Note = Callable[[str, Any], Any]


class Written(NamedTuple):
    """A variable as a call leaves it."""

    value: Array
    is_statistic: bool
    """Whether the network says that it is a batch statistic; another one is if it depends on the images."""


@dataclass(frozen=True)
class Network:
    """A network as a pure function of all that it may depend on."""

    forward: Callable[[Any, Any, Float[Array, "B *space D"], Note], tuple[Float[Array, "B C"], dict[str, Written]]]
    """(params, random, images, note) to logits, and the variables written; what every sub-module returns goes through `note`."""
    params: Any
    random: Any
    """State of random generators."""
    kind: Callable[[str], str]
    """The class of the module at a path."""
    advice: Callable[[str], str]
    """What most likely puts the module at a path into evaluation."""


class Survey(NamedTuple):
    """What one traced pass says of the layers."""

    outputs: list[Met]
    """What the modules return, in order of evaluation, and what the logits need of it."""

    def calls(self, path: str) -> list[Met]:
        """The tapped part of a module's output, once for each call."""
        return [met for met in self.outputs if met.name == CHOSEN + path]


def surveyed(network: Network, image: Array) -> Survey:
    """Trace a network on a batch, and raise unless it is in evaluation.

    Three questions: does a call write batch statistics, do the logits change with the state of a random generator, and do an image's logits
    change with the other image of its batch? They are answered by reading the program, and where that proves nothing, by running it
    twice on random images. A network that takes one image alone is not asked the last.

    Raises:
        CaseJaxError: for a yes; names the module and what most likely turns it off.
    """
    structure: dict[str, bool] = {}

    def run(params: Any, random: Any, images: Array) -> tuple[Array, dict[str, Array]]:
        logits, written = network.forward(params, random, images, _noted)
        structure.update({path: w.is_statistic for path, w in written.items()})
        return logits, {path: w.value for path, w in written.items()}

    def traced(count: int) -> tuple[Any, Any]:
        images = jax.ShapeDtypeStruct((count, *jnp.shape(image)), jnp.result_type(image))
        return jax.make_jaxpr(run, return_shape=True)(network.params, network.random, images)

    count = 2
    try:
        closed, (logits, written) = traced(count)
    except Exception:  # of whatever kind: with one image it is raised again, or there is none
        count = 1
        closed, (logits, written) = traced(count)
    jaxpr = closed.jaxpr
    own, drawn = len(jax.tree.leaves(network.params)), len(jax.tree.leaves(network.random))
    box = whole(logits.shape)
    boxes, met = needed(closed, [box and ((0, 1), *box[1:]), *[None] * len(written)])
    for number, (path, aval) in enumerate(sorted(written.items())):
        variable = jaxpr.outvars[1 + number]
        if variable in jaxpr.invars or not jnp.issubdtype(aval.dtype, jnp.floating):
            continue
        wanted: list[Box] = [None] * len(jaxpr.outvars)
        wanted[1 + number] = whole(aval.shape)
        if structure[path] or needed(closed, wanted)[0][-1] is not None:
            module = path.rpartition(".")[0]
            raise _refusal(network, f"a call writes {path.rpartition('.')[2]!r}, a batch statistic,", module)
    if any(needs is not None for needs in boxes[own : own + drawn]):
        _require_the_same(network, image, count, random=True)
    images_needed = boxes[-1]
    if count > 1 and images_needed is not None and images_needed[0] != (0, 1):
        _require_the_same(network, image, count, random=False)
    return Survey([m for m in met if m.name.startswith((NOTED, CHOSEN))])


def _noted(path: str, output: Any) -> Any:
    """The same, its arrays tagged."""
    leaves, structure = jax.tree.flatten(output)
    tagged = [tag(leaf, f"{NOTED}{path}") if is_array(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, tagged)


def _refusal(network: Network, what: str, path: str | None) -> CaseJaxError:
    where = f" in {path!r} ({network.kind(path)})" if path else ""
    return CaseJaxError(
        f"model: {what}{where}, so this is not the model in evaluation. Most likely: {network.advice(path or '')}. {WAY_OUT}"
    )


def _require_the_same(network: Network, image: Array, count: int, *, random: bool) -> None:
    """Run a network twice, with other random states or with another second image, and raise unless its logits are the same.

    The images are random numbers, and arrays of zeros among the parameters become small numbers: what a network without training
    multiplies by zero would hide the difference that it makes later.
    """
    shape, dtype = (count, *jnp.shape(image)), jnp.result_type(image)
    images = jax.random.normal(jax.random.key(0), (2, *shape), jnp.float32).astype(dtype)
    first = images[0]
    second = first if random else first.at[1:].set(images[1, 1:])
    states = [network.random, jax.tree.map(_advanced, network.random)] if random else [network.random] * 2
    params = jax.tree.map(_without_zeros, network.params)

    def outputs(noting: bool) -> tuple[list[str], list[Any]]:
        paths: list[str] = []

        def run(params: Any, state: Any, images: Array) -> tuple[Array, list[Array]]:
            noted: list[Array] = []
            paths.clear()

            def note(path: str, output: Any) -> Any:
                arrays = [leaf for leaf in jax.tree.leaves(output) if is_array(leaf)] if noting else []
                paths.extend(path for _ in arrays)
                noted.extend(arrays)
                return output

            return network.forward(params, state, images, note)[0], noted

        compiled = parallel.on_one_device(run)
        runs = [compiled(params, state, batch) for state, batch in zip(states, (first, second), strict=True)]
        return paths, runs

    _, ((a, _), (b, _)) = outputs(noting=False)
    if _same(a, b, count, random):
        return
    path = None
    try:
        paths, runs = outputs(noting=True)
        path = next(
            (p for p, x, y in zip(paths, *(r[1] for r in runs), strict=True) if not _same(x, y, count, random)), None
        )
    except jax.errors.JAXTypeError:
        pass  # a module inside a loop, whose outputs cannot be had; the refusal then names none
    what = (
        "the logits change with the state of a random generator, first"
        if random
        else "an image's logits change with the rest of its batch, first"
    )
    raise _refusal(network, what, path)


def _same(a: Array, b: Array, count: int, everything: bool) -> bool:
    """Whether the values are the same, or only those of the first image; arrays with another leading axis hold it in their first part."""
    if not jnp.issubdtype(a.dtype, jnp.number):
        return True
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not everything:
        x, y = (v[: len(v) // count] if v.ndim else v for v in (x, y))
    return np.allclose(x, y, rtol=0, atol=TOLERANCE * np.abs(x).max(initial=0), equal_nan=True)


def _advanced(state: Any) -> Any:
    """Another state of a random generator."""
    if jnp.issubdtype(state.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jax.random.key_data(state) + np.uint32(1), impl=jax.random.key_impl(state))
    return state + np.asarray(1, state.dtype)


def _without_zeros(leaf: Any) -> Any:
    here = getattr(leaf, "is_fully_addressable", True)
    if (
        not here
        or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        or jnp.size(leaf) < 2
        or np.any(np.asarray(leaf))
    ):
        return leaf
    return jnp.asarray(0.1 * np.cos(np.arange(jnp.size(leaf))).reshape(jnp.shape(leaf)), jnp.result_type(leaf))


def require_reached(survey: Survey, path: str, call: int | None, tokens: Tokens | None, places: Sequence[str]) -> None:
    """Raise unless a layer is called once, or often enough, and the logits depend on what is tapped of it.

    Args:
        survey: of the network.
        path: the layer's.
        call: which of its calls.
        tokens: how its tokens lie; None for a map.
        places: where it is called, for the message.

    Raises:
        CaseJaxError: when it is not; names the nearest layer before it of the same form that the logits depend on.
    """
    calls = survey.calls(path)
    if call is None and len(calls) > 1:
        named = [f"call={i} in {place}" for i, place in enumerate(places)]
        where = ", ".join(named if len(named) == len(calls) else [f"call={i}" for i in range(len(calls))])
        raise CaseJaxError(
            f"layer: {path!r} is evaluated {len(calls)} times in one forward pass ({where}); choose one of these calls, or tap a layer that "
            "is used once."
        )
    if not calls or (call or 0) >= len(calls):
        return
    chosen = calls[call or 0]
    if depended_on(chosen, tokens.prefix if tokens else 0):
        return
    raise unreached(path, chosen, survey.outputs[: survey.outputs.index(chosen)], tokens)


def unreached(path: str, chosen: Met, before: Sequence[Met], tokens: Tokens | None = None) -> CaseJaxError:
    """The error for a layer on which the logits do not depend."""
    prefix = tokens.prefix if tokens else 0
    alike = [met for met in before if _alike(met, chosen, tokens is not None) and depended_on(met, prefix)]
    alike.sort(key=lambda met: met.shape == chosen.shape)  # the nearest last, rather one of as many channels
    only = f" at the {prefix} tokens in front of its grid alone" if chosen.box is not None else ""
    does = f"depend on {path!r}{only}" if only else f"do not depend on {path!r}"
    nearest = (
        f"the nearest before it is {alike[-1].name.removeprefix(NOTED)!r}"
        if alike
        else "none before it has the same form"
    )
    return CaseJaxError(
        f"layer: the logits {does}, so every map of it would be zero; accepted: a layer whose output they depend on: {nearest}."
    )


def depended_on(met: Met, prefix: int) -> bool:
    """Whether anything behind the first `prefix` tokens is needed."""
    return met.box is not None and (prefix == 0 or met.box[1][1] > prefix)


def _alike(met: Met, chosen: Met, tokens: bool) -> bool:
    """Whether two outputs are tapped in the same way: maps both, or as many tokens."""
    if met.name.startswith(CHOSEN) or len(met.shape) != len(chosen.shape) or met.shape[:1] != chosen.shape[:1]:
        return False
    return not tokens or met.shape[1] == chosen.shape[1]

"""Flax NNX modules as tapped models.

`flax.nnx` is imported where it is used: it is a quarter of the time of `import case_jax`, and users of Linen need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.tap.after import at_its_place, mark, require_after
from case_jax.tap.calling import (
    Called,
    called,
    caller,
    evaluation_advice,
    holders,
    require_arguments,
    require_call,
    require_called,
    require_one_image,
)
from case_jax.tap.evaluation import CHOSEN, Network, Note, Written, require_reached, surveyed
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT, as_used, one_head
from case_jax.tap.layer import Tapped, further_layers, tapped_value, told_of_channels
from case_jax.tap.link import Link
from case_jax.tap.loops import iterations
from case_jax.tap.outputs import Pick, changed, logits_of
from case_jax.tap.split import LAYER, tag
from case_jax.tap.tapping import tapped
from case_jax.tap.view import TappedModel

if TYPE_CHECKING:
    from flax import nnx


def sub_modules(module: nnx.Module) -> dict[str, nnx.Module]:
    """The sub-modules that can be tapped, by dotted path (`blocks.2.conv1`), in the module's own order."""
    from flax import nnx

    found = {".".join(map(str, path)): sub for path, sub in nnx.iter_modules(module) if path and callable(sub)}
    return dict(
        sorted(
            found.items(), key=lambda item: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in item[0].split(".")]
        )
    )


def _retype(sub: Any, call: Any) -> None:
    """Give one sub-module (of a fresh copy) another `__call__`."""
    sub.__class__ = type(type(sub).__name__, (type(sub),), {"__call__": call})


def outputs_of(module: nnx.Module, paths: Sequence[str], *args: Any, **kwargs: Any) -> tuple[Any, tuple[Array, ...]]:
    """Call a module; its output, and those of some of its sub-modules in the order of their paths.

    Args:
        module: a copy of one's own, which is changed.
        paths: dotted paths, as in `sub_modules`.
        args: what the module is called with.
        kwargs: the same.

    Raises:
        CaseJaxError: for an unknown path, or one that is not called exactly once.
    """
    known = sub_modules(module)
    met: dict[str, list[Array]] = {path: [] for path in paths}
    for path in paths:
        if path not in known:
            raise unknown("stages", path, known)
        _record(known[path], met[path])
    out = module(*args, **kwargs)  # type: ignore[operator]
    for path, found in met.items():
        require(len(found) == 1, "stages", f"{path!r}, called {len(found)} times", "layers that are called once")
    return out, tuple(met[path][0] for path in paths)


def _record(sub: Any, found: list[Array]) -> None:
    call = type(sub).__call__

    def recorded(self, *args, **kwargs):
        out = call(self, *args, **kwargs)
        found.append(out)
        return out

    _retype(sub, recorded)


def _tag(sub: Any, tapped: Tapped, image_shape: tuple[int, ...]) -> None:
    call = type(sub).__call__

    def tagged(self, *args, **kwargs):
        return tapped.tag(call(self, *args, **kwargs), image_shape)

    _retype(sub, tagged)


class _Parts:
    """A module taken apart into its structure, random state and parameters, with the arguments of its call, and put together anew."""

    def __init__(self, call: Called) -> None:
        from flax import nnx

        evaluated = nnx.clone(call.module)
        evaluated.eval()
        arguments = (call.before, call.after, call.kwargs)
        leaves, self._structure = jax.tree.flatten(arguments, is_leaf=lambda v: isinstance(v, nnx.Pytree))
        apart = [nnx.split(v) if isinstance(v, nnx.Pytree) else None for v in leaves]
        self._call, self._leaves, self._graphs = call, leaves, [a and a[0] for a in apart]
        self.evaluated = evaluated
        self._graph, random, self.params = nnx.split(evaluated, nnx.RngState, ...)
        self.random = (random, [a and a[1] for a in apart])

    def together(self, params: Any, random: Any) -> tuple[nnx.Module, Callable[[Array], Any]]:
        """A copy of the module, and its call on a batch."""
        from flax import nnx

        own, of_arguments = random
        copy = nnx.merge(self._graph, own, params, copy=True)
        leaves = [
            leaf if graph is None else nnx.merge(graph, state, copy=True)
            for leaf, graph, state in zip(self._leaves, self._graphs, of_arguments, strict=True)
        ]
        before, after, kwargs = jax.tree.unflatten(self._structure, leaves)
        call = self._call._replace(before=before, after=after, kwargs=kwargs)
        return copy, lambda x: call.on(copy, x)


def _written(module: nnx.Module, before: set[tuple[Any, ...]]) -> dict[str, Written]:
    """The variables of a module after its call, but for those that are meant to be written."""
    from flax import nnx

    meant = nnx.Any(nnx.RngState, nnx.Intermediate, nnx.Perturbation, nnx.Cache)
    found = nnx.to_flat_state(nnx.state(module, nnx.Not(meant)))
    return {
        ".".join(map(str, path)): Written(jnp.asarray(variable[...]), isinstance(variable, nnx.BatchStat))
        for path, variable in found
        if path in before
    }


def _network(parts: _Parts, call: Called, target: Tapped, pick: Pick, places: list[str]) -> Network:
    """The module as what is checked."""
    from flax import nnx

    before = {path for path, _ in nnx.to_flat_state(parts.params)}
    known: Mapping[str, Any] = {"": parts.evaluated, **sub_modules(parts.evaluated)}

    def forward(params: Any, random: Any, images: Array, note: Note) -> tuple[Array, dict[str, Written]]:
        copy, run = parts.together(params, random)
        places.clear()
        for path, sub in sub_modules(copy).items():
            _watch(sub, path, note, target, places)
        logits = logits_of(run(images), pick, len(images))
        return logits, _written(copy, before)

    return Network(
        forward,
        parts.params,
        parts.random,
        kind=lambda path: type(known[path]).__name__ if path in known else "a variable",
        advice=lambda path: evaluation_advice(call, holders(known, path), "tap_nnx"),
    )


def _watch(sub: Any, path: str, note: Note, target: Tapped, places: list[str]) -> None:
    call = type(sub).__call__

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = call(self, *args, **kwargs)
        if path == target.layer:
            places.append(caller())
            out = changed(out, target.output, lambda value: tag(value, CHOSEN + path), path)
        return note(path, out)

    _retype(sub, watched)


def tap_nnx(
    module: nnx.Module | Callable[..., Any],
    layer: str,
    image: Float[Array, "*space D"],
    *,
    output: Pick = None,
    layer_output: str | int | None = None,
    call: int | None = None,
    linear_head: str | None = None,
    dense_head: str | None = None,
    head_channels: tuple[int, int] | None = None,
    after: Literal["relu"] | None = None,
    token_grid: tuple[int, ...] | None = None,
    prefix_tokens: int = 0,
    layers: Sequence[str] = (),
    chunk: int = 64,
    check: bool = True,
    call_args: Sequence[Any] = (),
    link: Link | None = None,
    **call_kwargs: Any,
) -> TappedModel:
    """Split a Flax NNX classifier at a named layer; the module itself is left untouched.

    What is tapped is the model in evaluation: `module.eval()` on a copy, and the given arguments of its call. That its output depends on
    parameters and image alone, not on random numbers, batch statistics or the rest of a batch, is checked here.

    The tapped value is what the layer returns. Where the network calls an activation as a function, `nnx.relu(self.conv(x))`,
    that is the value before the activation; `after="relu"` taps the one behind it, as a hook on PyTorch's `nn.ReLU` does.

    Args:
        module: a classifier that maps (B, H, W, D) to logits (B, C), signals (B, L, D) and volumes alike; also `functools.partial` of one,
            `nnx.jit` of one, or a method.
        layer: dotted path of the sub-module whose output, (B, h, w, K), is tapped. Of layers that `nnx.scan` runs over, a number says
            which: `encoder.layers[-1].norm1`.
        image: one normalised image (H, W, D); fixes the shapes and checks the closed form.
        output: where the logits are in what the module returns: a key, an index, the name of an attribute, or a function of it (for a batch,
            as the module returns it) that gives (B, C) scores.
        layer_output: where the map is in what the layer returns: a key, an index, the name of an attribute.
        call: which of the layer's calls is tapped, from 0, when there are several.
        linear_head: path of the final `nnx.Linear`, when everything between `layer` and it acts on each channel alone:
            class weights then have a closed form, which is checked against the pullback here.
        dense_head: instead of `linear_head`, path of the first linear layer when others follow it (as in a VGG); it takes its
            inputs channels last.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head (as in the last dense
            layer of a DenseNet): the first of them, and how many there are.
        after: "relu" taps, instead of the layer's output, the value behind the rectifier that takes it; for networks that
            call the rectifier as a function.
        token_grid: rows and columns (in signals and volumes as many numbers as there are axes), when the layer's output are tokens,
            (B, prefix_tokens + rows · columns, K): the last become the map.
        prefix_tokens: how many tokens stand in front of those of the grid (a class token, registers).
        layers: paths of further layers whose maps and gradients a method may ask for, too (`View.views`), the highest resolution first.
        chunk: most classes whose gradients are held in memory at once.
        check: False skips what is checked here beyond shapes: evaluation, a path from layer to logits, the grid's aspect ratio,
            the closed form.
        call_args: further positional arguments of the call, behind the image.
        link: what the outputs are: "softmax" (logits, of which one class is true; the default), "sigmoid" (logits of labels that may all be
            true), "probabilities" (the network ends in softmax, which is taken off) or "identity" (no logits, as in regression). One
            logit z becomes two classes, (−z/2, z/2).
        **call_kwargs: keyword arguments of the call, for example `train=False` or `rngs=nnx.Rngs(0)`.

    Returns:
        The tapped model; its `params` hold all variables of the module but the state of random generators.

    Raises:
        CaseJaxError: for an unknown layer (those that exist are listed, nearest first), one that is called several times without `call`,
            one on which the logits do not depend, an output that is not one map or, with `after`, is not rectified next, logits
            that are not one vector, a model in training, arguments that its call does not take, an image with its channels
            first, a head that is no linear layer or whose closed form fails, or outputs that are probabilities, without a link that says so.
    """
    from flax import nnx

    invoked = called(module, nnx.Module, "a flax.nnx.Module; for Linen use tap_linen", call_args, call_kwargs)
    require_one_image(image)
    require_arguments(invoked, "tap_nnx")
    require_after(after)
    require_call(call)
    known = sub_modules(invoked.module)
    head = one_head(linear_head, dense_head)
    path, numbers = iterations(layer)
    paths = [("layer", path), ("linear_head", linear_head), ("dense_head", dense_head)]
    for argument, given in paths:
        if given is not None and given not in known:
            raise unknown(argument, given, known)
    if head is not None:
        given = f"{head!r}, a {type(known[head]).__name__}"
        require(
            isinstance(known[head], nnx.Linear), "linear_head" if linear_head else "dense_head", given, "an nnx.Linear"
        )
    target = tapped_value(
        layer, output=layer_output, call=call, token_grid=token_grid, prefix_tokens=prefix_tokens, check=check
    )
    further, names = further_layers(layers, target, known)
    parts, places = _Parts(invoked), []
    if check:
        with told_of_channels(image):
            survey = surveyed(_network(parts, invoked, target, output, places), image)
        if not numbers:
            require_reached(survey, layer, call, target.tokens, places)
    inside = target._replace(layer=path)

    def apply(params: Any, x: Array) -> Array:
        copy, run = parts.together(params, parts.random)
        subs = sub_modules(copy)
        own, calls = type(subs[path]).__call__, []

        def tagged(self, *args, **kwargs):
            out = own(self, *args, **kwargs)
            calls.append(path)
            if call is not None and len(calls) != call + 1:
                return out
            return mark(out, inside, after, x.shape)

        _retype(subs[path], tagged)
        for one in further:
            _tag(subs[one.layer], one, x.shape)
        if head is not None:
            dense = type(subs[head]).__call__

            def marked(self, inputs, **kwargs):
                out = dense(self, tag(inputs[0], HEAD_INPUT)[None], **kwargs)
                return out if dense_head is None else tag(out[0], HEAD_OUTPUT)[None]

            _retype(subs[head], marked)
        logits = logits_of(run(x[None]), output)[0]
        require_called(call, layer, len(calls))
        return logits

    def kernel(params: Any) -> Array:
        dense = sub_modules(parts.together(params, parts.random)[0])[head]  # type: ignore[index]
        return as_used(dense.kernel[...], dense.dtype)  # type: ignore[attr-defined]

    return tapped(
        at_its_place(apply, target, after),
        parts.params,
        image,
        layer=layer if after is None else f"{layer}, relu",
        tag=LAYER + layer,
        head_kernel=kernel if head else None,
        head_channels=head_channels,
        layers=names,
        chunk=chunk,
        check=check,
        link=link,
    )

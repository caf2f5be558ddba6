"""Flax Linen modules as tapped models."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
from flax import linen as nn
from flax.errors import InvalidRngError, ModifyScopeVariableError
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require, unknown
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

OF_APPLY = ("rngs", "mutable", "capture_intermediates", "method")
"""Keywords of `Module.apply`; all others are the module's own."""
MEANT = ("intermediates", "perturbations", "cache")
"""Collections that are meant to be written."""


class _Applied:
    """A module's pass with its arguments: `Module.apply`, whose variables and generators are arguments here."""

    def __init__(self, call: Called) -> None:
        method = call.kwargs.get("method", None if call.method == "__call__" else call.method)
        self.call, self.random = call, call.kwargs.get("rngs")
        self._kwargs = {key: value for key, value in call.kwargs.items() if key not in ("rngs", "method")}
        self._kwargs |= {} if method is None else {"method": method}
        self._several = call.kwargs.get("mutable", False) is not False
        self.signature = call
        if method is not None:
            name = method if isinstance(method, str) else method.__name__
            self.signature = call._replace(method=name)

    def __call__(self, variables: Any, random: Any, images: Array) -> tuple[Any, Mapping[str, Any]]:
        """The output for a batch, and the collections that the caller wants to have written."""
        rngs = {} if random is None else {"rngs": random}
        out = self.call.module.apply(variables, *self.call.before, images, *self.call.after, **rngs, **self._kwargs)
        return out if self._several else (out, {})  # type: ignore[return-value]


def sub_modules(run: _Applied, variables: Any, image: Array) -> dict[str, nn.Module]:
    """The sub-modules that one forward pass calls, by dotted path, in order of their calls.

    Raises:
        CaseJaxError: when one of them wants to write statistics or to draw random numbers, as in training.
    """
    met: dict[str, nn.Module] = {}
    inside: list[str] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = ".".join(context.module.path)
        if context.method_name == "__call__" and context.module.path:
            met.setdefault(path, context.module)
        try:
            return call(*args, **kwargs)
        except (ModifyScopeVariableError, InvalidRngError):
            if not inside:
                inside.append(path)
                met.setdefault(path, context.module)
            raise

    def forward(variables: Any, x: Array) -> None:
        with nn.intercept_methods(note):
            run(variables, run.random, x[None])

    with _told_of_training(run, met, inside):
        jax.eval_shape(forward, variables, image)
    return met


@contextlib.contextmanager
def _told_of_training(run: _Applied, met: Mapping[str, nn.Module], inside: Sequence[str]) -> Iterator[None]:
    """What Flax raises for a network in training is an error that names the module and the argument."""
    try:
        yield
    except (ModifyScopeVariableError, InvalidRngError) as error:
        path = inside[0] if inside else ""
        kind = type(met[path]).__name__ if path in met else type(run.call.module).__name__
        does = "writes batch_stats" if isinstance(error, ModifyScopeVariableError) else "draws random numbers"
        advice = evaluation_advice(run.signature, holders({"": run.call.module, **met}, path), "tap_linen")
        raise CaseJaxError(
            f"model: {path!r} ({kind}) {does} in a call: this is not the model in evaluation. Most likely: {advice}."
        ) from error


def _written(updates: Mapping[str, Any]) -> dict[str, Written]:
    """Variables after a call, by path, but for those that are meant to be written."""
    return {
        ".".join(map(str, path)): Written(value, collection == "batch_stats")  # type: ignore[arg-type]
        for collection, tree in updates.items()
        if collection not in MEANT
        for path, value in flatten_dict(tree).items()
    }


def _network(
    run: _Applied, variables: Any, known: Mapping[str, nn.Module], target: Tapped, pick: Pick, places: list[str]
) -> Network:
    """The module as what is checked."""
    everything: Mapping[str, Any] = {"": run.call.module, **known}

    def forward(variables: Any, random: Any, images: Array, note: Note) -> tuple[Array, dict[str, Written]]:
        places.clear()

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            path = ".".join(context.module.path)
            if context.method_name != "__call__" or not path:
                return out
            if path == target.layer:
                places.append(caller())
                out = changed(out, target.output, lambda value: tag(value, CHOSEN + path), path)
            return note(path, out)

        with nn.intercept_methods(watch):
            out, updates = run(variables, random, images)
        return logits_of(out, pick, len(images)), _written(updates)

    return Network(
        forward,
        variables,
        run.random,
        kind=lambda path: type(everything[path]).__name__ if path in everything else "a variable",
        advice=lambda path: evaluation_advice(run.signature, holders(everything, path), "tap_linen"),
    )


def tap_linen(
    module: nn.Module | Callable[..., Any],
    variables: Any,
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
    **apply_kwargs: Any,
) -> TappedModel:
    """Split a Flax Linen classifier at a named layer; the module itself is left untouched.

    What is tapped is the model in evaluation, with the given arguments of its call. That its output depends on variables and image alone,
    not on random numbers, batch statistics or the rest of a batch, is checked here.

    The tapped value is what the layer returns. Where the network calls an activation as a function, `nn.relu(nn.Conv(...)(x))`,
    that is the value before the activation; `after="relu"` taps the one behind it, as a hook on PyTorch's `nn.ReLU` does.

    Args:
        module: a classifier that maps (B, H, W, D) to logits (B, C), signals (B, L, D) and volumes alike; also `functools.partial` of one, or
            a method.
        variables: its variables; they become the tapped model's `params`.
        layer: dotted path of the sub-module whose output, (B, h, w, K), is tapped, for example `Block_2.Conv_1`. Of layers that
            `nn.scan` runs over, a number says which: `encoder.layers[-1].norm1`.
        image: one normalised image (H, W, D); fixes the shapes and checks the closed form.
        output: where the logits are in what the module returns: a key, an index, the name of an attribute, or a function of it (for a batch,
            as the module returns it) that gives (B, C) scores.
        layer_output: where the map is in what the layer returns: a key, an index, the name of an attribute.
        call: which of the layer's calls is tapped, from 0, when there are several.
        linear_head: path of the final `nn.Dense`, when everything between `layer` and it acts on each channel alone:
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
        **apply_kwargs: passed to `module.apply`, for example `train=False`.

    Returns:
        The tapped model.

    Raises:
        CaseJaxError: for an unknown layer (those that exist are listed, nearest first), one that is called several times without `call`,
            one on which the logits do not depend, an output that is not one map or, with `after`, is not rectified next, logits
            that are not one vector, a model in training, arguments that its call does not take, an image with its channels
            first, a head that is no dense layer or whose closed form fails, or outputs that are probabilities, without a link that says so.
    """
    invoked = called(module, nn.Module, "a flax.linen.Module; for NNX use tap_nnx", call_args, apply_kwargs)
    run = _Applied(invoked)
    require_one_image(image, "tap_linen")
    require_arguments(run.signature, "tap_linen", OF_APPLY)
    require_after(after)
    require_call(call)
    with told_of_channels(image):
        known = sub_modules(run, variables, image)
    head = one_head(linear_head, dense_head)
    tapped_path, numbers = iterations(layer)
    for argument, path in (("layer", tapped_path), ("linear_head", linear_head), ("dense_head", dense_head)):
        if path is not None and path not in known:
            raise unknown(argument, path, known)
    if head is not None:
        given = f"{head!r}, a {type(known[head]).__name__}"
        require(isinstance(known[head], nn.Dense), "linear_head" if linear_head else "dense_head", given, "an nn.Dense")
    target = tapped_value(
        layer, output=layer_output, call=call, token_grid=token_grid, prefix_tokens=prefix_tokens, check=check
    )
    further, names = further_layers(layers, target, known)
    others = {one.layer: one for one in further}
    places: list[str] = []
    if check:
        survey = surveyed(_network(run, variables, known, target, output, places), image)
        if not numbers:
            require_reached(survey, layer, call, target.tokens, places)
    inside = target._replace(layer=tapped_path)

    def apply(variables: Any, x: Array) -> Array:
        calls: list[str] = []

        def intercept(own: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "__call__":
                return own(*args, **kwargs)
            path = ".".join(context.module.path)
            if path == head:
                args = (tag(args[0][0], HEAD_INPUT)[None], *args[1:])
            out = own(*args, **kwargs)
            if path == dense_head:
                out = tag(out[0], HEAD_OUTPUT)[None]
            if path in others:
                return others[path].tag(out, x.shape)
            if path != tapped_path:
                return out
            calls.append(path)
            if call is not None and len(calls) != call + 1:
                return out
            if numbers and layer_output is None and isinstance(out, tuple):
                return mark(out[0], inside, after, x.shape), *out[1:]  # what nn.scan carries on, and what it stacks
            return mark(out, inside, after, x.shape)

        with nn.intercept_methods(intercept):
            logits = logits_of(run(variables, run.random, x[None])[0], output)[0]
        require_called(call, layer, len(calls))
        return logits

    def kernel(variables: Any) -> Array:
        found = variables["params"]
        for part in head.split("."):  # type: ignore[union-attr]
            found = found[part]
        return as_used(found["kernel"], known[head].dtype)  # type: ignore[index,attr-defined]

    return tapped(
        at_its_place(apply, target, after),
        variables,
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

"""Haiku's transformed functions as tapped models.

`haiku` is imported where it is used, and only for a function that is Haiku's already.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.tap.after import at_its_place, mark, require_after
from case_jax.tap.calling import (
    caller,
    require_call,
    require_called,
    require_library,
    require_one_image,
    told_of_arguments,
)
from case_jax.tap.ending import ends_in_tag
from case_jax.tap.evaluation import CHOSEN, Network, Note, Written, require_reached, surveyed
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT, channels_first, positions_first
from case_jax.tap.layer import Channels, Form, Tapped, further_layers, tapped_value, told_of_channels
from case_jax.tap.link import Link
from case_jax.tap.loops import iterations
from case_jax.tap.outputs import Pick, changed, logits_of
from case_jax.tap.split import LAYER, split, tag
from case_jax.tap.tapping import tapped
from case_jax.tap.view import TappedModel

Around = Callable[..., Any]
"""(path, module, its call, arguments, keyword arguments) to what it returns."""
AVERAGES = ("/~/mean_ema", "/~/var_ema")
"""How the modules end that hold a normalisation's averages; these count as the normalisation's own."""


def _joined(state: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Array]]:
    """A state by the modules that own it, averages with their normalisation: `{"bn": {"mean_ema/average": …}}`."""
    found: dict[str, dict[str, Array]] = {}
    for module, values in state.items():
        end = next((end for end in AVERAGES if module.endswith(end)), "")
        owner, prefix = module.removesuffix(end), f"{end.removeprefix('/~/')}/" if end else ""
        found.setdefault(owner, {}).update({prefix + name: value for name, value in values.items()})
    return found


def _apart(joined: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Array]]:
    """The inverse of `_joined`."""
    found: dict[str, dict[str, Array]] = {}
    for owner, values in joined.items():
        for key, value in values.items():
            inner, _, name = key.rpartition("/")
            found.setdefault(f"{owner}/~/{inner}" if inner else owner, {})[name] = value
    return found


class _Applied:
    """A transformed function with its arguments, the image aside."""

    def __init__(
        self,
        transformed: Any,
        params: Any,
        state: Any,
        rng: Any,
        channels: Channels,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ):
        self._apply, self.random = transformed.apply, rng
        self._with_state = type(transformed).__name__ == "TransformedWithState"
        names = list(inspect.signature(self._apply).parameters)
        self._with_rng = names[1 + self._with_state : 2 + self._with_state] == ["rng"]  # else without_apply_rng
        self._args, self._kwargs, self._turned = tuple(args), kwargs, channels == "first"
        self.params = {"params": params} | ({"state": _joined(state)} if self._with_state else {})

    def run(self, params: Any, random: Any, images: Array, around: Around) -> tuple[Any, dict[str, Any]]:
        """What the function returns for a batch, channels last, and its state; calls of modules through `around`."""
        import haiku as hk  # type: ignore[import-not-found]

        def intercept(own: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "__call__":  # in __init__ a module has no name yet
                return own(*args, **kwargs)
            return around(context.module.module_name, context.module, own, args, kwargs)

        given = [params["params"]]
        given += [_apart(params["state"])] if self._with_state else []
        given += [random] if self._with_rng else []
        x = jnp.moveaxis(images, -1, 1) if self._turned else images
        with hk.intercept_methods(intercept):
            out = self._apply(*given, x, *self._args, **self._kwargs)
        return out if self._with_state else (out, {})


def named_layers(run: _Applied, image: Array) -> dict[str, Any]:
    """The modules that one forward pass calls, by name, in order of their calls."""
    met: dict[str, Any] = {}

    def note(path: str, module: Any, own: Any, args: Any, kwargs: Any) -> Any:
        met.setdefault(path, type(module))
        return own(*args, **kwargs)

    jax.eval_shape(lambda params, x: run.run(params, run.random, x[None], note), run.params, image)
    return met


def _require_haiku(transformed: Any, params: Any, state: Any) -> None:
    """Raise unless it is a transformed function with one `apply`, and its parameters."""
    require_library("transformed", transformed, "haiku", "hk.transform(f) or hk.transform_with_state(f)")
    kind = type(transformed).__name__
    require(
        kind in ("Transformed", "TransformedWithState"),
        "transformed",
        f"a {kind}",
        "hk.transform(f) or hk.transform_with_state(f); of hk.multi_transform one of its functions by itself",
    )
    with_state = kind == "TransformedWithState"
    require(isinstance(params, Mapping), "params", f"a {type(params).__name__}", "what transformed.init returns")
    accepted = "state, the second of what transformed.init returns" if with_state else "None or {}, for hk.transform"
    require(isinstance(state, Mapping) if with_state else not state, "state", f"a {type(state).__name__}", accepted)


def _network(run: _Applied, known: Mapping[str, Any], target: Tapped, pick: Pick, places: list[str]) -> Network:
    """The function as what is checked."""

    def forward(params: Any, random: Any, images: Array, note: Note) -> tuple[Array, dict[str, Written]]:
        places.clear()

        def watch(path: str, module: Any, own: Any, args: Any, kwargs: Any) -> Any:
            out = own(*args, **kwargs)
            if path == target.layer:
                places.append(caller())
                out = changed(out, target.output, lambda value: tag(value, CHOSEN + path), path)
            return note(path, out)

        out, state = run.run(params, random, images, watch)
        written = {
            f"{owner}.{name}": Written(value, False)
            for owner, values in _joined(state).items()
            for name, value in values.items()
        }
        return logits_of(out, pick, len(images)), written

    flag = "is_training=False (or the flag of your function that turns training off), an argument of it, given to tap_haiku(…)"
    return Network(
        forward,
        run.params,
        run.random,
        kind=lambda path: known[path].__name__ if path in known else "a variable",
        advice=lambda path: flag,
    )


class _Head(NamedTuple):
    """A declared head."""

    channels: int | None
    """How many are in front of it, where a map whose channels stand first may be flattened there."""
    followed: bool
    """Whether other layers follow."""

    def ordered(self, rows: Array) -> Array:
        """Its inputs, the first axis, positions first."""
        return rows if self.channels is None else positions_first(rows, self.channels)

    def call(self, own: Any, *args: Any, **kwargs: Any) -> Any:
        """Its call with its input marked, and its output where others follow."""
        features, *rest = args or (kwargs.pop("inputs"),)
        x = tag(self.ordered(features[0]), HEAD_INPUT)
        out = own((x if self.channels is None else channels_first(x, self.channels))[None], *rest, **kwargs)
        return tag(out[0], HEAD_OUTPUT)[None] if self.followed else out


def tap_haiku(
    transformed: Any,
    params: Any,
    state: Any,
    layer: str,
    image: Float[Array, "*space D"],
    *,
    rng: Any = None,
    head: str | None = None,
    head_channels: tuple[int, int] | None = None,
    output: Pick = None,
    layer_output: str | int | None = None,
    call: int | None = None,
    after: Literal["relu"] | None = None,
    token_grid: tuple[int, ...] | None = None,
    prefix_tokens: int = 0,
    layers: Sequence[str] = (),
    channels: Channels = "last",
    chunk: int = 64,
    check: bool = True,
    call_args: Sequence[Any] = (),
    link: Link | None = None,
    **call_kwargs: Any,
) -> TappedModel:
    """Split a Haiku classifier at a named module.

    What is tapped is the function in evaluation, with the given arguments: `is_training=False`. That its output depends on parameters, state
    and image alone, not on random numbers, batch statistics or the rest of a batch, is checked here.

    The tapped value is what the module returns. Where the network calls an activation as a function, `jax.nn.relu(hk.Conv2D(…)(x))`,
    that is the value before the activation; `after="relu"` taps the one behind it.

    Args:
        transformed: `hk.transform(f)` or `hk.transform_with_state(f)` of a function that maps (B, H, W, D), and the arguments below, to logits
            (B, C).
        params: its parameters.
        state: its state; None for `hk.transform`.
        layer: name of the module whose output, (B, h, w, K), is tapped, as in `params`: `res_net50/~/block_group_3`. Of modules in a loop
            (`hk.layer_stack`) a number says which: `stack/norm[-1]`.
        image: one normalised image (H, W, D), channels last; fixes the shapes and checks the closed form.
        rng: for a function that draws random numbers even in evaluation, which must not change its output.
        head: name of the first `hk.Linear` behind `layer`, when everything in between acts on each channel alone: class weights then have a
            closed form, which is checked against the pullback here. Others may follow it, as in a VGG.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head.
        output: where the logits are in what the function returns: a key, an index, an attribute, or a function of it (for a batch).
        layer_output: where the map is in what the module returns: a key, an index or an attribute.
        call: which of the module's calls is tapped, from 0, when there are several.
        after: "relu" taps, instead of the module's output, the value behind the rectifier that takes it.
        token_grid: rows and columns, when the module's output are tokens, (B, prefix_tokens + rows · columns, K): the last become the map.
        prefix_tokens: how many tokens stand in front of those of the grid (a class token, registers).
        layers: names of further layers whose maps and gradients a method may ask for, too (`View.views`), the highest resolution first.
        channels: "first" for a network that takes (B, D, H, W) and whose layer gives (B, K, h, w), as with `data_format="NCHW"`.
        chunk: most classes whose gradients are held in memory at once.
        check: False skips what is checked here beyond shapes: evaluation, a path from layer to logits, the grid's aspect ratio,
            the closed form.
        call_args: further positional arguments of the function, behind the image.
        link: what the outputs are: "softmax" (logits, of which one class is true; the default), "sigmoid" (logits of labels that may all be
            true), "probabilities" (the network ends in softmax, which is taken off) or "identity" (no logits, as in regression). One
            logit z becomes two classes, (−z/2, z/2).
        **call_kwargs: keyword arguments of the function.

    Returns:
        The tapped model; its `params` are `params` under "params" and the state under "state".

    Raises:
        CaseJaxError: for an unknown layer (those that exist are listed, nearest first), one that is called several times without `call`,
            one on which the logits do not depend, an output that is not one map or, with `after`, is not rectified next, logits
            that are not one vector, a model in training, arguments that are missing, an image with its channels first, a head that is no
            linear layer or whose closed form fails, or outputs that are probabilities, without a link that says so.
    """
    _require_haiku(transformed, params, state)
    require_one_image(image, "tap_haiku", "other=second[None]")
    require_after(after)
    require_call(call)
    require(channels in ("first", "last"), "channels", repr(channels), "'first' or 'last'")
    run = _Applied(transformed, params, state, rng, channels, call_args, call_kwargs)
    with told_of_channels(image), told_of_arguments("tap_haiku", "is_training=False"):
        known = named_layers(run, image)
    path, numbers = iterations(layer)
    for argument, given in (("layer", path), ("head", head)):
        if given is not None and given not in known:
            raise unknown(argument, given, known)
    if head is not None:
        require(known[head].__name__ == "Linear", "head", f"{head!r}, a {known[head].__name__}", "an hk.Linear")
    target = tapped_value(
        layer,
        output=layer_output,
        call=call,
        token_grid=token_grid,
        prefix_tokens=prefix_tokens,
        check=check,
        form=Form(channels_first=channels == "first"),
    )
    further, names = further_layers(layers, target, known)
    others = {one.layer: one for one in further}
    places: list[str] = []
    if check:
        survey = surveyed(_network(run, known, target, output, places), image)
        if not numbers:
            require_reached(survey, layer, call, target.tokens, places)
    require(
        head is None or head != path,
        "head",
        f"{head!r}, which is the tapped layer",
        "the first hk.Linear behind it, or None",
    )
    inside = target._replace(layer=path)

    def applied(of_head: _Head | None) -> Callable[[Any, Array], Array]:
        def apply(params: Any, x: Array) -> Array:
            calls: list[str] = []

            def around(name: str, module: Any, own: Any, args: Any, kwargs: Any) -> Any:
                if of_head is not None and name == head:
                    return of_head.call(own, *args, **kwargs)
                out = own(*args, **kwargs)
                if name in others:
                    return others[name].tag(out, x.shape)
                if name != path:
                    return out
                calls.append(path)
                return out if call is not None and len(calls) != call + 1 else mark(out, inside, after, x.shape)

            logits = logits_of(run.run(params, run.random, x[None], around)[0], output)[0]
            require_called(call, layer, len(calls))
            return logits

        return at_its_place(apply, target, after)

    apply, of_head = applied(None), None
    if head is not None:
        with told_of_channels(image):
            count = jax.eval_shape(split(apply, LAYER + layer), run.params, image)[0].shape[-1]
        turned = channels == "first" and token_grid is None
        of_head = _Head((head_channels[1] if head_channels else count) if turned else None, followed=True)
        program = jax.make_jaxpr(applied(of_head))(run.params, image)
        of_head = of_head._replace(followed=not ends_in_tag(program, HEAD_OUTPUT))
        apply = applied(of_head)
    return tapped(
        apply,
        run.params,
        image,
        layer=layer if after is None else f"{layer}, relu",
        tag=LAYER + layer,
        head_kernel=None if of_head is None else lambda params: of_head.ordered(params["params"][head]["w"]),
        head_channels=head_channels,
        layers=names,
        chunk=chunk,
        check=check,
        link=link,
    )

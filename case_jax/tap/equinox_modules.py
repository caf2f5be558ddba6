"""Equinox modules, functions of one image, as tapped models.

`equinox` is imported where it is used, and only for a model that is Equinox's already.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.tap.after import BEFORE, after_relu, require_after, tag_before
from case_jax.tap.calling import (
    Called,
    caller,
    evaluation_advice,
    holders,
    require_arguments,
    require_call,
    require_called,
    require_library,
    require_one_image,
    told_of_arguments,
)
from case_jax.tap.ending import ends_in_tag
from case_jax.tap.equinox_parts import Around, Parts, at_path, modules_inside, named_layers
from case_jax.tap.evaluation import CHOSEN, Network, Note, Written, require_reached, surveyed
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT, channels_first, positions_first
from case_jax.tap.layer import Channels, Form, Tapped, further_layers, tapped_value, told_of_channels
from case_jax.tap.link import Link
from case_jax.tap.loops import iterations, out_of_loops
from case_jax.tap.outputs import Pick, changed, is_array, vector_of
from case_jax.tap.replay import at_output, replayed
from case_jax.tap.split import LAYER, split, tag
from case_jax.tap.tapping import tapped
from case_jax.tap.view import TappedModel

Where = str | Callable[[Any], Any]
SEEN = "case_jax.seen:"
"""Before the name of a tag: it stands inside a `jax.vmap`, perhaps, and is to be set again outside."""


def _path_of(argument: str, where: Where, model: Any, known: Mapping[str, Any]) -> str:
    """The path of a module that is given by its path or by a function into the whole.

    Raises:
        CaseJaxError: for one that does not exist, or a value that is no module, or stands in several places.
    """
    if isinstance(where, str):
        if iterations(where)[0] not in known:
            raise unknown(argument, where, known)
        return where
    require(callable(where), argument, f"a {type(where).__name__}", "a path, 'blocks.2.conv1', or lambda m: m.conv1")
    try:
        chosen = where(model)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise unknown(argument, getattr(error, "name", None) or str(error), known) from error
    paths = [path for path, sub in known.items() if sub is chosen]
    accepted = f"a module that stands in one place of the model, for example lambda m: m.{next(iter(known), '…')}"
    require(len(paths) == 1, argument, f"a {type(chosen).__name__} that stands in {len(paths)} of its places", accepted)
    return paths[0]


def _network(parts: Parts, call: Called, target: Tapped, pick: Pick, places: list[str]) -> Network:
    """The module as what is checked."""

    def seen(path: str) -> Around:
        def around(own: Any, *args: Any, **kwargs: Any) -> Any:
            out = own(*args, **kwargs)
            if path == target.layer:
                places.append(caller())
                part = parts.part(out) if target.output is None else target.output
                out = changed(out, part, lambda value: tag(value, SEEN + CHOSEN + path), path)
            leaves, structure = jax.tree.flatten(out)
            tagged = [tag(leaf, SEEN + path) if is_array(leaf) else leaf for leaf in leaves]
            return jax.tree.unflatten(structure, tagged)

        return around

    def forward(params: Any, random: Any, images: Array, note: Note) -> tuple[Array, dict[str, Written]]:
        if len(images) != 1:
            raise ValueError("an Equinox module takes one image")  # so that it is not asked about the rest of a batch

        def single(params: Any, random: Any, x: Array) -> tuple[Array, dict[str, Any]]:
            places.clear()
            out, state = parts.run(params, random, x, {path: seen(path) for path in parts.known})
            return vector_of(out, pick), state

        def again(name: str, value: Array) -> Array:
            return (tag(value[None], name) if name.startswith(CHOSEN) else note(name, value[None]))[0]

        logits, state = replayed(single, SEEN, again, loops=True)(params, random, images[0])
        written = {
            f"{path}.{i}": leaf for path, value in state.items() for i, leaf in enumerate(jax.tree.leaves(value))
        }
        return logits[None], {path: Written(leaf, False) for path, leaf in written.items()}

    known = {"": parts.model, **parts.known}
    return Network(
        forward,
        parts.params,
        parts.random,
        kind=lambda path: type(known[path]).__name__ if path in known else "a variable",
        advice=lambda path: evaluation_advice(call, holders(known, path), "tap_equinox"),
    )


def _tagged(parts: Parts, tapped: Tapped, own: Any, *args: Any, **kwargs: Any) -> Any:
    """A module's call with its map marked for `at_output`."""
    out = own(*args, **kwargs)
    return tag_before(out, tapped if tapped.output is not None else tapped._replace(output=parts.part(out)))


class _Head(NamedTuple):
    """A declared head: where it stands, the channels in front of it, and whether other layers follow."""

    path: str
    channels: int
    channels_first: bool
    followed: bool

    def ordered(self, rows: Array) -> Array:
        """The head's inputs, the first axis, from (channel, position) to (position, channel)."""
        return positions_first(rows, self.channels) if self.channels_first else rows

    def call(self, own: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
        """Its call with its input marked, and its output where others follow."""
        x = tag(self.ordered(x), HEAD_INPUT)
        z = own(channels_first(x, self.channels) if self.channels_first else x, *args, **kwargs)
        return tag(z, HEAD_OUTPUT) if self.followed else z

    def kernel(self, params: Any) -> Array:
        return self.ordered(at_path(params["params"], self.path.split(".")).weight.T)


def _require_equinox(model: Any, state: Any) -> None:
    """Raise unless a model is an Equinox module, with a state where it keeps one."""
    require_library("model", model, "equinox", "an equinox.Module")
    import equinox as eqx  # type: ignore[import-not-found]

    require(
        state is None or isinstance(state, eqx.nn.State), "state", f"a {type(state).__name__}", "an equinox.nn.State"
    )
    kept = modules_inside(model, eqx.nn.StateIndex)
    accepted = "state=state, from model, state = eqx.nn.make_with_state(Model)(…) and the training behind it"
    require(state is not None or not kept, "state", f"none, for a model that keeps {next(iter(kept), '')!r}", accepted)


def tap_equinox(
    model: Any,
    where: Where,
    image: Float[Array, "*space D"],
    *,
    state: Any = None,
    head: Where | None = None,
    head_channels: tuple[int, int] | None = None,
    output: Pick = None,
    layer_output: str | int | None = None,
    call: int | None = None,
    after: Literal["relu"] | None = None,
    token_grid: tuple[int, ...] | None = None,
    prefix_tokens: int = 0,
    layers: Sequence[Where] = (),
    channels: Channels = "first",
    chunk: int = 64,
    check: bool = True,
    call_args: Sequence[Any] = (),
    link: Link | None = None,
    **call_kwargs: Any,
) -> TappedModel:
    """Split an Equinox classifier at one of its modules; the model itself is left untouched.

    What is tapped is the model in evaluation: `eqx.nn.inference_mode` of it, and the given arguments of its call. That its output depends
    on arrays and image alone, not on random numbers or statistics that it writes, is checked here.

    Args:
        model: a classifier that maps one image (D, H, W) to logits (C,), or with a state to logits and the new state.
        where: the module whose output, (K, h, w), is tapped: a path, `blocks.2.conv1`, or a function, `lambda m: m.blocks[2].conv1`. One that is
            called under `jax.vmap`, as the normalisation of tokens is, counts with all its calls together. In a stack of modules that
            `jax.lax.scan` runs over a number in the path says which: `blocks[-1].norm1`.
        image: one normalised image (H, W, D), channels last; the model gets it, and gives its maps, channels first.
        state: of its `BatchNorm` and other stateful layers.
        head: the first `eqx.nn.Linear` behind it (a path or a function), when everything in between acts on each channel alone: class
            weights then have a closed form, which is checked against the pullback here. Others may follow it, as in a VGG.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head.
        output: where the logits are in what the model returns (without its state): a key, an index, an attribute, or a function of it.
        layer_output: where the map is in what the layer returns: a key, an index or an attribute; of a map and a state the map is taken.
        call: which of the layer's calls is tapped, from 0, when there are several.
        after: "relu" taps, instead of the layer's output, the value behind the rectifier that takes it.
        token_grid: rows and columns, when the layer's output are tokens, (prefix_tokens + rows · columns, K): the last become the map.
        prefix_tokens: how many tokens stand in front of those of the grid (a class token, registers).
        layers: paths, or functions, of further layers whose maps and gradients a method may ask for, too (`View.views`), the highest resolution first.
        channels: "last" for a model that takes (H, W, D) and whose layer gives (h, w, K).
        chunk: most classes whose gradients are held in memory at once.
        check: False skips what is checked here beyond shapes: evaluation, a path from layer to logits, the grid's aspect ratio,
            the closed form.
        call_args: further positional arguments of the call, behind the image and the state.
        link: what the outputs are: "softmax" (logits, of which one class is true; the default), "sigmoid" (logits of labels that may all be
            true), "probabilities" (the network ends in softmax, which is taken off) or "identity" (no logits, as in regression). One
            logit z becomes two classes, (−z/2, z/2).
        **call_kwargs: keyword arguments of the call, for example `key=jax.random.key(0)`.

    Returns:
        The tapped model; its `params` are the model's arrays under "params" (`eqx.partition`), and its state under "state".

    Raises:
        CaseJaxError: for an unknown layer (those that exist are listed, nearest first), a state that is missing, a layer that is called
            several times without `call`, one on which the logits do not depend, an output that is not one map or, with `after`, is not
            rectified next, logits that are not one vector, a model in training, arguments that its call does not take, an image with
            its channels first, a head that is no linear layer or whose closed form fails, or outputs that are probabilities, without
            a link that says so.
    """
    _require_equinox(model, state)
    require_one_image(image, "tap_equinox", "other=second")
    require_after(after)
    require_call(call)
    require(channels in ("first", "last"), "channels", repr(channels), "'first' or 'last'")
    invoked = Called(model, "__call__", (), tuple(call_args), dict(call_kwargs))
    with_state = invoked if state is None else invoked._replace(after=(state, *call_args))
    require_arguments(with_state, "tap_equinox")
    parts = Parts(model, state, invoked, channels)
    layer = _path_of("where", where, model, named_layers(model))
    path = iterations(layer)[0]
    target = tapped_value(
        layer,
        output=layer_output,
        call=call,
        token_grid=token_grid,
        prefix_tokens=prefix_tokens,
        check=check,
        form=Form(batched=False, channels_first=channels == "first"),
    )
    known = named_layers(model)
    paths = layers if isinstance(layers, str) else [_path_of("layers", given, model, known) for given in layers]
    further, names = further_layers(paths, target, known)
    places: list[str] = []
    if check:
        with told_of_channels(image), told_of_arguments("tap_equinox", "key=jax.random.key(0)"):
            survey = surveyed(_network(parts, with_state, target, output, places), image)
        if path == layer:
            require_reached(survey, path, call, target.tokens, places)
    inside = target._replace(layer=path)

    def applied(of_head: _Head | None) -> Callable[[Any, Array], Array]:
        def apply(params: Any, x: Array) -> Array:
            calls: list[str] = []

            def tagged(own: Any, *args: Any, **kwargs: Any) -> Any:
                calls.append(path)
                if call is not None and len(calls) != call + 1:
                    return own(*args, **kwargs)
                return _tagged(parts, inside, own, *args, **kwargs)

            around = {path: tagged} | {one.layer: partial(_tagged, parts, one) for one in further}
            around |= {} if of_head is None else {of_head.path: of_head.call}
            logits = vector_of(parts.run(params, parts.random, x, around)[0], output)
            require_called(call, layer, len(calls))
            return logits

        whole = at_output(apply, target) if after is None else after_relu(out_of_loops(apply, layer, BEFORE), target)
        for one in further:
            whole = at_output(whole, one, argument="layers")
        return whole

    apply, of_head = applied(None), None
    if head is not None:
        at = _path_of("head", head, model, named_layers(model))
        given = f"{at!r}, a {type(parts.known[at]).__name__}"
        require(type(parts.known[at]).__name__ == "Linear", "head", given, "an eqx.nn.Linear")
        require(at != path, "head", f"{at!r}, which is the tapped layer", "the first Linear behind it, or None")
        with told_of_channels(image):
            count = jax.eval_shape(split(apply, LAYER + layer), parts.params, image)[0].shape[-1]
            of_head = _Head(
                at, head_channels[1] if head_channels else count, channels == "first" and token_grid is None, True
            )
            program = jax.make_jaxpr(applied(of_head))(parts.params, image)
        of_head = of_head._replace(followed=not ends_in_tag(program, HEAD_OUTPUT))
        apply = applied(of_head)
    return tapped(
        apply,
        parts.params,
        image,
        layer=layer if after is None else f"{layer}, relu",
        tag=LAYER + layer,
        head_kernel=None if of_head is None else of_head.kernel,
        head_channels=head_channels,
        layers=names,
        chunk=chunk,
        check=check,
        link=link,
    )

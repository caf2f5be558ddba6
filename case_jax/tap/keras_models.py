"""Keras 3 models on the JAX backend as tapped models.

`keras` is imported where it is used, and only for a model that is Keras's already.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.tap.after import at_its_place, mark, require_after
from case_jax.tap.calling import require_call, require_called, require_library, require_one_image, told_of_arguments
from case_jax.tap.ending import ends_in_tag
from case_jax.tap.evaluation import CHOSEN, Network, Note, Written, require_reached, surveyed
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT
from case_jax.tap.keras_parts import Parts, Replacement, call_of
from case_jax.tap.layer import Channels, Form, Tapped, further_layers, tapped_value, told_of_channels
from case_jax.tap.link import Link
from case_jax.tap.outputs import Pick, changed, logits_of
from case_jax.tap.split import LAYER, tag
from case_jax.tap.tapping import tapped
from case_jax.tap.view import TappedModel


def _path_of(argument: str, given: str, known: Mapping[str, Any]) -> str:
    """The path of a layer by its path or, where it is the only one of that name, its name.

    Raises:
        CaseJaxError: for an unknown layer, or a name of several.
    """
    if given in known:
        return given
    named = [path for path in known if path.rpartition("/")[2] == given]
    if not named:
        raise unknown(argument, given, known)
    require(len(named) == 1, argument, f"{given!r}, the name of {len(named)} layers", ", ".join(map(repr, named)))
    return named[0]


def require_jax_backend() -> None:
    """Raise unless Keras computes with JAX."""
    import keras  # type: ignore[import-not-found]

    require(
        keras.config.backend() == "jax",
        "backend",
        f"Keras on {keras.config.backend()!r}",
        "Keras on JAX: os.environ['KERAS_BACKEND'] = 'jax' before the first import of keras, or KERAS_BACKEND=jax in the shell",
    )


def _require_jax(model: Any) -> None:
    """Raise unless a model is Keras's, computes with JAX and has its variables."""
    require_library("model", model, "keras", "a keras.Model")
    import keras  # type: ignore[import-not-found]

    if not isinstance(model, keras.Layer):
        raise CaseJaxError(f"model: got a {type(model).__name__}; accepted: a keras.Model.")
    require_jax_backend()
    require(
        model.built,
        "model",
        f"{model.name!r}, which is not built and has no variables yet",
        "a model that was called once: model(image[None])",
    )


class _Head(NamedTuple):
    """A declared head: its layer, and whether others follow it."""

    dense: Any
    followed: bool

    def replacements(self) -> list[Replacement]:
        """Its call with its input marked, and its output in front of its activation."""
        own, activation = self.dense.call, self.dense.activation

        def marked(inputs: Array, *args: Any, **kwargs: Any) -> Any:
            return own(tag(inputs[0], HEAD_INPUT)[None], *args, **kwargs)

        def activated(z: Array) -> Array:
            z = tag(z[0], HEAD_OUTPUT)[None] if self.followed else z
            return z if activation is None else activation(z)

        return [(self.dense, "call", marked), (self.dense, "activation", activated)]


def _network(parts: Parts, target: Tapped, pick: Pick, call_kwargs: Mapping[str, Any]) -> Network:
    """The model as what is checked."""

    def forward(params: Any, random: Any, images: Array, note: Note) -> tuple[Array, dict[str, Written]]:
        def noting(path: str) -> Callable[[Any], Any]:
            def around(out: Any) -> Any:
                if path == target.layer:
                    out = changed(out, target.output, lambda value: tag(value, CHOSEN + path), path)
                return note(path, out)

            return around

        watched = [call_of(layer, noting(path)) for path, layer in parts.known.items()]
        out, written = parts.run(params, random, images, watched)
        return logits_of(out, pick, len(images)), written

    def advice(path: str) -> str:
        if call_kwargs.get("training"):
            return "tap_keras(…) without training=True"
        return "a layer that is called with training=True whatever the model is told (build it without), or that has a switch of its own"

    kinds = {path: type(layer).__name__ for path, layer in parts.known.items()}
    return Network(forward, parts.params, parts.random, kind=lambda path: kinds.get(path, "a variable"), advice=advice)


def tap_keras(
    model: Any,
    layer: str,
    image: Float[Array, "*space D"],
    *,
    head: str | None = None,
    head_channels: tuple[int, int] | None = None,
    output: Pick = None,
    layer_output: str | int | None = None,
    call: int | None = None,
    after: Literal["relu"] | None = None,
    token_grid: tuple[int, ...] | None = None,
    prefix_tokens: int = 0,
    layers: Sequence[str] = (),
    channels: Channels | None = None,
    chunk: int = 64,
    check: bool = True,
    call_args: Sequence[Any] = (),
    link: Link | None = None,
    **call_kwargs: Any,
) -> TappedModel:
    """Split a Keras 3 classifier at a named layer; while it is traced its layers' calls are replaced, and put back afterwards.

    What is tapped is the model in evaluation, `model(images, training=False)`, on the JAX backend: functional, sequential, subclassed or
    nested. That its output depends on variables and image alone, not on random numbers, batch statistics or the rest of a batch, is
    checked here.

    The tapped value is what the layer returns, behind an activation of its own (`Conv2D(…, activation="relu")`). Where a layer of its own or a
    function follows as activation, it is the value before that; `after="relu"` taps the one behind it.

    Args:
        model: a built classifier that maps (B, H, W, D) to logits (B, C), or to their softmax: `link="probabilities"`, as the models
            of `keras.applications` do unless `classifier_activation=None`.
        layer: name of the layer whose output, (B, h, w, K), is tapped, alone or behind those of the layers around it,
            `backbone/conv5_block3_out`; also inside a residual block.
        image: one normalised image (H, W, D), channels last whatever the network takes; fixes the shapes and checks the closed form.
        head: name of the first `Dense` layer behind `layer`, when everything in between acts on each channel alone: class weights then have
            a closed form, which is checked against the pullback here. Others may follow it, as in a VGG.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head.
        output: where the logits are in what the model returns: a key, an index, or a function of it (for a batch) that gives (B, C) scores.
        layer_output: where the map is in what the layer returns: a key or an index.
        call: which of the layer's calls is tapped, from 0, when there are several.
        after: "relu" taps, instead of the layer's output, the value behind the rectifier that takes it.
        token_grid: rows and columns, when the layer's output are tokens, (B, prefix_tokens + rows · columns, K): the last become the map.
        prefix_tokens: how many tokens stand in front of those of the grid (a class token, registers).
        layers: names of further layers whose maps and gradients a method may ask for, too (`View.views`), the highest resolution first.
        channels: "first" or "last", where the network takes an image's channels and the layer returns its own; None is what the
            layers' `data_format` says.
        chunk: most classes whose gradients are held in memory at once.
        check: False skips what is checked here beyond shapes: evaluation, a path from layer to logits, the grid's aspect ratio,
            the closed form.
        call_args: further positional arguments of the call, behind the image.
        link: what the outputs are: "softmax" (logits, of which one class is true; the default), "sigmoid" (logits of labels that may all be
            true), "probabilities" (the network ends in softmax, which is taken off) or "identity" (no logits, as in regression). One
            logit z becomes two classes, (−z/2, z/2).
        **call_kwargs: keyword arguments of the call.

    Returns:
        The tapped model; its `params` hold all variables but those of random generators, nested by the variables' paths.

    Raises:
        CaseJaxError: for another backend, a model that is not built, an unknown layer (those that exist are listed, nearest first), one that
            is called several times without `call`, one on which the logits do not depend, an output that is not one map or, with `after`,
            is not rectified next, logits that are not one vector, a model in training, an image with its channels first, a head that is no
            dense layer or whose closed form fails, or outputs that are probabilities, without a link that says so.
    """
    _require_jax(model)
    require_one_image(image, "tap_keras", "other=second[None]")
    require_after(after)
    require_call(call)
    require(channels in (None, "first", "last"), "channels", repr(channels), "'first', 'last' or None")
    parts = Parts(model, channels, call_args, call_kwargs)
    path = _path_of("layer", layer, parts.known)
    dense = None if head is None else parts.known[_path_of("head", head, parts.known)]
    if dense is not None:
        import keras  # type: ignore[import-not-found]

        given = f"{head!r}, a {type(dense).__name__}"
        require(isinstance(dense, keras.layers.Dense), "head", given, "a keras.layers.Dense")
        behind = "the first Dense behind the tapped layer, or None"
        require(dense is not parts.known[path], "head", f"{head!r}, which is the tapped layer", behind)
    target = tapped_value(
        path,
        output=layer_output,
        call=call,
        token_grid=token_grid,
        prefix_tokens=prefix_tokens,
        check=check,
        form=Form(channels_first=parts.channels_first),
    )
    paths = layers if isinstance(layers, str) else [_path_of("layers", given, parts.known) for given in layers]
    further, names = further_layers(paths, target, parts.known)
    if check:
        with told_of_channels(image), told_of_arguments("tap_keras", "mask=None"):
            survey = surveyed(_network(parts, target, output, call_kwargs), image)
        require_reached(survey, path, call, target.tokens, ())

    def applied(followed: bool) -> Callable[[Any, Array], Array]:
        def apply(params: Any, x: Array) -> Array:
            calls: list[str] = []

            def tagged(out: Any) -> Any:
                calls.append(path)
                return out if call is not None and len(calls) != call + 1 else mark(out, target, after, x.shape)

            replaced = [call_of(parts.known[path], tagged)]
            replaced += [call_of(parts.known[one.layer], partial(one.tag, image_shape=x.shape)) for one in further]
            replaced += [] if dense is None else _Head(dense, followed).replacements()
            logits = logits_of(parts.run(params, parts.random, x[None], replaced)[0], output)[0]
            require_called(call, layer, len(calls))
            return logits

        return at_its_place(apply, target, after)

    apply = applied(dense is not None)
    if dense is not None:
        with told_of_channels(image):
            program = jax.make_jaxpr(apply)(parts.params, image)
        apply = applied(not ends_in_tag(program, HEAD_OUTPUT))
    return tapped(
        apply,
        parts.params,
        image,
        layer=path if after is None else f"{path}, relu",
        tag=LAYER + path,
        head_kernel=None if dense is None else lambda params: parts.kernel(params, dense),
        head_channels=head_channels,
        layers=names,
        chunk=chunk,
        check=check,
        link=link,
    )

"""From a tagged function and its parameters to a tapped model whose shapes, layers and head have been checked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, unknown
from case_jax.tap.depthwise import fast_depthwise
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT
from case_jax.tap.layer import told_of_channels
from case_jax.tap.link import Link
from case_jax.tap.linking import linked
from case_jax.tap.split import LAYER, require_once, split, tagged_shapes, tags
from case_jax.tap.view import Params, TappedModel


def tapped(
    apply: Callable[[Params, Array], Array],
    params: Params,
    image: Array,
    *,
    layer: str,
    tag: str,
    head_kernel: Callable[[Params], Array] | None = None,
    head_channels: tuple[int, int] | None = None,
    layers: tuple[str, ...] = (),
    chunk: int = 64,
    check: bool = True,
    link: Link | None = None,
) -> TappedModel:
    """Build a `TappedModel` after checking all shapes on one image; the adapters call this.

    `check=False` leaves out the comparison of a declared head's closed form with the pullback.

    Raises:
        CaseJaxError: for an image without spatial axes, logits that are not one vector, an activation of another number of spatial axes than
            the image, a chunk below 1, outputs that are not what `link` declares, or a declared head whose closed form is not the pullback.
    """
    require(chunk >= 1, "chunk", chunk, "a number of classes of at least 1")
    _require_image(image)
    apply = fast_depthwise(apply)
    with told_of_channels(image):
        activation, logits = jax.eval_shape(lambda p, x: (split(apply, tag)(p, x)[0], apply(p, x)), params, image)
    _require_shapes(image, activation, logits, layer)
    shape = tuple(int(side) for side in activation.shape)
    program = jax.make_jaxpr(apply)(params, image)
    met = tags(program.jaxpr)
    last = HEAD_OUTPUT not in met
    _require_maps(layers, met, tagged_shapes(program.jaxpr), jnp.ndim(image))
    found = linked(apply, program, params, image, link, head_kernel=head_kernel, head_is_last=last)
    model = TappedModel(
        found.apply,
        params,
        layer,
        tag,
        2 if found.one_logit else int(logits.shape[0]),
        tuple(jnp.shape(image)),
        shape,
        activation.dtype,
        found.head_kernel,
        head_channels,
        last,
        chunk,
        layers,
        link=found.link,
        one_logit=found.one_logit,
    )
    if head_kernel is not None:
        _check_head(model, met)
        if check:
            check_closed_form(model, image)
    return model


def _require_image(image: Array) -> None:
    """Raise unless it is one normalised image."""
    require(
        jnp.ndim(image) >= 2 and jnp.issubdtype(jnp.result_type(image), jnp.floating),
        "image",
        f"shape {jnp.shape(image)}, dtype {jnp.result_type(image)}",
        "one normalised floating-point image of shape (height, width, channels), without a batch axis; a signal (length, channels) or volume "
        "(depth, height, width, channels)",
    )


def _require_shapes(image: Array, activation: Any, logits: Any, layer: str) -> None:
    """Raise unless the logits are one vector, and the layer's output is a map with the image's spatial axes."""
    require(
        logits.ndim == 1,
        "model",
        f"an output of shape {logits.shape} for one image of shape {jnp.shape(image)}",
        "a classifier that returns one vector of logits per image, which is given without a batch axis and with its channels last",
    )
    require(
        activation.ndim == jnp.ndim(image),
        "layer",
        f"{layer!r} with an output of shape {activation.shape} for one image of shape {jnp.shape(image)}",
        "a layer whose output is a map with the image's spatial axes and then channels, (height, width, channels) in a picture",
    )


def _require_maps(layers: tuple[str, ...], met: list[str], shapes: dict[str, tuple[int, ...]], axes: int) -> None:
    """Raise unless each further layer is met once and gives a map."""
    for name in layers:
        path = name.removeprefix(LAYER)
        if name == path and name not in met:
            raise unknown("layers", name, {other for other in met if not other.startswith("case_jax.")})
        require_once(met, name, path, argument="layers")
        accepted = "layers whose output is a map with the image's spatial axes and then channels"
        require(len(shapes[name]) == axes, "layers", f"{path!r} with an output of shape {shapes[name]}", accepted)


def _check_head(model: TappedModel, met: list[str]) -> None:
    """Raise unless the declared head is met once, behind the layer, and takes the layer's channels in whole blocks."""
    behind = met[met.index(model.tag) :]
    for mark in (HEAD_INPUT,) if model.head_is_last else (HEAD_INPUT, HEAD_OUTPUT):
        require(
            behind.count(mark) == met.count(mark) == 1,
            "head",
            f"a head called {met.count(mark)} times in one forward pass, {behind.count(mark)} of them behind layer {model.layer!r}",
            "a head called once, behind the layer; in a plain function its input is marked with tag_head_input",
        )
    count = model.activation_shape[-1]
    first, total = model.head_channels or (0, count)
    inputs = jax.eval_shape(model.head_kernel, model.params).shape[0]  # type: ignore[arg-type]
    require(
        first >= 0 and first + count <= total and inputs % total == 0,
        "head" if model.head_channels is None else "head_channels",
        f"{inputs} inputs behind layer {model.layer!r} of {count} channels"
        + ("" if model.head_channels is None else f" with head_channels={model.head_channels}"),
        "a head that takes each of the layer's channels (a multiple of them), or head_channels=(first, total) for a layer whose "
        "channels are some of those in front of the head; else tap a later layer, or leave the head out and the pullback is used",
    )


def check_closed_form(model: TappedModel, image: Array, *, classes: int = 4, tolerance: float | None = None) -> None:
    """Compare the declared closed form with the pullback for a few random classes on one image.

    In full precision: the question is whether the tail is channelwise, not how fewer bits round.

    Args:
        model: a model with a declared head.
        image: one normalised image.
        classes: how many classes to compare.
        tolerance: largest allowed difference, relative to the largest weight; by default 1e-4, or the rounding unit of the
            activation where that is larger.

    Raises:
        CaseJaxError: when the two differ, that is, when the tail is not channelwise with a linear head.
    """
    some = jax.random.choice(jax.random.key(0), model.num_classes, (min(classes, model.num_classes),), replace=False)
    model = model.exact or model
    pullback = replace(model, head_kernel=None)

    @parallel.on_one_device
    def both(params: Params, x: Array) -> tuple[Array, Array]:
        return model.view(params, x).class_weights(some), pullback.view(params, x).class_weights(some)

    closed, pulled = both(model.params, image)
    if tolerance is None:
        tolerance = max(1e-4, float(jnp.finfo(model.activation_dtype).eps))
    error = float("inf")
    if closed.shape == pulled.shape:
        error = float(jnp.abs(closed - pulled).max() / jnp.maximum(jnp.abs(pulled).max(), 1e-30))
    if not error <= tolerance:
        raise CaseJaxError(
            f"head: the closed form of the class weights at layer {model.layer!r} differs from the pullback by {error:.2g} "
            f"of the largest weight (allowed: {tolerance:g}), so what lies between them mixes channels or positions, or the head "
            "is not linear; tap a later layer, or leave the head out and the pullback is used."
        )

"""Plain functions as tapped models."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.tap.calling import require_one_image
from case_jax.tap.evaluation import depended_on, unreached
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT
from case_jax.tap.link import Link
from case_jax.tap.loops import out_of_loops
from case_jax.tap.needed import needed, whole
from case_jax.tap.outputs import Pick, vector_of
from case_jax.tap.split import tag
from case_jax.tap.tapping import tapped
from case_jax.tap.view import TappedModel


def tap_function(
    function: Callable[[Any, Float[Array, "*space D"]], Any],
    params: Any,
    layer: str,
    image: Float[Array, "*space D"],
    *,
    output: Pick = None,
    head_kernel: Callable[[Any], Float[Array, "F M"]] | None = None,
    head_channels: tuple[int, int] | None = None,
    layers: Sequence[str] = (),
    chunk: int = 64,
    check: bool = True,
    link: Link | None = None,
) -> TappedModel:
    """Split a plain function `f(params, x) -> logits` at a value that it tags: before or behind an activation, as the tag stands.

    Args:
        function: one normalised image (H, W, D) to logits (C,); it marks the layer's output, of shape (h, w, K), with
            `case_jax.tag(a, "name")` or `jax.ad_checkpoint.checkpoint_name`.
        params: its parameters, any pytree.
        layer: the tag; of one inside `jax.lax.scan` with a number that says in which iteration, `features[-1]`.
        image: one normalised image; fixes the shapes and checks the closed form.
        output: where the logits are in what the function returns: a key, an index, the name of an attribute, or a function of it.
        head_kernel: `params` to the kernel (F, M) of the first linear layer, when everything between the layer and that
            layer's input acts on each channel alone; the function must then mark the input, a vector ordered
            (position, channel), with `case_jax.tap.tag_head_input` and, where more layers follow, the output with
            `case_jax.tap.tag_head_output`.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head.
        layers: further tags whose maps and gradients a method may ask for, too (`View.views`), the highest resolution first.
        chunk: most classes whose gradients are held in memory at once.
        check: False skips what is checked here beyond shapes: a path from layer to logits, and the closed form.
        link: what the outputs are: "softmax" (logits, of which one class is true; the default), "sigmoid" (logits of labels that may all be
            true), "probabilities" (the network ends in softmax, which is taken off) or "identity" (no logits, as in regression). One
            logit z becomes two classes, (−z/2, z/2).

    Returns:
        The tapped model.

    Raises:
        CaseJaxError: for an unknown tag (those that exist are listed, nearest first), one that occurs more than once or
            inside a loop, one on which the logits do not depend, an output that is not one vector, an activation that is not one map,
            outputs that are probabilities without a link that says so, or a `head_kernel` whose closed form fails.
    """
    require_one_image(image)
    require(not isinstance(layers, str), "layers", repr(layers), "tags, in a list")

    def apply(params: Any, x: Array) -> Array:
        return vector_of(function(params, x), output)

    model = tapped(
        out_of_loops(apply, layer, ""),
        params,
        image,
        layer=layer,
        tag=layer,
        head_kernel=head_kernel,
        head_channels=head_channels,
        layers=tuple(layers),
        chunk=chunk,
        check=check,
        link=link,
    )
    if check:
        _require_reached(model, image)
    return model


def _require_reached(model: TappedModel, image: Array) -> None:
    """Raise unless the logits depend on the tagged value."""
    program = jax.make_jaxpr(model.apply)(model.params, image)
    _, met = needed(program, [whole(aval.shape) for aval in program.out_avals])
    at = next((i for i, found in enumerate(met) if found.name == model.tag), None)
    if at is not None and not depended_on(met[at], 0):
        raise unreached(model.layer, met[at], met[:at])


def tag_head_input(value: Float[Array, " F"]) -> Float[Array, " F"]:
    """Mark the input of the linear head inside a plain function; the identity otherwise."""
    return tag(value, HEAD_INPUT)


def tag_head_output(value: Float[Array, " M"]) -> Float[Array, " M"]:
    """Mark the output of a linear head that other layers follow; the identity otherwise."""
    return tag(value, HEAD_OUTPUT)

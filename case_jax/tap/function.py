"""Plain functions as tapped models."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT
from case_jax.tap.split import tag
from case_jax.tap.view import TappedModel, tapped


def tap_function(
    function: Callable[[Any, Float[Array, "*space D"]], Float[Array, " C"]],
    params: Any,
    layer: str,
    image: Float[Array, "*space D"],
    *,
    head_kernel: Callable[[Any], Float[Array, "F M"]] | None = None,
    head_channels: tuple[int, int] | None = None,
    chunk: int = 64,
) -> TappedModel:
    """Split a plain function `f(params, x) -> logits` at a value that it tags: before or behind an activation, as the tag stands.

    Args:
        function: one normalised image (H, W, D) to logits (C,); it marks the layer's output, of shape (h, w, K), with
            `case_jax.tag(a, "name")` or `jax.ad_checkpoint.checkpoint_name`.
        params: its parameters, any pytree.
        layer: the tag.
        image: one normalised image; fixes the shapes and checks the closed form.
        head_kernel: `params` to the kernel (F, M) of the first linear layer, when everything between the layer and that
            layer's input acts on each channel alone; the function must then mark the input, a vector ordered
            (position, channel), with `case_jax.tap.tag_head_input` and, where more layers follow, the output with
            `case_jax.tap.tag_head_output`.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head.
        chunk: most classes whose gradients are held in memory at once.

    Returns:
        The tapped model.

    Raises:
        CaseJaxError: for an unknown tag (those that exist are listed, nearest first), one that occurs more than once or
            inside a loop, an activation that is not one map, or a `head_kernel` whose closed form fails.
    """
    return tapped(
        function,
        params,
        image,
        layer=layer,
        tag=layer,
        head_kernel=head_kernel,
        head_channels=head_channels,
        chunk=chunk,
    )


def tag_head_input(value: Float[Array, " F"]) -> Float[Array, " F"]:
    """Mark the input of the linear head inside a plain function; the identity otherwise."""
    return tag(value, HEAD_INPUT)


def tag_head_output(value: Float[Array, " M"]) -> Float[Array, " M"]:
    """Mark the output of a linear head that other layers follow; the identity otherwise."""
    return tag(value, HEAD_OUTPUT)

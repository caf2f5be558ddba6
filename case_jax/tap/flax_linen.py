"""Flax Linen modules as tapped models."""

from typing import Any, Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.tap.after import after_relu, require_after, tag_before
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT, one_head
from case_jax.tap.layer import tag_output, told_of_channels
from case_jax.tap.split import LAYER, tag
from case_jax.tap.view import TappedModel, tapped


def layers(module: nn.Module, variables: Any, image: Array, **apply_kwargs: Any) -> dict[str, nn.Module]:
    """The sub-modules that one forward pass calls, by dotted path, in order of their calls."""
    called: dict[str, nn.Module] = {}

    def note(call, args, kwargs, context):
        if context.method_name == "__call__" and context.module.path:
            called.setdefault(".".join(context.module.path), context.module)
        return call(*args, **kwargs)

    def forward(variables, x):
        with nn.intercept_methods(note):
            return module.apply(variables, x[None], **apply_kwargs)

    jax.eval_shape(forward, variables, image)
    return called


def tap_linen(
    module: nn.Module,
    variables: Any,
    layer: str,
    image: Float[Array, "*space D"],
    *,
    linear_head: str | None = None,
    dense_head: str | None = None,
    head_channels: tuple[int, int] | None = None,
    after: Literal["relu"] | None = None,
    token_grid: tuple[int, ...] | None = None,
    chunk: int = 64,
    **apply_kwargs: Any,
) -> TappedModel:
    """Split a Flax Linen classifier at a named layer; the module itself is left untouched.

    The tapped value is what the layer returns. Where the network calls an activation as a function, `nn.relu(nn.Conv(...)(x))`,
    that is the value before the activation; `after="relu"` taps the one behind it, as a hook on PyTorch's `nn.ReLU` does.

    Args:
        module: a classifier that maps (B, H, W, D) to logits (B, C); signals (B, L, D) and volumes alike.
        variables: its variables; they become the tapped model's `params`.
        layer: dotted path of the sub-module whose output, (B, h, w, K), is tapped, for example `Block_2.Conv_1`.
        image: one normalised image (H, W, D); fixes the shapes and checks the closed form.
        linear_head: path of the final `nn.Dense`, when everything between `layer` and it acts on each channel alone:
            class weights then have a closed form, which is checked against the pullback here.
        dense_head: instead of `linear_head`, path of the first linear layer when others follow it (as in a VGG); it takes its
            inputs channels last.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head (as in the last dense
            layer of a DenseNet): the first of them, and how many there are.
        after: "relu" taps, instead of the layer's output, the value behind the rectifier that takes it; for networks that
            call the rectifier as a function.
        token_grid: rows and columns, when the layer's output are tokens, (B, prefix + rows · columns, K): the last become the map.
        chunk: most classes whose gradients are held in memory at once.
        **apply_kwargs: passed to `module.apply`, for example `train=False`.

    Returns:
        The tapped model.

    Raises:
        CaseJaxError: for an unknown layer (those that exist are listed, nearest first), one that is not called exactly once,
            an output that is not one map or, with `after`, is not rectified next, an image with its channels first, or a
            head that is no dense layer or whose closed form fails.
    """
    require(isinstance(module, nn.Module), "module", type(module).__name__, "a flax.linen.Module; for NNX use tap_nnx")
    require_after(after)
    with told_of_channels(image):
        known = layers(module, variables, image, **apply_kwargs)
    head = one_head(linear_head, dense_head)
    for argument, path in (("layer", layer), ("linear_head", linear_head), ("dense_head", dense_head)):
        if path is not None and path not in known:
            raise unknown(argument, path, known)
    if head is not None:
        given = f"{head!r}, a {type(known[head]).__name__}"
        require(isinstance(known[head], nn.Dense), "linear_head" if linear_head else "dense_head", given, "an nn.Dense")

    def intercept(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = ".".join(context.module.path)
        if path == head:
            args = (tag(args[0][0], HEAD_INPUT)[None], *args[1:])
        out = call(*args, **kwargs)
        if path == dense_head:
            out = tag(out[0], HEAD_OUTPUT)[None]
        if path != layer:
            return out
        return tag_output(out, layer, token_grid) if after is None else tag_before(out, layer)

    def apply(variables: Any, x: Array) -> Array:
        with nn.intercept_methods(intercept):
            return module.apply(variables, x[None], **apply_kwargs)[0]  # type: ignore[index]

    def kernel(variables: Any) -> Array:
        found = variables["params"]
        for part in head.split("."):  # type: ignore[union-attr]
            found = found[part]
        return found["kernel"]

    return tapped(
        apply if after is None else after_relu(apply, layer, token_grid),
        variables,
        image,
        layer=layer if after is None else f"{layer}, relu",
        tag=LAYER + layer,
        head_kernel=kernel if head else None,
        head_channels=head_channels,
        chunk=chunk,
    )

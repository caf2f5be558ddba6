"""Flax NNX modules as tapped models.

`flax.nnx` is imported where it is used: it is a quarter of the time of `import case_jax`, and users of Linen need none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.tap.after import after_relu, require_after, tag_before
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT, one_head
from case_jax.tap.layer import tag_output
from case_jax.tap.split import LAYER, tag
from case_jax.tap.view import TappedModel, tapped

if TYPE_CHECKING:
    from flax import nnx


def layers(module: nnx.Module) -> dict[str, nnx.Module]:
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
        paths: dotted paths, as in `layers`.
        args: what the module is called with.
        kwargs: the same.

    Raises:
        CaseJaxError: for an unknown path, or one that is not called exactly once.
    """
    known = layers(module)
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


def tap_nnx(
    module: nnx.Module,
    layer: str,
    image: Float[Array, "*space D"],
    *,
    linear_head: str | None = None,
    dense_head: str | None = None,
    head_channels: tuple[int, int] | None = None,
    after: Literal["relu"] | None = None,
    token_grid: tuple[int, ...] | None = None,
    stages: Sequence[str] = (),
    chunk: int = 64,
) -> TappedModel:
    """Split a Flax NNX classifier at a named layer; the module itself is left untouched.

    Dropout and batch normalisation run in evaluation mode. The module is called with a batch of one image.

    The tapped value is what the layer returns. Where the network calls an activation as a function, `nnx.relu(self.conv(x))`,
    that is the value before the activation; `after="relu"` taps the one behind it, as a hook on PyTorch's `nn.ReLU` does.

    Args:
        module: a classifier that maps (B, H, W, D) to logits (B, C); signals (B, L, D) and volumes alike.
        layer: dotted path of the sub-module whose output, (B, h, w, K), is tapped.
        image: one normalised image (H, W, D); fixes the shapes and checks the closed form.
        linear_head: path of the final `nnx.Linear`, when everything between `layer` and it acts on each channel alone:
            class weights then have a closed form, which is checked against the pullback here.
        dense_head: instead of `linear_head`, path of the first linear layer when others follow it (as in a VGG); it takes its
            inputs channels last.
        head_channels: (first, total), when the layer's channels are only some of those in front of the head (as in the last dense
            layer of a DenseNet): the first of them, and how many there are.
        after: "relu" taps, instead of the layer's output, the value behind the rectifier that takes it; for networks that
            call the rectifier as a function.
        token_grid: rows and columns, when the layer's output are tokens, (B, prefix + rows · columns, K): the last become the map.
        stages: paths of further layers whose maps a method may ask for (`View.stages`), the highest resolution first.
        chunk: most classes whose gradients are held in memory at once.

    Returns:
        The tapped model; its `params` hold all variables of the module but the state of random generators.

    Raises:
        CaseJaxError: for an unknown layer (those that exist are listed, nearest first), one that is not called exactly once,
            an output that is not one map or, with `after`, is not rectified next, an image with its channels first, or a
            head that is no linear layer or whose closed form fails.
    """
    from flax import nnx

    require(
        isinstance(module, nnx.Module), "module", type(module).__name__, "a flax.nnx.Module; for Linen use tap_linen"
    )
    require_after(after)
    known = layers(module)
    head = one_head(linear_head, dense_head)
    paths = [("layer", layer), ("linear_head", linear_head), ("dense_head", dense_head)]
    for argument, path in [*paths, *(("stages", path) for path in stages)]:
        if path is not None and path not in known:
            raise unknown(argument, path, known)
    if head is not None:
        given = f"{head!r}, a {type(known[head]).__name__}"
        require(
            isinstance(known[head], nnx.Linear), "linear_head" if linear_head else "dense_head", given, "an nnx.Linear"
        )
    evaluated = nnx.clone(module)
    evaluated.eval()
    graph, random, params = nnx.split(evaluated, nnx.RngState, ...)  # evaluation draws no random numbers

    def rebuilt(params: Any) -> tuple[nnx.Module, dict[str, nnx.Module]]:
        copy = nnx.merge(graph, random, params, copy=True)
        return copy, layers(copy)

    def apply(params: Any, x: Array) -> Array:
        copy, parts = rebuilt(params)
        call = type(parts[layer]).__call__

        def tagged(self, *args, **kwargs):
            out = call(self, *args, **kwargs)
            return tag_output(out, layer, token_grid) if after is None else tag_before(out, layer)

        _retype(parts[layer], tagged)
        if head is not None:
            dense = type(parts[head]).__call__

            def marked(self, inputs, **kwargs):
                out = dense(self, tag(inputs[0], HEAD_INPUT)[None], **kwargs)
                return out if dense_head is None else tag(out[0], HEAD_OUTPUT)[None]

            _retype(parts[head], marked)
        return copy(x[None])[0]  # type: ignore[operator]

    def kernel(params: Any) -> Array:
        return rebuilt(params)[1][head].kernel[...]  # type: ignore[index,union-attr]

    def stage_maps(params: Any, x: Array) -> tuple[Array, ...]:
        return tuple(found[0] for found in outputs_of(rebuilt(params)[0], stages, x[None])[1])

    return tapped(
        apply if after is None else after_relu(apply, layer, token_grid),
        params,
        image,
        layer=layer if after is None else f"{layer}, relu",
        tag=LAYER + layer,
        head_kernel=kernel if head else None,
        head_channels=head_channels,
        stages=stage_maps if stages else None,
        chunk=chunk,
    )

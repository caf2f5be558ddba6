"""Pieces that several networks share, addressed as PyTorch addresses them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.tap.view import at_least_float32


class Chain(nnx.Module):
    """Modules called one after the other; each is an attribute of its own name, or of its index when they have no names."""

    def __init__(self, modules: Mapping[str, Any] | Sequence[Any]):
        named = dict(modules) if isinstance(modules, Mapping) else {str(i): m for i, m in enumerate(modules)}
        for name, module in named.items():
            setattr(self, name, module)
        self.names = tuple(named)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self.names)

    def __getitem__(self, index: int) -> Any:
        return getattr(self, self.names[index])

    def __call__(self, x: Array) -> Array:
        """The last module's output."""
        for module in self:
            x = module(x)
        return x


class ReLU(nnx.Module):
    """The positive part, as a module so that it has a path and can be tapped."""

    def __call__(self, x: Array) -> Array:
        """`max(x, 0)`."""
        return jax.nn.relu(x)


class GELU(nnx.Module):
    """`x Φ(x)` with the exact normal distribution function, not its tanh approximation."""

    def __call__(self, x: Array) -> Array:
        """`x Φ(x)`."""
        return jax.nn.gelu(x, approximate=False)


class Identity(nnx.Module):
    """Nothing; holds the place of a PyTorch module that channels-last arrays do not need."""

    def __call__(self, x: Array) -> Array:
        """`x`."""
        return x


class LayerNorm(nnx.Module):
    """Normalisation over channels, `(x − mean) / √(var + ε) · scale + bias`, computed in float32 at least."""

    def __init__(self, channels: int, *, epsilon: float = 1e-6):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "*B K"]) -> Float[Array, "*B K"]:
        """The normalised map; every position by itself."""
        wide = at_least_float32(x)
        centred = wide - wide.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + self.epsilon)
        return normed.astype(x.dtype) * self.scale[...] + self.bias[...]


class MaxPool(nnx.Module):
    """The largest value of each window; padding counts as −∞."""

    def __init__(self, size: int, *, stride: int, padding: int = 0):
        self.size, self.stride, self.padding = size, stride, padding

    def __call__(self, x: Float[Array, "B h w K"]) -> Float[Array, "B H W K"]:
        """Windows that leave the padded map are dropped, as in PyTorch."""
        edge, lowest = (self.padding, self.padding), np.array(-np.inf, x.dtype)
        size, stride = (1, self.size, self.size, 1), (1, self.stride, self.stride, 1)
        return jax.lax.reduce_window(x, lowest, jax.lax.max, size, stride, ((0, 0), edge, edge, (0, 0)))


class AvgPool(nnx.Module):
    """The mean of each 2×2 window; an odd last row or column is dropped."""

    def __call__(self, x: Float[Array, "B h w K"]) -> Float[Array, "B H W K"]:
        """Half of the height and width."""
        window = (1, 2, 2, 1)
        return jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, window, window, "VALID") / 4


def require_size(images: Array, side: int) -> None:
    """Raise unless the images are large enough for a network that keeps at least one position at its end."""
    given = f"{images.shape[1]}×{images.shape[2]} pixels"
    require(min(images.shape[1:3]) >= side, "image", given, f"at least {side}×{side} pixels for this network")


def conv(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution with PyTorch's padding: equal on both sides, by default half of the kernel, whatever the stride."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=bias,
        rngs=rngs,
    )


def batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalisation with PyTorch's ε = 1e-5; its momentum 0.1 is 0.9 here, the weight of the past."""
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)

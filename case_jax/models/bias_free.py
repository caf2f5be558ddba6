"""Networks without biases: those of ReLUs and pools are then positively homogeneous, `y(2x) = 2 y(x)` and `y(x) = J(x) x`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.models.layers import GELU, LayerNorm


class BatchScale(nnx.Module):
    """Batch normalisation that shifts nothing: `γ z / √(v + ε)`, v the variance over the batch and all positions about their mean.

    No mean is subtracted and no bias added. In training v is the batch's, biased; the running variance, of evaluation, averages the unbiased one.

    Args:
        channels: of the map.
        momentum: weight of the past in the running variance.
        epsilon: ε.

    Lee and Chang, Recursive Explanation with Attribution Mask, 2021 (arXiv 2102.07332).
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        self.momentum, self.epsilon, self.use_running_average = momentum, epsilon, False
        self.scale = nnx.Param(jnp.ones(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[Array, "*B K"]) -> Float[Array, "*B K"]:
        """The scaled map; in training the running variance is updated."""
        if self.use_running_average:
            variance = self.var[...]
        else:
            variance, count = x.var(range(x.ndim - 1)), x.size // x.shape[-1]
            unbiased = jax.lax.stop_gradient(variance) * count / max(count - 1, 1)
            self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * unbiased
        return x * (self.scale[...] * jax.lax.rsqrt(variance + self.epsilon))

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Called by `nnx.view`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average


def without_biases(module: nnx.Module) -> nnx.Module:
    """The same network without any bias, to be trained from here: convolutions and dense layers lose theirs, and a `BatchScale` takes the
    place of each batch normalisation.

    Args:
        module: an untrained network of convolutions, dense layers, batch normalisations, ReLUs, dropout and pools; left untouched. What is no module of
            its own (a GELU called as a function) cannot be seen here.

    Raises:
        CaseJaxError: for a network with a layer normalisation or GELU module, which would not be homogeneous without biases either.
    """
    module = nnx.clone(module)
    inner: Any
    for _, inner in nnx.iter_modules(module):
        kind = type(inner).__name__
        require(
            not isinstance(inner, (LayerNorm, GELU, nnx.LayerNorm)),
            "module",
            f"a network with a {kind}",
            "one of convolutions, dense layers, batch normalisations, ReLUs and pools",
        )
        if getattr(inner, "use_bias", False) and not isinstance(inner, nnx.BatchNorm):
            inner.use_bias, inner.bias = False, None
    for _, inner in list(nnx.iter_modules(module)):
        for name, part in list(vars(inner).items()):
            if isinstance(part, nnx.BatchNorm):
                scale = BatchScale(part.num_features, momentum=part.momentum, epsilon=part.epsilon)
                scale.use_running_average = part.use_running_average
                setattr(inner, name, scale)
    return module

"""The masking model: from a classifier's stage maps to one mask an image.

Phang, Park, Geras, *Investigating and Simplifying Masking-based Saliency Methods for Model Interpretability*, arXiv 2010.09750.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from case_jax._checks import require
from case_jax.imageops import resize_map

FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
WIDTH, EMBEDDING = 64, 64


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation whose running variance is the unbiased one, as PyTorch's; ε = 1e-5, the past weighs 0.9."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(channels, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w K"]) -> Float[Array, "B h w K"]:  # type: ignore[override]
        """The normalised map; in training by the batch's own statistics."""
        before = self.var[...]
        normed = super().__call__(x)
        if not self.use_running_average:
            biased = self.var[...] - self.momentum * before
            self.var[...] = self.var[...] + biased / max(x.size // x.shape[-1] - 1, 1)
        return normed


class Branch(nnx.Module):
    """A stage's 1×1 convolution, normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(inputs, outputs, (1, 1), use_bias=False, kernel_init=FAN_OUT, rngs=rngs)
        self.bn = BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B h w o"]:
        """`relu(bn(conv(x)))`."""
        return jax.nn.relu(self.bn(self.conv(x)))


class Masker(nnx.Module):
    """Stage maps to the logits of one mask, at the first stage's resolution.

    Every used stage but the first passes a 1×1 convolution, batch normalisation, ReLU and bilinear interpolation to the first stage's
    resolution; the first enters as it is, unless it is the only one. A 3×3 convolution over all of them gives the logits.

    Args:
        channels: of every stage map, the used and the others.
        stages: which are used, from 0; None takes the last two.
        width: channels of a branch.
        num_classes: of a class-conditional masker, whose stages get the class's embedding as further channels; None: class-agnostic.
        size_conditional: whether the stages get the wanted size of the mask as a further channel.
        rngs: for the initial parameters.

    Raises:
        CaseJaxError: for stages that do not exist, repeat or are out of order.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        stages: Sequence[int] | None = None,
        width: int = WIDTH,
        num_classes: int | None = None,
        size_conditional: bool = False,
        rngs: nnx.Rngs,
    ):
        known = range(len(channels))
        used = tuple(known[-2:] if stages is None else stages)
        proper = used and set(used) <= set(known) and list(used) == sorted(set(used))
        require(proper, "stages", used, f"numbers of stages in order, of {list(known)}")
        require(width >= 1, "width", width, "a number of channels of at least 1")
        more = (EMBEDDING if num_classes else 0) + bool(size_conditional)
        self.channels, self.stages, self.width = tuple(channels), used, width
        self.num_classes, self.size_conditional = num_classes, size_conditional
        branched = [i for i in used if i > 0 or used == (0,)]
        self.branches = nnx.Dict({str(i): Branch(channels[i] + more, width, rngs=rngs) for i in branched})
        self.embedding = (
            nnx.Embed(num_classes, EMBEDDING, embedding_init=nnx.initializers.normal(1.0), rngs=rngs)
            if num_classes
            else None
        )
        inputs = width * len(branched) + (channels[0] + more if len(branched) < len(used) else 0)
        self.final = nnx.Conv(inputs, 1, (3, 3), kernel_init=FAN_OUT, rngs=rngs)

    def __call__(
        self,
        maps: Sequence[Float[Array, "B _ _ _"]],
        *,
        labels: Int[Array, " B"] | None = None,
        sizes: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B h w"]:
        """Logits of the masks.

        Args:
            maps: of every stage, the used and the others, the first at the highest resolution.
            labels: the classes asked about, for a class-conditional masker.
            sizes: wanted means of the masks, 0 to 1, for a size-conditional one.

        Raises:
            CaseJaxError: for labels or sizes that are missing, or given to a masker that takes none.
        """
        for name, given, wanted in (("labels", labels, self.num_classes), ("sizes", sizes, self.size_conditional)):
            require((given is not None) == bool(wanted), name, given, "a value an image" if wanted else "None")
        extra = [] if labels is None or self.embedding is None else [self.embedding(labels)]
        extra += [] if sizes is None else [sizes[:, None]]
        shape, taken = maps[0].shape[1:3], 0
        kernel = self.final.kernel[...].reshape(9, -1)
        products = jnp.zeros((len(maps[0]), 9, *shape), kernel.dtype)
        for i in self.stages:
            x = _with_channels(maps[i], extra)
            x = self.branches[str(i)](x) if str(i) in self.branches else x
            mine = kernel[:, taken : taken + x.shape[-1]]
            products += resize_map(jnp.einsum("bhwc,nc->bnhw", x, mine), shape)
            taken += x.shape[-1]
        assert self.final.bias is not None
        return _shifted_sum(products) + self.final.bias[...]


def _shifted_sum(products: Float[Array, "B 9 h w"]) -> Float[Array, "B h w"]:
    """What is left of a 3×3 convolution when each of its nine weights has been applied: as interpolation commutes with that, 9 maps are
    interpolated instead of all channels."""
    height, width = products.shape[2:]
    padded = jnp.pad(products, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [padded[:, n, n // 3 : n // 3 + height, n % 3 : n % 3 + width] for n in range(9)]
    return sum(shifts[1:], shifts[0])


def _with_channels(x: Float[Array, "B h w K"], extra: Sequence[Float[Array, "B n"]]) -> Float[Array, "B h w k"]:
    """The map with further channels, each constant over an image."""
    wide = [jnp.broadcast_to(e[:, None, None, :], (*x.shape[:3], e.shape[-1])).astype(x.dtype) for e in extra]
    return jnp.concatenate([x, *wide], -1)


def to_image(mask: Float[Array, "B h w"], shape: tuple[int, ...], *, smooth: bool = False) -> Float[Array, "B H W"]:
    """Masks (or their logits) at an image's resolution: each value a block of pixels; or, `smooth`, by bilinear interpolation."""
    if smooth:
        return resize_map(mask, shape)
    return jax.image.resize(mask, (len(mask), *shape), "nearest")


def binary_concrete(
    key: Key[Array, ""], logits: Float[Array, "*n"], *, temperature: float = 0.1, hard: bool = True
) -> Float[Array, "*n"]:
    """A relaxed sample of 0 or 1 for each logit: `σ((logit + log u − log(1 − u)) / τ)`, u uniform in (0, 1).

    Args:
        key: of the noise.
        logits: log odds of 1.
        temperature: τ, above 0.
        hard: return 0 or 1, with the relaxed sample's gradient (straight-through).

    Maddison, Mnih, Teh, *The Concrete Distribution*, 2017; Jang, Gu, Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017.
    """
    require(temperature > 0, "temperature", temperature, "a number above 0")
    relaxed = jax.nn.sigmoid((logits + jax.random.logistic(key, logits.shape, logits.dtype)) / temperature)
    if not hard:
        return relaxed
    return relaxed + jax.lax.stop_gradient((relaxed > 0.5).astype(logits.dtype) - relaxed)

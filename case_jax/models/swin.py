"""Swin transformers with torchvision's module names.

Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows*, ICCV 2021.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require
from case_jax.models.layers import GELU, Chain, Identity, LayerNorm, conv, require_size
from case_jax.models.torch_names import Family, Layout, Shape, numbered, shape_of
from case_jax.tap.view import at_least_float32

EPSILON = 1e-5
"""Of the layer normalisations."""
APART = -100.0
"""What is added to the products of positions that lie together in a shifted window alone, as in the published code."""


def relative_positions(window: int) -> np.ndarray:
    """Row of the bias table for every pair of positions of a window, (window², window²)."""
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    rows, columns = places[:, :, None] - places[:, None, :] + window - 1
    return rows * (2 * window - 1) + columns


def in_windows(x: Any, window: int) -> Any:
    """A map (B, h, w, D) as windows (B, n, window², D), in row order."""
    batch, height, width, depth = x.shape
    cut = x.reshape(batch, height // window, window, width // window, window, depth)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window * window, depth)


def from_windows(x: Any, window: int, size: tuple[int, int]) -> Any:
    """The map of this size whose windows these are."""
    rows, columns = (side // window for side in size)
    cut = x.reshape(x.shape[0], rows, columns, window, window, x.shape[-1])
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], *size, x.shape[-1])


def apart(size: tuple[int, int], window: int, shift: tuple[int, int]) -> np.ndarray:
    """`APART` for pairs of a shifted window's positions that were no neighbours before the shift, else 0: (n, window², window²)."""
    region = np.zeros((1, *size, 1), np.float32)
    for axis, (side, by) in enumerate(zip(size, shift, strict=True)):
        if by:
            along = np.zeros(side, np.float32)
            along[side - window : side - by], along[side - by :] = 1, 2
            region += np.expand_dims(along, [i for i in range(4) if i != axis + 1]) * 3**axis
    places = in_windows(region, window)[0, :, :, 0]
    return np.where(places[:, :, None] == places[:, None, :], np.float32(0), np.float32(APART))


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows of `window`×`window` positions, shifted by `shift`, with a learnt bias per relative position."""

    def __init__(self, width: int, heads: int, window: int, shift: int, *, rngs: nnx.Rngs):
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.proj = nnx.Linear(width, width, rngs=rngs)
        places = ((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nnx.Param(0.02 * jax.random.normal(rngs.params(), places))

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """`softmax(q kᵀ / √(D/heads) + bias) v` in each window; a map that windows do not tile is padded with zeros."""
        window, (height, width) = self.window, x.shape[1:3]
        padding = [(0, 0), (0, -height % window), (0, -width % window), (0, 0)]
        padded = jnp.pad(x, padding)
        size = (padded.shape[1], padded.shape[2])
        shift = (self.shift if size[0] > window else 0, self.shift if size[1] > window else 0)
        tokens = in_windows(jnp.roll(padded, (-shift[0], -shift[1]), (1, 2)), window)
        bias = self.relative_position_bias_table[...][relative_positions(window)].transpose(2, 0, 1)
        rolled = from_windows(self.attended(tokens, bias, apart(size, window, shift)), window, size)
        return jnp.roll(rolled, shift, (1, 2))[:, :height, :width]

    def attended(
        self, x: Float[Array, "B n t D"], bias: Float[Array, "heads t t"], mask: np.ndarray
    ) -> Float[Array, "B n t D"]:
        """The tokens of windows after attention among those of each."""
        q, k, v = (part.reshape(*x.shape[:3], self.heads, -1) for part in jnp.split(self.qkv(x), 3, axis=-1))
        products = at_least_float32(jnp.einsum("bnthd,bnshd->bnhts", q / math.sqrt(q.shape[-1]), k))
        added = at_least_float32(bias) + mask[:, None].astype(products.dtype)
        attention = jax.nn.softmax(products + added, axis=-1).astype(x.dtype)
        return self.proj(jnp.einsum("bnhts,bnshd->bnthd", attention, v).reshape(x.shape))


class SwinBlock(nnx.Module):
    """Attention within windows and a two-layer perceptron, each behind a layer normalisation and added to its input."""

    def __init__(self, width: int, heads: int, window: int, shift: int, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(width, epsilon=EPSILON)
        self.attn = WindowAttention(width, heads, window, shift, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=EPSILON)
        first, second = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.mlp = Chain([first, GELU(), Identity(), second])  # torchvision's entry 2 is a dropout of rate 0

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """The map after this block."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nnx.Module):
    """Each 2×2 positions become one, of twice the channels; an odd last row or column is padded with zeros."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * width, epsilon=EPSILON)
        self.reduction = nnx.Linear(4 * width, 2 * width, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B H W E"]:
        """Half of the height and width; channels in the order of columns, then rows."""
        x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
        batch, height, width, depth = x.shape
        pairs = x.reshape(batch, height // 2, 2, width // 2, 2, depth).transpose(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(pairs.reshape(batch, height // 2, width // 2, 4 * depth)))


class SwinTransformer(nnx.Module):
    """A patch stem, stages with patch merging between them, a last layer normalisation `norm`, average pool and the linear `head`.

    Even entries of `features` are the stem and the mergings, odd ones the stages. Every second block's windows are shifted by half.
    Behind `norm` each channel is pooled by itself, so that its class weights have a closed form.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: positions along a window's side.
        patch: side of the stem's patches in pixels; the published networks': 4.
        num_classes: number of logits.
        rngs: for the initial parameters.

    Raises:
        CaseJaxError: for heads that do not divide a stage's channels, or that are not one number for each stage.
    """

    def __init__(
        self,
        *,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int = 7,
        patch: int = 4,
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        require(len(heads) == len(depths), "heads", heads, f"one number for each of the {len(depths)} stages")
        self.smallest = patch * 2 ** (len(depths) - 1)
        stem = conv(3, width, patch, stride=patch, padding=0, bias=True, rngs=rngs)
        features: list[Any] = [Chain([stem, Identity(), LayerNorm(width, epsilon=EPSILON)])]
        for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            channels = width * 2**i
            require(count > 0 and channels % count == 0, "heads", heads, f"divisors of the widths {width} · 2^stage")
            if i > 0:
                features.append(PatchMerging(channels // 2, rngs=rngs))
            shifts = [window // 2 if block % 2 else 0 for block in range(depth)]
            features.append(Chain([SwinBlock(channels, count, window, shift, rngs=rngs) for shift in shifts]))
        self.features = Chain(features)
        last = width * 2 ** (len(depths) - 1)
        self.norm = LayerNorm(last, epsilon=EPSILON)
        self.head = nnx.Linear(last, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of any size that leaves a position at the end; CaseJaxError for smaller ones."""
        require_size(x, self.smallest)
        return self.head(self.norm(self.features(x)).mean(axis=(1, 2)))


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `SwinTransformer` for a state dict, read from torchvision's names and shapes."""
    width, _, patch, _ = shape_of(shapes, "features.0.0.weight", 4)
    stages = range(1, numbered(shapes, r"features\.(\d+)\."), 2)
    tables = [shape_of(shapes, f"features.{i}.0.attn.relative_position_bias_table", 2) for i in stages]
    side = math.isqrt(tables[0][0])
    if side * side != tables[0][0] or side % 2 == 0:
        raise CaseJaxError(
            f"features.1.0.attn.relative_position_bias_table has {tables[0][0]} rows, no (2 · window − 1)²."
        )
    return {
        "width": width,
        "depths": tuple(numbered(shapes, rf"features\.{i}\.(\d+)\.") for i in stages),
        "heads": tuple(heads for _, heads in tables),
        "window": (side + 1) // 2,
        "patch": patch,
        "num_classes": shape_of(shapes, "head.weight", 2)[0],
    }


_TIMM = (
    (r"^patch_embed\.proj\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^head\.fc\.", "head."),
)

FAMILY = Family(
    title="Swin transformer",
    build=SwinTransformer,
    sizes=sizes,
    head="head",
    layouts=(
        Layout("torchvision's names", marker=r"features\.\d+\.\d+\.attn\."),
        Layout(
            "timm's older names",  # and Microsoft's: patches are merged at a stage's end
            marker=r"layers\.0\.downsample\.reduction\.",
            renames=((r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}."), *_TIMM),
        ),
        Layout(
            "timm's names",
            marker=r"layers\.\d+\.blocks\.\d+\.attn\.",
            renames=((r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."), *_TIMM),
        ),
    ),
    computed=r"\.attn_mask$|\.relative_position_index$",
)


def swin_tiny(num_classes: int = 1000, *, rngs: nnx.Rngs) -> SwinTransformer:
    """Swin-T: 2, 2, 6, 2 blocks, up to 768 channels."""
    return SwinTransformer(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), num_classes=num_classes, rngs=rngs)


def swin_small(num_classes: int = 1000, *, rngs: nnx.Rngs) -> SwinTransformer:
    """Swin-S: 2, 2, 18, 2 blocks, up to 768 channels."""
    return SwinTransformer(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), num_classes=num_classes, rngs=rngs)


def swin_base(num_classes: int = 1000, *, rngs: nnx.Rngs) -> SwinTransformer:
    """Swin-B: 2, 2, 18, 2 blocks, up to 1,024 channels."""
    return SwinTransformer(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), num_classes=num_classes, rngs=rngs)

"""Vision transformers ViT-S/16 and ViT-B/16 with torchvision's module names.

Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require
from case_jax.models.layers import GELU, Chain, Identity, LayerNorm, conv
from case_jax.models.torch_names import Family, Layout, Shape, numbered, shape_of
from case_jax.tap.view import at_least_float32


class SelfAttention(nnx.Module):
    """Multi-head self-attention; `in_proj` gives queries, keys and values in this order."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.in_proj = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out_proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """`softmax(q kᵀ / √(D/heads)) v` for each head, then a linear layer."""
        q, k, v = (part.reshape(*x.shape[:2], self.heads, -1) for part in jnp.split(self.in_proj(x), 3, axis=-1))
        products = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        attention = jax.nn.softmax(at_least_float32(products), axis=-1).astype(x.dtype)
        return self.out_proj(jnp.einsum("bhts,bshd->bthd", attention, v).reshape(x.shape))


class EncoderBlock(nnx.Module):
    """Attention and a two-layer perceptron, each behind a layer normalisation and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(width)
        self.self_attention = SelfAttention(width, heads, rngs=rngs)
        self.ln_2 = LayerNorm(width)
        first, second = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)
        self.mlp = Chain([first, GELU(), Identity(), second])  # torchvision's entry 2 is a dropout of rate 0

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The tokens after this block."""
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Encoder(nnx.Module):
    """Learned positions, the blocks `layers.encoder_layer_0`, …, and a last layer normalisation."""

    def __init__(self, tokens: int, depth: int, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.pos_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, tokens, width)))
        self.layers = Chain({f"encoder_layer_{i}": EncoderBlock(width, heads, hidden, rngs=rngs) for i in range(depth)})
        self.ln = LayerNorm(width)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The normalised tokens."""
        return self.ln(self.layers(x + self.pos_embedding[...]))


class VisionTransformer(nnx.Module):
    """Patches and a class token, transformer blocks, and the linear head `heads.head` on the class token.

    Behind the last block's `ln_1`, whose tokens are the usual map, positions mix: class weights have no closed form.

    Args:
        width: length of a token.
        depth: number of blocks.
        heads: attention heads.
        hidden: width of the perceptrons' hidden layer.
        patch: side of a patch in pixels.
        image_size: side of the square image in pixels, a multiple of `patch`.
        num_classes: number of logits.
        rngs: for the initial parameters.

    Raises:
        CaseJaxError: for sizes that do not divide.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        patch: int = 16,
        image_size: int = 224,
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        require(heads > 0 and width % heads == 0, "heads", heads, f"a divisor of the width {width}")
        require(image_size % patch == 0, "image_size", image_size, f"a multiple of the patch side {patch}")
        self.image_size = image_size
        self.conv_proj = conv(3, width, patch, stride=patch, padding=0, bias=True, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.encoder = Encoder(1 + (image_size // patch) ** 2, depth, width, heads, hidden, rngs=rngs)
        self.heads = Chain({"head": nnx.Linear(width, num_classes, rngs=rngs)})

    def __call__(self, x: Float[Array, "B S S 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of the one size that the positions were learned for.

        Raises:
            CaseJaxError: for images of another size.
        """
        side = self.image_size
        require(x.shape[1:3] == (side, side), "image", f"{x.shape[1]}×{x.shape[2]} pixels", f"{side}×{side} pixels")
        x = self.conv_proj(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        return self.heads(self.encoder(jnp.concatenate([first, x], axis=1))[:, 0])


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `VisionTransformer` for a state dict; heads are 64 wide, which no array says."""
    width, _, patch, _ = shape_of(shapes, "conv_proj.weight", 4)
    positions = shape_of(shapes, "encoder.pos_embedding", 3)[1] - 1
    side = math.isqrt(positions)
    if side * side != positions:
        raise CaseJaxError(
            f"encoder.pos_embedding has {positions} positions besides the class token, which form no square."
        )
    if width % 64:
        raise CaseJaxError(f"conv_proj.weight gives tokens of length {width}, no multiple of a head's 64.")
    return {
        "width": width,
        "depth": numbered(shapes, r"encoder\.layers\.encoder_layer_(\d+)\."),
        "heads": width // 64,
        "hidden": shape_of(shapes, "encoder.layers.encoder_layer_0.mlp.0.weight", 2)[0],
        "patch": patch,
        "image_size": side * patch,
        "num_classes": shape_of(shapes, "heads.head.weight", 2)[0],
    }


FAMILY = Family(
    title="vision transformer",
    build=VisionTransformer,
    sizes=sizes,
    head="heads.head",
    layouts=(
        Layout(
            "torchvision's names",
            marker=r"encoder\.layers\.encoder_layer_",
            renames=(
                (r"\.in_proj_(weight|bias)$", r".in_proj.\1"),
                (r"\.mlp\.linear_1\.", ".mlp.0."),  # files older than torchvision 0.14
                (r"\.mlp\.linear_2\.", ".mlp.3."),
            ),
        ),
        Layout(
            "timm's names",
            marker=r"blocks\.\d+\.attn\.",
            renames=(
                (r"^cls_token$", "class_token"),
                (r"^pos_embed$", "encoder.pos_embedding"),
                (r"^patch_embed\.proj\.", "conv_proj."),
                (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
                (r"\.norm1\.", ".ln_1."),
                (r"\.norm2\.", ".ln_2."),
                (r"\.attn\.qkv\.", ".self_attention.in_proj."),
                (r"\.attn\.proj\.", ".self_attention.out_proj."),
                (r"\.mlp\.fc1\.", ".mlp.0."),
                (r"\.mlp\.fc2\.", ".mlp.3."),
                (r"^norm\.", "encoder.ln."),
                (r"^head\.", "heads.head."),
            ),
        ),
    ),
)


def vit_s_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-S/16 for 224×224 images: 12 blocks, tokens of length 384, 6 heads."""
    return VisionTransformer(width=384, depth=12, heads=6, hidden=1536, num_classes=num_classes, rngs=rngs)


def vit_b_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-B/16 for 224×224 images: 12 blocks, tokens of length 768, 12 heads."""
    return VisionTransformer(width=768, depth=12, heads=12, hidden=3072, num_classes=num_classes, rngs=rngs)

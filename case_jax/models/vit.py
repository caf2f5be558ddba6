"""Vision transformers with torchvision's module names: ViT-S, B and L, DeiT III, and those with registers.

Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021; Touvron et al., *DeiT III: Revenge of the ViT*, ECCV 2022; Darcet et al.,
*Vision Transformers Need Registers*, ICLR 2024.
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


class LayerScale(nnx.Module):
    """A learnt factor per channel, small at first."""

    def __init__(self, width: int):
        self.gamma = nnx.Param(jnp.full(width, 1e-6))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """`gamma · x`."""
        return x * self.gamma[...]


class EncoderBlock(nnx.Module):
    """Attention and a two-layer perceptron, each behind a layer normalisation, scaled where asked for, and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, *, layer_scale: bool, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(width)
        self.self_attention = SelfAttention(width, heads, rngs=rngs)
        self.ls1 = LayerScale(width) if layer_scale else Identity()
        self.ln_2 = LayerNorm(width)
        first, second = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)
        self.mlp = Chain([first, GELU(), Identity(), second])  # torchvision's entry 2 is a dropout of rate 0
        self.ls2 = LayerScale(width) if layer_scale else Identity()

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The tokens after this block."""
        x = x + self.ls1(self.self_attention(self.ln_1(x)))
        return x + self.ls2(self.mlp(self.ln_2(x)))


class Encoder(nnx.Module):
    """Learned positions of the last `tokens` tokens, the blocks `layers.encoder_layer_0`, …, and a last layer normalisation `ln`."""

    def __init__(
        self,
        tokens: int,
        depth: int,
        width: int,
        heads: int,
        hidden: int,
        *,
        layer_scale: bool,
        last_norm: bool,
        rngs: nnx.Rngs,
    ):
        self.pos_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, tokens, width)))
        blocks = [EncoderBlock(width, heads, hidden, layer_scale=layer_scale, rngs=rngs) for _ in range(depth)]
        self.layers = Chain({f"encoder_layer_{i}": block for i, block in enumerate(blocks)})
        self.ln = LayerNorm(width) if last_norm else Identity()

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The normalised tokens."""
        first = x.shape[1] - self.pos_embedding.shape[1]
        return self.ln(
            self.layers(x.at[:, first:].add(self.pos_embedding[...]) if first else x + self.pos_embedding[...])
        )


class VisionTransformer(nnx.Module):
    """Patches behind a class token and registers, transformer blocks, and the linear head `heads.head`.

    The head reads the class token; where there is none, the mean of the patches' tokens, normalised by `fc_norm`.
    Behind the last block's `ln_1`, whose tokens are the usual map, positions mix: class weights have no closed form.

    Args:
        width: length of a token.
        depth: number of blocks.
        heads: attention heads.
        hidden: width of the perceptrons' hidden layer.
        patch: side of a patch in pixels.
        image_size: side of the square image in pixels, a multiple of `patch`.
        num_classes: number of logits.
        class_token: whether a token of its own is read by the head.
        registers: learnt tokens that belong to no place and are not read.
        placed: whether class token and registers have learned positions, too.
        layer_scale: whether what a block adds is multiplied by a learnt factor per channel.
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
        class_token: bool = True,
        registers: int = 0,
        placed: bool = True,
        layer_scale: bool = False,
        rngs: nnx.Rngs,
    ):
        require(heads > 0 and width % heads == 0, "heads", heads, f"a divisor of the width {width}")
        require(image_size % patch == 0, "image_size", image_size, f"a multiple of the patch side {patch}")
        self.image_size = image_size
        self.conv_proj = conv(3, width, patch, stride=patch, padding=0, bias=True, rngs=rngs)
        if class_token:
            self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
        if registers:
            self.register_tokens = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, registers, width)))
        self.prefix = int(class_token) + registers
        positions = (image_size // patch) ** 2 + (self.prefix if placed else 0)
        form = {"layer_scale": layer_scale, "last_norm": class_token}
        self.encoder = Encoder(positions, depth, width, heads, hidden, **form, rngs=rngs)
        self.fc_norm = Identity() if class_token else LayerNorm(width)
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
        names = [name for name in ("class_token", "register_tokens") if hasattr(self, name)]
        first = [
            jnp.broadcast_to(getattr(self, name)[...], (x.shape[0], *getattr(self, name).shape[1:])) for name in names
        ]
        tokens = self.encoder(jnp.concatenate([*first, x], axis=1))
        pooled = tokens[:, 0] if "class_token" in names else tokens[:, self.prefix :].mean(axis=1)
        return self.heads(self.fc_norm(pooled))


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `VisionTransformer` for a state dict; heads are 64 wide, which no array says."""
    width, _, patch, _ = shape_of(shapes, "conv_proj.weight", 4)
    positions = shape_of(shapes, "encoder.pos_embedding", 3)[1]
    class_token = "class_token" in shapes
    registers = shape_of(shapes, "register_tokens", 3)[1] if "register_tokens" in shapes else 0
    if class_token == ("fc_norm.weight" in shapes):
        raise CaseJaxError("It has both a class token and a normalisation of the mean token (fc_norm), or neither.")
    prefix = int(class_token) + registers
    sides = {placed: math.isqrt(max(0, positions - placed)) for placed in (prefix, 0)}
    placed = next((placed for placed, side in sides.items() if side > 0 and side * side == positions - placed), None)
    if placed is None:
        raise CaseJaxError(
            f"encoder.pos_embedding has {positions} positions, which form no square, with or without "
            f"{prefix} for class token and registers."
        )
    if width % 64:
        raise CaseJaxError(f"conv_proj.weight gives tokens of length {width}, no multiple of a head's 64.")
    return {
        "width": width,
        "depth": numbered(shapes, r"encoder\.layers\.encoder_layer_(\d+)\."),
        "heads": width // 64,
        "hidden": shape_of(shapes, "encoder.layers.encoder_layer_0.mlp.0.weight", 2)[0],
        "patch": patch,
        "image_size": sides[placed] * patch,
        "num_classes": shape_of(shapes, "heads.head.weight", 2)[0],
        "class_token": class_token,
        "registers": registers,
        "placed": placed == prefix,
        "layer_scale": "encoder.layers.encoder_layer_0.ls1.gamma" in shapes,
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
                (r"^reg_token$", "register_tokens"),
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


def _published(width: int, depth: int, num_classes: int, rngs: nnx.Rngs, **options: Any) -> VisionTransformer:
    """Heads 64 wide, and a hidden layer four times as wide as a token unless it is said."""
    sizes: dict[str, Any] = {"width": width, "depth": depth, "heads": width // 64, "hidden": 4 * width}
    return VisionTransformer(**sizes | options, num_classes=num_classes, rngs=rngs)


DEIT_3: dict[str, Any] = {"placed": False, "layer_scale": True}
REGISTERS: dict[str, Any] = DEIT_3 | {"image_size": 256, "class_token": False, "registers": 4}


def vit_s_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-S/16 for 224×224 images: 12 blocks, tokens of length 384, 6 heads."""
    return _published(384, 12, num_classes, rngs)


def vit_b_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-B/16 for 224×224 images: 12 blocks, tokens of length 768, 12 heads."""
    return _published(768, 12, num_classes, rngs)


def vit_l_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-L/16 for 224×224 images: 24 blocks, tokens of length 1,024, 16 heads."""
    return _published(1024, 24, num_classes, rngs)


def deit3_s_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """DeiT III-S/16: as ViT-S/16, with layer scale and no position for the class token."""
    return _published(384, 12, num_classes, rngs, **DEIT_3)


def deit3_b_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """DeiT III-B/16: as ViT-B/16, with layer scale and no position for the class token."""
    return _published(768, 12, num_classes, rngs, **DEIT_3)


def deit3_l_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """DeiT III-L/16: as ViT-L/16, with layer scale and no position for the class token."""
    return _published(1024, 24, num_classes, rngs, **DEIT_3)


def vit_medium_reg4(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """12 blocks, tokens of length 512, four registers and no class token, with layer scale, for 256×256 images."""
    return _published(512, 12, num_classes, rngs, **REGISTERS)


def vit_betwixt_reg4(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """12 blocks, tokens of length 640, four registers and no class token, with layer scale, for 256×256 images."""
    return _published(640, 12, num_classes, rngs, **REGISTERS)

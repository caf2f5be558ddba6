"""ConvNeXt-T, -S, -B and -L with torchvision's module names.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, *A ConvNet for the 2020s*, CVPR 2022. Stochastic depth, which only training has,
is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax.models.layers import GELU, Chain, Identity, LayerNorm, conv, require_size
from case_jax.models.torch_names import Family, Layout, Shape, numbered, shape_of


class ConvNeXtBlock(nnx.Module):
    """Depthwise convolution, layer normalisation and a two-layer perceptron per position, scaled, plus the input.

    `block` counts as torchvision does, whose entries 1 and 6 move the channels.
    """

    def __init__(self, channels: int, *, kernel: int = 7, rngs: nnx.Rngs):
        self.block = Chain(
            [
                conv(channels, channels, kernel, groups=channels, bias=True, rngs=rngs),
                Identity(),
                LayerNorm(channels),
                nnx.Linear(channels, 4 * channels, rngs=rngs),
                GELU(),
                nnx.Linear(4 * channels, channels, rngs=rngs),
                Identity(),
            ]
        )
        self.layer_scale = nnx.Param(jnp.full((channels,), 1e-6))

    def __call__(self, x: Float[Array, "B h w K"]) -> Float[Array, "B h w K"]:
        """The block's output, of the input's shape."""
        return x + self.layer_scale[...] * self.block(x)


class ConvNeXt(nnx.Module):
    """A patch stem, stages with 2×2 downsampling between them, average pool, and the head `classifier.2`.

    Even entries of `features` are the stem and the downsamplings, odd ones the stages. The last normalisation, behind the
    pool, mixes channels: class weights have no closed form.

    Args:
        depths: blocks in each stage.
        widths: channels of each stage.
        patch: side of the stem's patches; the published networks': 4.
        kernel: side of the depthwise convolutions; the published networks': 7.
        num_classes: number of logits.
        rngs: for the initial parameters.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        patch: int = 4,
        kernel: int = 7,
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        first = conv(3, widths[0], patch, stride=patch, padding=0, bias=True, rngs=rngs)
        features = [Chain([first, LayerNorm(widths[0])])]
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if i > 0:
                down = conv(widths[i - 1], width, 2, stride=2, padding=0, bias=True, rngs=rngs)
                features.append(Chain([LayerNorm(widths[i - 1]), down]))
            features.append(Chain([ConvNeXtBlock(width, kernel=kernel, rngs=rngs) for _ in range(depth)]))
        self.features = Chain(features)
        self.classifier = Chain([LayerNorm(widths[-1]), Identity(), nnx.Linear(widths[-1], num_classes, rngs=rngs)])

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of any size from 32×32; CaseJaxError for smaller ones."""
        require_size(x, 32)
        return self.classifier(self.features(x).mean(axis=(1, 2)))


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `ConvNeXt` for a state dict, read from torchvision's names and shapes."""
    stages = range(1, numbered(shapes, r"features\.(\d+)\."), 2)
    return {
        "depths": tuple(numbered(shapes, rf"features\.{i}\.(\d+)\.") for i in stages),
        "widths": tuple(shape_of(shapes, f"features.{i}.0.block.0.weight", 4)[0] for i in stages),
        "num_classes": shape_of(shapes, "classifier.2.weight", 2)[0],
    }


FAMILY = Family(
    title="ConvNeXt",
    build=ConvNeXt,
    sizes=sizes,
    head="classifier.2",
    layouts=(
        Layout("torchvision's names", marker=r"features\.\d+\.\d+\.block\."),
        Layout(
            "timm's names",
            marker=r"stages\.\d+\.blocks\.",
            renames=(
                (r"^stem\.", "features.0."),
                (r"^stages\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
                (r"^stages\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
                (r"\.conv_dw\.", ".block.0."),
                (r"(^features\.\d+\.\d+)\.norm\.", r"\1.block.2."),
                (r"\.mlp\.fc1\.", ".block.3."),
                (r"\.mlp\.fc2\.", ".block.5."),
                (r"\.gamma$", ".layer_scale"),
                (r"^head\.norm\.", "classifier.0."),
                (r"^head\.fc\.", "classifier.2."),
            ),
        ),
    ),
)


def convnext_tiny(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ConvNeXt:
    """ConvNeXt-T: 3, 3, 9, 3 blocks, up to 768 channels."""
    return ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), num_classes=num_classes, rngs=rngs)


def convnext_small(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ConvNeXt:
    """ConvNeXt-S: 3, 3, 27, 3 blocks, up to 768 channels."""
    return ConvNeXt((3, 3, 27, 3), (96, 192, 384, 768), num_classes=num_classes, rngs=rngs)


def convnext_base(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ConvNeXt:
    """ConvNeXt-B: 3, 3, 27, 3 blocks, up to 1,024 channels."""
    return ConvNeXt((3, 3, 27, 3), (128, 256, 512, 1024), num_classes=num_classes, rngs=rngs)


def convnext_large(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ConvNeXt:
    """ConvNeXt-L: 3, 3, 27, 3 blocks, up to 1,536 channels."""
    return ConvNeXt((3, 3, 27, 3), (192, 384, 768, 1536), num_classes=num_classes, rngs=rngs)

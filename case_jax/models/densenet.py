"""DenseNet-121, -169 and -201 with torchvision's module names.

Huang, Liu, van der Maaten, Weinberger, *Densely Connected Convolutional Networks*, CVPR 2017.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax.models.layers import AvgPool, Chain, MaxPool, ReLU, batch_norm, conv, require_size
from case_jax.models.torch_names import Family, Layout, Shape, numbered, shape_of


class DenseLayer(nnx.Module):
    """`growth` new channels from all channels so far, through a bottleneck of `bottleneck · growth`."""

    def __init__(self, inputs: int, growth: int, bottleneck: int, *, rngs: nnx.Rngs):
        self.norm1 = batch_norm(inputs, rngs=rngs)
        self.conv1 = conv(inputs, bottleneck * growth, 1, rngs=rngs)
        self.norm2 = batch_norm(bottleneck * growth, rngs=rngs)
        self.conv2 = conv(bottleneck * growth, growth, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B h w g"]:
        """The new channels alone."""
        x = self.conv1(jax.nn.relu(self.norm1(x)))
        return self.conv2(jax.nn.relu(self.norm2(x)))


class DenseBlock(nnx.Module):
    """Dense layers `denselayer1`, `denselayer2`, …; the output holds the input and what each layer added, in this order."""

    def __init__(self, depth: int, inputs: int, growth: int, bottleneck: int, *, rngs: nnx.Rngs):
        self.names = tuple(f"denselayer{i + 1}" for i in range(depth))
        for i, name in enumerate(self.names):
            setattr(self, name, DenseLayer(inputs + i * growth, growth, bottleneck, rngs=rngs))

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B h w o"]:
        """The input with all new channels behind it."""
        for name in self.names:
            x = jnp.concatenate([x, getattr(self, name)(x)], axis=-1)
        return x


class DenseNet(nnx.Module):
    """Stem, dense blocks with halving transitions, a last normalisation, its `relu`, average pool and the head `classifier`.

    Everything after the last dense layer's last convolution acts on each channel alone up to the head; that convolution
    gives only the last `growth` of the channels in front of it.

    Args:
        depths: dense layers in each block.
        growth: channels that each dense layer adds.
        stem: channels in front of the first block.
        bottleneck: width of a dense layer's 1×1 convolution, in units of `growth`.
        num_classes: number of logits.
        rngs: for the initial parameters.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        growth: int = 32,
        stem: int = 64,
        bottleneck: int = 4,
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        features: dict[str, nnx.Module] = {
            "conv0": conv(3, stem, 7, stride=2, rngs=rngs),
            "norm0": batch_norm(stem, rngs=rngs),
            "relu0": ReLU(),
            "pool0": MaxPool(3, stride=2, padding=1),
        }
        channels = stem
        for i, depth in enumerate(depths, start=1):
            features[f"denseblock{i}"] = DenseBlock(depth, channels, growth, bottleneck, rngs=rngs)
            channels += depth * growth
            if i < len(depths):
                features[f"transition{i}"] = transition(channels, channels // 2, rngs=rngs)
                channels //= 2
        features["norm5"] = batch_norm(channels, rngs=rngs)
        self.features = Chain(features)
        self.relu = ReLU()
        self.classifier = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of any size from 29×29; CaseJaxError for smaller ones."""
        require_size(x, 29)
        return self.classifier(self.relu(self.features(x)).mean(axis=(1, 2)))


def transition(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> Chain:
    """Fewer channels, and half of the height and width."""
    return Chain(
        {
            "norm": batch_norm(inputs, rngs=rngs),
            "relu": ReLU(),
            "conv": conv(inputs, outputs, 1, rngs=rngs),
            "pool": AvgPool(),
        }
    )


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `DenseNet` for a state dict, read from torchvision's names and shapes."""
    growth = shape_of(shapes, "features.denseblock1.denselayer1.conv2.weight", 4)[0]
    blocks = numbered(shapes, r"features\.denseblock(\d+)\.", start=1)
    return {
        "depths": tuple(
            numbered(shapes, rf"features\.denseblock{i + 1}\.denselayer(\d+)\.", start=1) for i in range(blocks)
        ),
        "growth": growth,
        "stem": shape_of(shapes, "features.conv0.weight", 4)[0],
        "bottleneck": shape_of(shapes, "features.denseblock1.denselayer1.conv1.weight", 4)[0] // growth,
        "num_classes": shape_of(shapes, "classifier.weight", 2)[0],
    }


FAMILY = Family(
    title="DenseNet",
    build=DenseNet,
    sizes=sizes,
    head="classifier",
    layouts=(
        Layout(
            "torchvision's and timm's names",
            marker=r"features\.denseblock1\.",
            renames=((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),  # the first files had a dot more
        ),
    ),
)


def densenet121(num_classes: int = 1000, *, rngs: nnx.Rngs) -> DenseNet:
    """DenseNet-121: blocks of 6, 12, 24, 16 layers."""
    return DenseNet((6, 12, 24, 16), num_classes=num_classes, rngs=rngs)


def densenet169(num_classes: int = 1000, *, rngs: nnx.Rngs) -> DenseNet:
    """DenseNet-169: blocks of 6, 12, 32, 32 layers."""
    return DenseNet((6, 12, 32, 32), num_classes=num_classes, rngs=rngs)


def densenet201(num_classes: int = 1000, *, rngs: nnx.Rngs) -> DenseNet:
    """DenseNet-201: blocks of 6, 12, 48, 32 layers."""
    return DenseNet((6, 12, 48, 32), num_classes=num_classes, rngs=rngs)

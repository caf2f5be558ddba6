"""ResNet-18 to ResNet-152 with torchvision's module names.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016; as in torchvision, a bottleneck's stride is
at its 3×3 convolution ("v1.5").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from case_jax.models.layers import Chain, MaxPool, ReLU, batch_norm, conv
from case_jax.models.torch_names import Family, Layout, Shape, numbered, shape_of


class BasicBlock(nnx.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, width, 3, stride=stride, rngs=rngs)
        self.bn1 = batch_norm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, rngs=rngs)
        self.bn2 = batch_norm(width, rngs=rngs)
        self.downsample = shortcut(inputs, width, stride=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B H W o"]:
        """The block's post-activation output."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """1×1, 3×3 and 1×1 convolutions, the last four times as wide, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, width, 1, rngs=rngs)
        self.bn1 = batch_norm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = batch_norm(width, rngs=rngs)
        self.conv3 = conv(width, 4 * width, 1, rngs=rngs)
        self.bn3 = batch_norm(4 * width, rngs=rngs)
        self.downsample = shortcut(inputs, 4 * width, stride=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B H W o"]:
        """The block's post-activation output."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs) -> Chain | None:
    """A 1×1 convolution with normalisation where the shape changes, else None."""
    if stride == 1 and inputs == outputs:
        return None
    return Chain([conv(inputs, outputs, 1, stride=stride, rngs=rngs), batch_norm(outputs, rngs=rngs)])


class ResNet(nnx.Module):
    """Stem, four stages of residual blocks (`layer1` to `layer4`), global average pool and the linear head `fc`.

    Everything after the last block's last convolution acts on each channel alone up to the head.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        widths: inner width of each stage's blocks; a bottleneck's output is four times as wide.
        stem: channels in front of the first stage.
        num_classes: number of logits.
        rngs: for the initial parameters.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: int = 64,
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(3, stem, 7, stride=2, rngs=rngs)
        self.bn1 = batch_norm(stem, rngs=rngs)
        self.relu = ReLU()
        self.maxpool = MaxPool(3, stride=2, padding=1)
        channels = stem
        stages = []
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, width, stride=2 if i > 0 and j == 0 else 1, rngs=rngs))
                channels = width * block.expansion
            stages.append(Chain(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of any size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(axis=(1, 2)))


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `ResNet` for a state dict, read from torchvision's names and shapes."""
    block = Bottleneck if "layer1.0.conv3.weight" in shapes else BasicBlock
    return {
        "block": block,
        "depths": tuple(numbered(shapes, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)),
        "widths": tuple(shape_of(shapes, f"layer{stage}.0.conv1.weight", 4)[0] for stage in (1, 2, 3, 4)),
        "stem": shape_of(shapes, "conv1.weight", 4)[0],
        "num_classes": shape_of(shapes, "fc.weight", 2)[0],
    }


FAMILY = Family(
    title="ResNet",
    build=ResNet,
    sizes=sizes,
    head="fc",
    layouts=(Layout("torchvision's and timm's names", marker=r"layer1\.\d+\."),),
)


def resnet18(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-18: basic blocks 2, 2, 2, 2."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=num_classes, rngs=rngs)


def resnet34(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-34: basic blocks 3, 4, 6, 3."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes=num_classes, rngs=rngs)


def resnet50(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50: bottlenecks 3, 4, 6, 3."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes=num_classes, rngs=rngs)


def resnet101(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-101: bottlenecks 3, 4, 23, 3."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes=num_classes, rngs=rngs)


def resnet152(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-152: bottlenecks 3, 8, 36, 3."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes=num_classes, rngs=rngs)

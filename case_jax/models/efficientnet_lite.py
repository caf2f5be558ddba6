"""EfficientNet-Lite0 to -Lite4: EfficientNets without squeeze-and-excitation, with ReLU6, for small devices.

Tan, Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019; the Lite networks are those of TensorFlow's
`efficientnet/lite`, with the module names of their conversion to PyTorch (`efficientnet-lite-pytorch`), less the underscores. Padding is
TensorFlow's SAME: with stride 2 one row or column more at the end than at the beginning. Dropout and stochastic depth, which only
training has, are left out.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError
from case_jax.models.layers import Chain, require_size
from case_jax.models.torch_names import Family, Layout, Shape, numbered, shape_of


class Stage(NamedTuple):
    """Blocks of one kind; the stride is that of the first."""

    kernel: int
    stride: int
    expansion: int
    width: int
    """Channels of Lite0."""
    depth: int
    """Blocks of Lite0."""


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


def scaled(width: float, depth: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of each stage: channels to the nearest multiple of 8 that is no tenth too small, blocks upwards.

    The first and the last stage keep their depth.

    Args:
        width: factor of the channels.
        depth: factor of the blocks.
    """

    def channels(count: float) -> int:
        nearest = max(8, int(count + 4) // 8 * 8)
        return nearest + 8 if nearest < 0.9 * count else nearest

    inner = (math.ceil(depth * stage.depth) for stage in STAGES[1:-1])
    depths = (STAGES[0].depth, *inner, STAGES[-1].depth)
    return depths, tuple(channels(width * stage.width) for stage in STAGES)


class ReLU6(nnx.Module):
    """The positive part up to 6, as a module so that it has a path and can be tapped."""

    def __call__(self, x: Array) -> Array:
        """`min(max(x, 0), 6)`."""
        return jax.nn.relu6(x)


def same_conv(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution without bias whose output has ⌈side / stride⌉ rows and columns."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding="SAME",
        feature_group_count=groups,
        use_bias=False,
        rngs=rngs,
    )


def batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalisation with TensorFlow's ε and momentum of these networks."""
    return nnx.BatchNorm(channels, momentum=0.99, epsilon=1e-3, rngs=rngs)


class MBConv(nnx.Module):
    """1×1 expansion (unless it is by 1), depthwise convolution and 1×1 projection, plus the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, expansion: int, rngs: nnx.Rngs):
        inner = inputs * expansion
        self.expand_conv = None if expansion == 1 else same_conv(inputs, inner, 1, rngs=rngs)
        self.bn0 = None if expansion == 1 else batch_norm(inner, rngs=rngs)
        self.depthwise_conv = same_conv(inner, inner, kernel, stride=stride, groups=inner, rngs=rngs)
        self.bn1 = batch_norm(inner, rngs=rngs)
        self.project_conv = same_conv(inner, outputs, 1, rngs=rngs)
        self.bn2 = batch_norm(outputs, rngs=rngs)
        self.residual = stride == 1 and inputs == outputs

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B H W o"]:
        """The block's output; nothing rectifies it."""
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = jax.nn.relu6(self.bn0(self.expand_conv(y)))
        y = jax.nn.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite(nnx.Module):
    """Stem, seven stages of blocks that are counted through, a 1×1 convolution, average pool, and the head `fc`.

    Everything behind the convolution `conv_head` acts on each channel alone up to `fc`, so all class weights have a closed form there and
    at the last ReLU6, `relu`.

    Args:
        depths: blocks in each stage.
        widths: channels of each stage.
        stem: channels of the first convolution; the published networks': 32.
        features: channels of the last one; the published networks': 1,280.
        num_classes: number of logits.
        rngs: for the initial parameters.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        stem: int = 32,
        features: int = 1280,
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        self.conv_stem = same_conv(3, stem, 3, stride=2, rngs=rngs)
        self.bn0 = batch_norm(stem, rngs=rngs)
        blocks, inputs = [], stem
        for stage, depth, width in zip(STAGES, depths, widths, strict=True):
            for number in range(depth):
                stride = stage.stride if number == 0 else 1
                facts = {"stride": stride, "expansion": stage.expansion}
                blocks.append(MBConv(inputs, width, stage.kernel, **facts, rngs=rngs))
                inputs = width
        self.blocks = Chain(blocks)
        self.conv_head = same_conv(inputs, features, 1, rngs=rngs)
        self.bn1 = batch_norm(features, rngs=rngs)
        self.relu = ReLU6()
        self.fc = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of any size from 32×32; CaseJaxError for smaller ones."""
        require_size(x, 32)
        x = self.blocks(jax.nn.relu6(self.bn0(self.conv_stem(x))))
        x = self.relu(self.bn1(self.conv_head(x)))
        return self.fc(x.mean(axis=(1, 2)))


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `EfficientNetLite` for a state dict; a stage is a run of blocks of as many channels."""
    count = numbered(shapes, r"blocks\.(\d+)\.")
    found = [shape_of(shapes, f"blocks.{n}.project_conv.weight", 4)[0] for n in range(count)]
    runs = [(width, len(list(run))) for width, run in groupby(found)]
    if len(runs) != len(STAGES):
        raise CaseJaxError(f"Its blocks have {len(runs)} widths one after the other, and not {len(STAGES)}.")
    return {
        "depths": tuple(length for _, length in runs),
        "widths": tuple(width for width, _ in runs),
        "stem": shape_of(shapes, "conv_stem.weight", 4)[0],
        "features": shape_of(shapes, "conv_head.weight", 4)[0],
        "num_classes": shape_of(shapes, "fc.weight", 2)[0],
    }


_FIRST = (
    (r"^blocks\.0\.(\d+)\.conv_dw\.", r"blocks.0.\1.depthwise_conv."),
    (r"^blocks\.0\.(\d+)\.conv_pw\.", r"blocks.0.\1.project_conv."),
)
_INNER = r"^blocks\.([1-9]\d*)\.(\d+)"

FAMILY = Family(
    title="EfficientNet-Lite",
    build=EfficientNetLite,
    sizes=sizes,
    head="fc",
    layouts=(
        Layout(
            "the names of efficientnet-lite-pytorch",
            marker=r"_conv_stem\.",
            renames=((r"(^|\.)_", r"\1"),),
        ),
        Layout(
            "timm's names",
            marker=r"conv_stem\.",
            renames=(
                *_FIRST,
                (rf"{_INNER}\.conv_pw\.", r"blocks.\1.\2.expand_conv."),
                (rf"{_INNER}\.conv_dw\.", r"blocks.\1.\2.depthwise_conv."),
                (rf"{_INNER}\.conv_pwl\.", r"blocks.\1.\2.project_conv."),
                (rf"{_INNER}\.bn(\d)\.", lambda m: f"blocks.{m[1]}.{m[2]}.bn{int(m[3]) - 1}."),
                (r"^bn(\d)\.", lambda m: f"bn{int(m[1]) - 1}."),
                (r"^classifier\.", "fc."),
            ),
            staged=r"^(blocks\.)(\d+)\.(\d+)\.",
        ),
    ),
)


def efficientnet_lite0(num_classes: int = 1000, *, rngs: nnx.Rngs) -> EfficientNetLite:
    """EfficientNet-Lite0: 16 blocks, up to 320 channels."""
    return EfficientNetLite(*scaled(1.0, 1.0), num_classes=num_classes, rngs=rngs)


def efficientnet_lite1(num_classes: int = 1000, *, rngs: nnx.Rngs) -> EfficientNetLite:
    """EfficientNet-Lite1: Lite0's channels, 1.1 times its blocks."""
    return EfficientNetLite(*scaled(1.0, 1.1), num_classes=num_classes, rngs=rngs)


def efficientnet_lite2(num_classes: int = 1000, *, rngs: nnx.Rngs) -> EfficientNetLite:
    """EfficientNet-Lite2: 1.1 times the channels, 1.2 times the blocks."""
    return EfficientNetLite(*scaled(1.1, 1.2), num_classes=num_classes, rngs=rngs)


def efficientnet_lite3(num_classes: int = 1000, *, rngs: nnx.Rngs) -> EfficientNetLite:
    """EfficientNet-Lite3: 1.2 times the channels, 1.4 times the blocks."""
    return EfficientNetLite(*scaled(1.2, 1.4), num_classes=num_classes, rngs=rngs)


def efficientnet_lite4(num_classes: int = 1000, *, rngs: nnx.Rngs) -> EfficientNetLite:
    """EfficientNet-Lite4: 1.4 times the channels, 1.8 times the blocks."""
    return EfficientNetLite(*scaled(1.4, 1.8), num_classes=num_classes, rngs=rngs)

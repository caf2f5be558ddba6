"""VGG-11, -13, -16 and -19 with batch normalisation, with torchvision's module names.

Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError
from case_jax.models.layers import Chain, MaxPool, ReLU, batch_norm, conv, require_size
from case_jax.models.torch_names import Family, Layout, MapLinear, Shape, shape_of

WINDOW = (7, 7)


class AdaptiveAvgPool(nnx.Module):
    """Mean over windows that divide the map into a fixed grid; the map may be smaller than the grid.

    Window i of n covers rows `⌊i·h/n⌋` to `⌈(i+1)·h/n⌉` of h, and the same for columns, as in PyTorch.
    """

    def __init__(self, grid: tuple[int, int]):
        self.grid = grid

    def __call__(self, x: Float[Array, "B h w K"]) -> Float[Array, "B H W K"]:
        """A map of the grid's size."""
        if x.shape[1:3] == self.grid:
            return x
        rows, columns = (jnp.asarray(windows(n, m), x.dtype) for n, m in zip(x.shape[1:3], self.grid, strict=True))
        return jnp.einsum("ph,qw,bhwk->bpqk", rows, columns, x, precision="highest")


def windows(size: int, grid: int) -> Float[np.ndarray, "grid size"]:
    """Row i averages over the positions of window i."""
    first = [i * size // grid for i in range(grid)]
    last = [-(-(i + 1) * size // grid) for i in range(grid)]
    return np.array([[(a <= j < b) / (b - a) for j in range(size)] for a, b in zip(first, last, strict=True)])


class Classifier(Chain):
    """Three linear layers with ReLU and dropout between them."""

    def __init__(self, channels: int, hidden: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        first, second = hidden
        super().__init__(
            [
                MapLinear(WINDOW, channels, first, rngs=rngs),
                ReLU(),
                nnx.Dropout(0.5),
                nnx.Linear(first, second, rngs=rngs),
                ReLU(),
                nnx.Dropout(0.5),
                nnx.Linear(second, num_classes, rngs=rngs),
            ]
        )

    def __call__(self, x: Float[Array, "B D"], *, rngs: nnx.Rngs | None = None) -> Float[Array, "B C"]:
        """Logits; `rngs` is for dropout, which is off in evaluation."""
        for module in self:
            x = module(x, rngs=rngs) if isinstance(module, nnx.Dropout) else module(x)
        return x


class VGG(nnx.Module):
    """3×3 convolutions with normalisation, ReLU and 2×2 max-pools, then three linear layers on a 7×7 map.

    `features` and `classifier` count all modules as torchvision does. The map is flattened channels last.

    Args:
        stages: widths of the convolutions of each stage; a max-pool follows each stage.
        hidden: widths of the two hidden linear layers.
        num_classes: number of logits.
        rngs: for the initial parameters.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        *,
        hidden: Sequence[int] = (4096, 4096),
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        features: list[nnx.Module] = []
        channels = 3
        for stage in stages:
            for width in stage:
                features += [conv(channels, width, 3, bias=True, rngs=rngs), batch_norm(width, rngs=rngs), ReLU()]
                channels = width
            features.append(MaxPool(2, stride=2))
        self.features = Chain(features)
        self.avgpool = AdaptiveAvgPool(WINDOW)
        self.classifier = Classifier(channels, hidden, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"], *, rngs: nnx.Rngs | None = None) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images of any size from 32×32; `rngs` is for dropout in training.

        Raises:
            CaseJaxError: for smaller images.
        """
        require_size(x, 32)
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape(x.shape[0], -1), rngs=rngs)


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `VGG` for a state dict; a pool lies where the numbers of two convolutions are four apart."""
    convolutions = sorted(
        (int(match[1]), shape[0])
        for name, shape in shapes.items()
        if (match := re.fullmatch(r"features\.(\d+)\.weight", name)) and len(shape) == 4
    )
    stages: list[list[int]] = [[]]
    expected = 0
    for index, width in convolutions:
        if index == expected + 1 and stages[-1]:
            stages.append([])
        elif index != expected:
            raise CaseJaxError(
                f"features.{index} is a convolution where features.{expected} was expected: each of them is followed by a "
                "batch normalisation, a ReLU and, at a stage's end, one max-pool."
            )
        stages[-1].append(width)
        expected = index + 3
    return {
        "stages": tuple(map(tuple, stages)),
        "hidden": (_outputs(shapes, "classifier.0.weight"), _outputs(shapes, "classifier.3.weight")),
        "num_classes": shape_of(shapes, "classifier.6.weight", 2)[0],
    }


def _outputs(shapes: Mapping[str, Shape], name: str) -> int:
    """Width of a hidden layer, which timm stores as a convolution."""
    return shape_of(shapes, name, 4 if len(shapes.get(name, ())) == 4 else 2)[0]


FAMILY = Family(
    title="VGG with batch normalisation",
    build=VGG,
    sizes=sizes,
    head="classifier.6",
    layouts=(
        Layout(
            "timm's names",
            marker=r"pre_logits\.",
            renames=(
                (r"^pre_logits\.fc1\.", "classifier.0."),
                (r"^pre_logits\.fc2\.", "classifier.3."),
                (r"^head\.fc\.", "classifier.6."),
            ),
        ),
        Layout("torchvision's names", marker=r"features\.\d+\.\w+$"),
    ),
)


def vgg11_bn(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VGG:
    """VGG-11 with batch normalisation."""
    return _vgg((1, 1, 2, 2, 2), num_classes, rngs)


def vgg13_bn(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VGG:
    """VGG-13 with batch normalisation."""
    return _vgg((2, 2, 2, 2, 2), num_classes, rngs)


def vgg16_bn(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VGG:
    """VGG-16 with batch normalisation."""
    return _vgg((2, 2, 3, 3, 3), num_classes, rngs)


def vgg19_bn(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VGG:
    """VGG-19 with batch normalisation."""
    return _vgg((2, 2, 4, 4, 4), num_classes, rngs)


def _vgg(depths: Sequence[int], num_classes: int, rngs: nnx.Rngs) -> VGG:
    stages = [(width,) * depth for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True)]
    return VGG(stages, num_classes=num_classes, rngs=rngs)

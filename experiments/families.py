"""The CASE paper's four families of networks and two of transformers, at small width, trained here on digit scenes.

As usual for small images, a residual or dense network's first convolution is 3×3 and no pool follows it; the residual network's last stage
keeps its resolution; ConvNeXt has patches of 2×2 pixels and 3×3 depthwise convolutions. Transformers have 3×3 convolutions in place of the one that
makes tokens of patches, without which they learn far more slowly (Xiao et al., *Early Convolutions Help Transformers See Better*, NeurIPS 2021); Swin has
one stage of shifted windows, and the vision transformer no class token.
Last maps have 6×6 positions, about as many as the large networks' have on ImageNet.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx

from case_jax.data import DigitScenes
from case_jax.evaluation.folders import session
from case_jax.models import MODELS, Classifier, load_weights, save_weights
from case_jax.models.bias_free import without_biases
from case_jax.models.convnext import ConvNeXt
from case_jax.models.densenet import DenseNet
from case_jax.models.digit_resnet import DigitResNet
from case_jax.models.entries import ModelEntry
from case_jax.models.layers import Chain, Identity, ReLU, batch_norm, conv
from case_jax.models.resnet import Bottleneck, ResNet
from case_jax.models.swin import SwinTransformer
from case_jax.models.vgg import VGG
from case_jax.models.vit import VisionTransformer
from case_jax.results import RunFolder
from case_jax.training import Examples, Network, Recipe, train
from case_jax.training.classifier import adamw, classifier_task

SHIPPED = "digit_resnet"
WEIGHTS = "classifier.safetensors"


class Training(NamedTuple):
    """How a small network is trained."""

    steps: int
    batch: int = 32
    scenes: int = 20_000
    rate: float = 4e-3


class Family(NamedTuple):
    """A small network, and what it takes to train it."""

    entry: ModelEntry
    training: Training


RESNET: dict[str, Any] = {"block": Bottleneck, "depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32), "stem": 16}
VGG_SIZES: dict[str, Any] = {"stages": ((16,), (32,), (48, 48), (64, 64)), "hidden": (128, 128)}
DENSENET: dict[str, Any] = {"depths": (4, 4, 4), "growth": 12, "stem": 24, "bottleneck": 2}
CONVNEXT: dict[str, Any] = {"depths": (1, 2, 2), "widths": (24, 48, 96), "patch": 2, "kernel": 3}
VIT: dict[str, Any] = {
    "width": 48, "depth": 3, "heads": 4, "hidden": 96, "patch": 8, "image_size": 48, "class_token": False,
}  # fmt: skip
SWIN: dict[str, Any] = {"width": 48, "depths": (2,), "heads": (4,), "window": 3, "patch": 8}


def _resnet(num_classes: int, *, rngs: nnx.Rngs) -> ResNet:
    net: Any = ResNet(**RESNET, num_classes=num_classes, rngs=rngs)
    net.conv1, net.maxpool = conv(3, RESNET["stem"], 3, stride=2, rngs=rngs), Identity()
    last = net.layer4[0]
    last.conv2.strides = last.downsample[0].strides = 1
    return net


def _vgg(num_classes: int, *, rngs: nnx.Rngs) -> VGG:
    return VGG(**VGG_SIZES, num_classes=num_classes, rngs=rngs)


def _densenet(num_classes: int, *, rngs: nnx.Rngs) -> DenseNet:
    net: Any = DenseNet(**DENSENET, num_classes=num_classes, rngs=rngs)
    net.features.conv0 = conv(3, DENSENET["stem"], 3, stride=2, rngs=rngs)
    net.features.pool0 = Identity()
    return net


def _convnext(num_classes: int, *, rngs: nnx.Rngs) -> ConvNeXt:
    net = ConvNeXt(**CONVNEXT, num_classes=num_classes, rngs=rngs)
    module: Any
    for _, module in nnx.iter_modules(net):
        if hasattr(module, "layer_scale"):
            module.layer_scale[...] = jnp.ones_like(module.layer_scale[...])  # 1e-6 needs longer trainings
    return net


def _bias_free(
    build: Callable[..., nnx.Module], num_classes: int, *, centred: bool = False, rngs: nnx.Rngs
) -> nnx.Module:
    net = without_biases(build(num_classes, rngs=rngs))
    module: Any
    for _, module in nnx.iter_modules(net) if centred else ():
        if hasattr(module, "kernel"):
            kernel = module.kernel[...]
            module.kernel[...] = kernel - kernel.mean(range(kernel.ndim - 1), keepdims=True)
    return net


def _vit(num_classes: int, *, rngs: nnx.Rngs) -> VisionTransformer:
    net: Any = VisionTransformer(**VIT, num_classes=num_classes, rngs=rngs)
    net.conv_proj = _stem((12, 24, VIT["width"]), rngs=rngs)
    return net


def _swin(num_classes: int, *, rngs: nnx.Rngs) -> SwinTransformer:
    net = SwinTransformer(**SWIN, num_classes=num_classes, rngs=rngs)
    setattr(net.features[0], "0", _stem((12, 24, SWIN["width"]), rngs=rngs))
    return net


def _stem(widths: Sequence[int], *, rngs: nnx.Rngs) -> Chain:
    """3×3 convolutions with stride 2, each with batch normalisation and ReLU, and a linear layer of positions to tokens."""
    pieces: list[Any] = []
    for inputs, outputs in pairwise((3, *widths)):
        pieces += [conv(inputs, outputs, 3, stride=2, rngs=rngs), batch_norm(outputs, rngs=rngs), ReLU()]
    return Chain([*pieces, conv(widths[-1], widths[-1], 1, bias=True, rngs=rngs)])


def _entry(large: str, build: Callable[..., nnx.Module], sizes: dict[str, Any]) -> ModelEntry:
    """The large network's entry with other sizes, and what belongs to digit scenes."""
    scenes = MODELS[SHIPPED]
    return MODELS[large]._replace(
        build=build,
        sizes=sizes,
        weights=scenes.weights,
        num_classes=scenes.num_classes,
        class_names=scenes.class_names,
        contrast_data=scenes.contrast_data,
    )


FAMILIES: dict[str, Family] = {
    "ResNet": Family(_entry("resnet50", _resnet, RESNET), Training(3000)),
    "VGG": Family(_entry("vgg19_bn", _vgg, VGG_SIZES), Training(4000, rate=1e-3)),
    "DenseNet": Family(_entry("densenet201", _densenet, DENSENET), Training(1000)),
    "ConvNeXt": Family(_entry("convnext_large", _convnext, CONVNEXT), Training(3500, rate=3e-3)),
    "ViT": Family(_entry("vit_base_patch16_224", _vit, VIT), Training(3000, rate=2e-3)),
    "Swin": Family(_entry("swin_tiny", _swin, SWIN), Training(3000, rate=2e-3)),
    SHIPPED: Family(MODELS[SHIPPED]._replace(build=DigitResNet), Training(3000)),
}

BIAS_FREE = {"VGG": Training(3000, rate=1e-3), "DenseNet": Training(2000)}
"""How networks without biases are trained whose kernels begin *centred*: each output's weights sum to zero. Such a network subtracts no mean, so with the
usual kernels the positive maps of all images grow alike from layer to layer, and it learns late. Others are trained as with biases."""

TRANSFORMERS = ("ViT", "Swin")
CONVOLUTIONAL = tuple(name for name in FAMILIES if name not in (*TRANSFORMERS, SHIPPED))


def training_of(family: str, *, quick: bool, biases: bool = True) -> Training:
    """As the family's is, with or without biases, or a few steps."""
    if quick:
        return Training(40, batch=25, scenes=500)
    return FAMILIES[family].training if biases else BIAS_FREE.get(family, FAMILIES[family].training)


def small_network(
    family: str,
    seed: int,
    folder: Path,
    *,
    training: Training,
    shuffled_labels: bool = False,
    scenes: Mapping[str, Any] | None = None,
    biases: bool = True,
) -> Classifier:
    """A classifier of this family, from the folder where it was trained before, or trained there now; the same call resumes.

    `scenes` are options of the digit scenes that it is trained on and made for; None means the usual ones. Without `biases` it has none,
    see `without_biases`, and begins with centred kernels if its family is in `BIAS_FREE`.
    """
    entry, centred = FAMILIES[family].entry, not biases and family in BIAS_FREE
    if not biases:
        entry = entry._replace(build=partial(_bias_free, entry.build, centred=centred))
    assert entry.class_names is not None
    net: nnx.Module = entry.build(entry.num_classes, rngs=nnx.Rngs(seed))
    words, facts = f"trained here, seed {seed}", "as digit scenes are made"
    source = DigitScenes("train", training.scenes, **(scenes or {}))
    preprocessing = entry.default_preprocessing._replace(resize=source.options.side, crop=source.options.side)
    fresh = Classifier(family, entry, net, words, {}, preprocessing, facts, entry.class_names)
    examples = Examples(source, seed=seed, shuffled_labels=shuffled_labels)
    recipe = Recipe(training.steps, training.batch, seed, log_every=min(100, training.steps))
    config = {
        "family": family,
        "sizes": repr(entry.sizes),
        "training": training._asdict(),
        "shuffled_labels": shuffled_labels,
    }
    config |= ({"scenes": dict(scenes)} if scenes else {}) | ({} if biases else {"biases": False})
    config |= {"centred": True} if centred else {}
    return trained(fresh, adamw(training.steps, rate=training.rate), examples, recipe, folder, config)


def trained(
    fresh: Classifier,
    optimiser: optax.GradientTransformation,
    examples: Examples,
    recipe: Recipe,
    folder: Path,
    config: Mapping[str, Any],
) -> Classifier:
    """This classifier after a training that is kept in the folder, done now or before; the same call resumes.

    Raises:
        CaseJaxError: when the folder holds another training.
    """
    facts, file, run = fresh.preprocessing, folder / WEIGHTS, RunFolder(folder)
    if not file.exists():
        task = classifier_task(fresh.module, mean=facts.mean, std=facts.std, optimiser=optimiser)
        state = train(task, examples, recipe, run, config=config, facts=session(), progress=False)
        save_weights(file, Network(fresh.module).module(state.classifier))
    run.require_same({**config, "recipe": recipe._asdict()})
    load_weights(file, fresh.module)
    fresh.module.eval()
    return fresh


def trained_beforehand(
    wanted: Sequence[tuple[str, int]], runs: Path, *, quick: bool, processes: int
) -> dict[tuple[str, int], Path]:
    """Folders of these (family, seed), after those that are missing have been trained, several at a time."""
    folders = {(family, seed): runs / f"{family}-{seed}" for family, seed in wanted}
    in_processes(
        [
            partial(train_network, *key, folder, training=training_of(key[0], quick=quick))
            for key, folder in folders.items()
            if not (folder / WEIGHTS).exists()
        ],
        processes,
    )
    return folders


def in_processes(trainings: Sequence[Callable[[], None]], processes: int) -> None:
    """Run trainings in processes of their own, several at a time; the first that fails raises."""
    if trainings:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for job in [pool.submit(training) for training in trainings]:
                job.result()


def train_network(family: str, seed: int, folder: Path, **options: Any) -> None:
    """As `small_network`, for another process: what was trained stays in the folder."""
    small_network(family, seed, folder, **options)

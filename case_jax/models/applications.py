"""The classifiers of `keras.applications` by name, `keras:ResNet50`, with weights from a file.

Their networks take images of four kinds: RGB or BGR, divided by something or not, some pixels from 0 to 255. So that fills, noise and
pictures need not know of it, an image is normalised here as for other ImageNet networks, and the first operation of the tapped model turns it
into pixels and passes them through the network's own `preprocess_input`.

`keras` is imported where it is used.
"""

import importlib.util
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.models.class_names import class_names
from case_jax.models.keras_file import SUFFIXES, classes_in
from case_jax.models.loaded import LoadedModel, with_facts
from case_jax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from case_jax.tap import Link, tap_keras
from case_jax.tap.keras_models import require_jax_backend

PREFIX = "keras:"
IMAGENET, RANDOM = "imagenet", "random"
"""Instead of a file: Keras' own weights, which it downloads once; none."""
CROPPED = 0.875
"""Side of the central crop ÷ shorter side. Keras publishes errors for "single center crop" and keeps no share; this is the usual one."""
CHANNELWISE = ("Activation", "BatchNormalization", "Dropout", "GlobalAveragePooling2D", "ReLU")
"""Layers that act on each channel alone."""


class Application(NamedTuple):
    """A classifier of `keras.applications` with weights; it gives logits."""

    name: str
    network: Any
    preprocess: Callable[..., Any]
    """The `preprocess_input` of its module."""
    weights: str
    """Where they came from, in words."""
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    spread: tuple[float, float, float] = IMAGENET_STD
    """What a normalised image is multiplied by."""

    @property
    def of_images(self) -> Preprocessing:
        """How its images are read: none of these classifiers is one of sounds."""
        return self.preprocessing

    def own_input(self, image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        """A normalised image as the network takes it: `preprocess_input(255 · (mean + spread · x))`."""
        mean, spread = (jnp.asarray(values, image.dtype) for values in (self.preprocessing.mean, self.spread))
        return self.preprocess((255 * (mean + spread * image))[None], data_format="channels_last")[0]

    def __str__(self) -> str:
        """One line: network, weights, preprocessing and what follows it inside the model."""
        return (
            f"{self.name}, {len(self.class_names)} classes; weights: {self.weights}; images: {self.preprocessing}, and inside the model "
            "its own preprocess_input"
        )


def is_application(name: str) -> bool:
    """Whether a model's name is `keras:NAME`."""
    return name.startswith(PREFIX)


def load_application(name: str, *, weights: str | Path | None) -> Application:
    """Build a classifier of `keras.applications` and fill it with weights.

    Nothing is downloaded unless `weights="imagenet"` asks Keras for its own. Keras is imported with the JAX backend where the environment
    names no other. The number of classes is that of the file; of a `.keras` file only the arrays are read, and nothing in it is run.

    Args:
        name: `keras:NAME`, any classifier there: `keras:ResNet50`.
        weights: a `.weights.h5`, `.keras` or, of Keras before 3, `.h5` file of this network; "imagenet", Keras' own weights from its cache
            or the net; or "random", an untrained network.

    Raises:
        CaseJaxError: for an unknown name, Keras that is missing or computes with something else, no weights at all, or a file that does not
            fill every array with finite numbers.
    """
    keras = _imported()
    build, preprocess = _found(keras, name)
    accepted = (
        f'a file ({", ".join(SUFFIXES)}), "{IMAGENET}" for those of Keras, which it downloads once, or "{RANDOM}" for an untrained '
        "network (from the shell: --weights)"
    )
    require(weights is not None, "weights", f"none for {name}, which comes with none", accepted)
    if weights == RANDOM:
        return application(name, build(weights=None, classifier_activation=None), preprocess, f"{RANDOM} (untrained)")
    if weights == IMAGENET:
        return application(name, _downloaded(build, name), preprocess, f"{IMAGENET} (Keras' own)")
    path = Path(str(weights))
    given = f"{str(weights)!r}, which is no file" if not path.is_file() else repr(path.name)
    require(path.is_file() and path.name.endswith(SUFFIXES), "weights", given, accepted)
    network = build(weights=None, classes=classes_in(path), classifier_activation=None)
    fill(network, path, name)
    found = application(name, network, preprocess, str(path))
    return found._replace(spread=_spread(network))


def application(name: str, network: Any, preprocess: Callable[..., Any], weights: str) -> Application:
    """A built network with what is known of it: its side, and its classes by their number."""
    *sides, _ = _last(network.input_shape[1:])
    require(sides[0] == sides[1] is not None, "model", f"{name} of {sides} images", "a network of square images")
    facts = Preprocessing(math.floor(sides[0] / CROPPED), sides[0], IMAGENET_MEAN, IMAGENET_STD)
    return Application(
        name, network, preprocess, weights, facts, class_names(None, network.output_shape[-1], source=name)
    )


def tap_application(
    found: Application,
    image: Float[Array, "H W 3"],
    *,
    layer: str | None = None,
    layers: Sequence[str] = (),
    chunk: int = 64,
    link: Link | None = None,
) -> LoadedModel:
    """Tap such a classifier, with the closed form of the class weights where only pooling and the like stand before its dense layer.

    Args:
        found: from `load_application`.
        image: one normalised image.
        layer: a layer's name; None takes the last whose output is a map.
        layers: names of further ones.
        chunk: most classes whose gradients are held in memory at once.
        link: what the outputs are, see `tap_keras`.

    Raises:
        CaseJaxError: for an unknown layer or link, or an image of the wrong shape.
    """
    layer = last_map(found.network) if layer is None else layer
    head = _head(found.network, layer)
    inner = tap_keras(found.network, layer, found.own_input(image), head=head, layers=layers, chunk=chunk, link=link)
    model = replace(inner, apply=lambda params, x: inner.apply(params, found.own_input(x)))
    return with_facts(
        model,
        name=found.name,
        weights=found.weights,
        class_names=found.class_names,
        preprocessing=found.preprocessing,
        contrast_data=None,
    )


def last_map(network: Any) -> str:
    """The last layer of a functional model with more than one position."""
    shapes = {op.name: getattr(getattr(op, "output", None), "shape", ()) for op in network.operations}
    return [name for name, shape in shapes.items() if len(shape) == 4 and math.prod(_last(shape[1:])[:2]) > 1][-1]


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A picture's shape with its channels last."""
    import keras  # type: ignore[import-not-found]

    return shape if keras.config.image_data_format() == "channels_last" else (*shape[1:], shape[0])


def _head(network: Any, layer: str) -> str | None:
    """The dense layer behind a layer, where all between them acts on each channel alone."""
    operations = list(network.operations)
    place = next((i for i, op in enumerate(operations) if op.name == layer), len(operations))
    for op in operations[place + 1 :]:
        if type(op).__name__ == "Dense":
            return op.name
        if type(op).__name__ not in CHANNELWISE:
            return None
    return None


def _imported() -> Any:
    """Keras on JAX."""
    missing = importlib.util.find_spec("keras") is None
    require(not missing, "model", "a network of keras.applications without Keras", "Keras 3: pip install keras")
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")  # read at its first import
    import keras  # type: ignore[import-not-found]

    require_jax_backend()
    return keras


def _found(keras: Any, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What builds a network, and the `preprocess_input` of its module.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    modules = vars(keras.applications)
    known = {PREFIX + own: build for own, build in modules.items() if inspect.isfunction(build)}
    if name not in known:
        raise unknown("model", name, known)
    return known[name], modules[known[name].__module__.rpartition(".")[2]].preprocess_input


def _downloaded(build: Callable[..., Any], name: str) -> Any:
    """A network with Keras' own weights."""
    try:
        return build(weights=IMAGENET, classifier_activation=None)
    except Exception as error:  # whatever its downloads raise
        raise CaseJaxError(
            f"weights: Keras cannot fetch its own for {name} ({type(error).__name__}: {_first_line(error)}); give a file, or fetch them on "
            "a machine with a connection and copy ~/.keras/models here."
        ) from error


def fill(network: Any, path: Path, name: str) -> None:
    """Give every array of a network its values from a file.

    Raises:
        CaseJaxError: for a file of another network, or values that are missing or not finite.
    """
    numbers = [v for v in network.variables if jnp.issubdtype(jnp.dtype(v.dtype), jnp.floating)]
    for variable in numbers:
        variable.assign(np.full(variable.shape, np.nan, variable.dtype))  # what the file lacks stays so
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of containers without arrays; that none is left out is checked below
            network.load_weights(path)
    except Exception as error:  # Keras', h5py's and zipfile's share no base class
        raise CaseJaxError(
            f"weights: {path} does not fit {name} ({_first_line(error)}); give weights of that very network. A model with other layers is "
            "tapped itself: cj.tap_keras(keras.saving.load_model(FILE), layer, image)."
        ) from error
    bad = [v.path for v in numbers if not np.isfinite(np.asarray(v.value)).all()]
    require(
        not bad, "weights", f"{path} without finite values for {', '.join(bad[:10])}", "finite values for every array"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


def _spread(network: Any) -> tuple[float, float, float]:
    """What a normalised image is multiplied by: ImageNet's deviation s, or √s for an EfficientNet whose normalisation has the variance s.

    Keras' ImageNet weights of EfficientNet-B0 to B7 keep s where a variance belongs, and the network that Keras builds *for these* divides by √s
    once more. One built for a file lacks that layer, so that a fine-tuned file would be read with other inputs in silence.
    """
    import keras  # type: ignore[import-not-found]

    normalisations = [layer for layer in network.layers if isinstance(layer, keras.layers.Normalization)]
    halved = any(np.allclose(np.ravel(n.variance), IMAGENET_STD, atol=1e-3) for n in normalisations if len(n.variables))
    red, green, blue = (math.sqrt(s) if halved else s for s in IMAGENET_STD)
    return red, green, blue

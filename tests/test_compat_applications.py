"""`keras:NAME`: the classifiers of keras.applications by name, with weights from files, images and pictures in red, green and blue."""

import math
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read at the first import of keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat import EXTRA
from PIL import Image

import case_jax as cj
from case_jax import CaseJaxError
from case_jax.front.showing import visible
from case_jax.models.applications import _found, application, last_map, load_application, tap_application
from case_jax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

pytestmark = [pytest.mark.compat, pytest.mark.usefixtures("promotion_as_users_have_it")]
SIDE, CLASSES = 16, 6
MODES = {"ResNet50": "caffe", "MobileNetV2": "tf", "DenseNet121": "torch", "EfficientNetB0": "in the model"}


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason=EXTRA)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def tiny(keras, *, classes=CLASSES, activation=None, spread=False, width=8):
    """A network of the form of those of keras.applications: arrays of an inner dense layer, and its last layer named as theirs."""
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Normalization()(layers.Rescaling(1 / 255)(inputs)) if spread else inputs
    x = layers.Dense(width, name="pointwise")(layers.Conv2D(width, 3, strides=2, name="conv")(x))
    x = layers.Activation("relu", name="out")(layers.BatchNormalization(name="norm")(x))
    pooled = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation=activation, name="predictions")(pooled))


@pytest.fixture
def builder(keras, monkeypatch):
    """keras.applications with a tiny ResNet50."""

    def build(*, weights, classes=1000, classifier_activation="softmax"):
        assert weights is None
        return tiny(keras, classes=classes, activation=classifier_activation)

    build.__module__ = "keras.src.applications.resnet"
    monkeypatch.setattr(keras.applications, "ResNet50", build)


def close(found, expected, share=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", MODES)
def test_a_normalised_image_is_what_preprocess_input_makes_of_pixels(keras, pixels, name):
    network, (_, preprocess) = tiny(keras), _found(keras, f"keras:{name}")
    found = application(f"keras:{name}", network, preprocess, "random")
    model = tap_application(found, jnp.zeros((SIDE, SIDE, 3)))
    assert (model.layer, model.class_names[2]) == ("out", "class 2")
    assert model.head_kernel is not None
    image = (jnp.asarray(pixels, jnp.float32) / 255 - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)
    own = preprocess(pixels[None].astype(np.float32))
    close(found.own_input(image), own[0])
    close(model.view(model.params, image).logits, network(own, training=False)[0])
    close(visible(np.asarray(image), model, None), pixels / 255, 1e-6)


def test_weights_of_every_kind_of_file(keras, builder, pixels, shell, tmp_path):
    network = tiny(keras, activation="softmax")
    network.compile("adam", "mse")
    Image.fromarray(pixels).resize((40, 30)).save(tmp_path / "photo.png")
    logits = []
    for name in ("own.weights.h5", "own.keras", "own.h5"):
        file = tmp_path / name
        (network.save_weights if ".weights." in name else network.save)(file)
        model = cj.load("keras:ResNet50", weights=file)
        assert (model.num_classes, model.preprocessing.crop, model.preprocessing.resize) == (CLASSES, SIDE, 18)
        image = model.read(tmp_path / "photo.png")
        logits.append(np.asarray(model.view(model.params, image).logits))
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])
    raw = 255 * (np.asarray(image) * IMAGENET_STD + IMAGENET_MEAN)
    own = keras.applications.resnet.preprocess_input(raw[None].astype(np.float32))
    close(jax.nn.softmax(logits[0]), network(own, training=False)[0])
    assert cj.explain(model, image, "case", targets=[1, 2]).shape == (2, SIDE, SIDE)

    words = ("--model", "keras:ResNet50", "--weights", "own.keras", "--methods", "grad_cam", "case")
    status, _, err = shell("explain", "photo.png", *words)
    assert status == 0, err
    assert "model: keras:ResNet50, 6 classes; weights: own.keras; images: shorter side 18 (bilinear), crop 16," in err
    with Image.open(tmp_path / "explain-photo.png") as picture:
        assert np.asarray(picture).std() > 10


def test_weights_that_cannot_be(keras, builder, shell, tmp_path):
    tiny(keras, width=4).save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "broken.keras").write_bytes(b"no archive")
    bad = tiny(keras)
    bad.get_layer("norm").gamma.assign(jnp.full(8, jnp.nan))
    bad.save_weights(tmp_path / "bad.weights.h5")
    for weights, message in (
        (None, 'weights: got none for keras:ResNet50.*"imagenet" for those of Keras.*"random"'),
        (tmp_path / "absent.keras", "which is no file"),
        (__file__, "weights: got 'test_compat_applications.py'; accepted: a file"),
        (tmp_path / "broken.keras", "no readable file of a Keras classifier"),
        (tmp_path / "other.weights.h5", r"does not fit keras:ResNet50 .*cj\.tap_keras"),
        (tmp_path / "bad.weights.h5", "without finite values for norm/gamma"),
    ):
        with pytest.raises(CaseJaxError, match=message):
            cj.load("keras:ResNet50", weights=weights)
    with pytest.raises(CaseJaxError, match=r"'keras:ResNet5' is unknown\. Did you mean 'keras:ResNet50'"):
        cj.load("keras:ResNet5", weights="random")
    status, _, err = shell("sanity", "--model", "keras:ResNet50", "--weights", "random")
    assert (status, "redraw: got initialise for keras:ResNet50; accepted: --redraw permute" in err) == (2, True)


def test_a_variance_that_is_a_deviation_is_divided_by_as_keras_does(keras, pixels, monkeypatch, tmp_path):
    """EfficientNet's ImageNet weights: what Keras builds for them divides once more by √s."""
    network = tiny(keras, spread=True)
    normalisation = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    normalisation.set_weights([np.asarray(IMAGENET_MEAN), np.asarray(IMAGENET_STD), np.asarray(1)])
    network.save_weights(tmp_path / "own.weights.h5")

    def build(*, weights, classes, classifier_activation):
        return tiny(keras, classes=classes, activation=classifier_activation, spread=True)

    build.__module__ = "keras.src.applications.efficientnet"
    monkeypatch.setattr(keras.applications, "EfficientNetB0", build)
    found = load_application("keras:EfficientNetB0", weights=tmp_path / "own.weights.h5")
    np.testing.assert_allclose(found.spread, [math.sqrt(s) for s in IMAGENET_STD])
    model = tap_application(found, jnp.zeros((SIDE, SIDE, 3)))
    image = (pixels / 255 - np.asarray(IMAGENET_MEAN)) / np.asarray(IMAGENET_STD)
    behind = keras.Model(network.get_layer("conv").input, network.output)
    close(model.view(model.params, jnp.asarray(image, jnp.float32)).logits, behind(image[None].astype(np.float32))[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_full_size_networks(keras, name, tmp_path):
    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, name)(weights=None, classes=20)
    file = tmp_path / ("own.keras" if name == "ResNet50" else "own.weights.h5")
    (network.save if name == "ResNet50" else network.save_weights)(file)
    model = cj.load(f"keras:{name}", weights=file)
    shot = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    image = model.read(shot)
    own = _found(keras, f"keras:{name}")[1](shot[None, 16:240, 16:240].astype(np.float32))
    close(model.view(model.params, image).probabilities(), network(own, training=False)[0])
    assert model.layer == last_map(network)
    assert cj.explain(model, image, "grad_cam", targets=[1, 2]).max() > 0

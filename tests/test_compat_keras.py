"""Keras models, untouched: Grad-CAM and CASE of all classes against gradients written by hand, and the adapter's errors."""

import os
from functools import partial

os.environ.setdefault("KERAS_BACKEND", "jax")  # read at the first import of keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat import CLASSES, EXTRA, by_hand, compare, evaluated, image_of, several

from case_jax import CaseJaxError, explain, tap_keras
from case_jax.tap.parameters import parameter_layers

pytestmark = [pytest.mark.compat, pytest.mark.usefixtures("promotion_as_users_have_it")]
WIDTH = 8


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason=EXTRA)


def keras_net(keras, order="last"):
    """Convolution, normalisation and a residual block, in either order of axes."""
    data, axis = {"data_format": f"channels_{order}"}, -1 if order == "last" else 1
    layers = keras.layers
    inputs = keras.Input((16, 20, 3) if order == "last" else (3, 16, 20))
    x = layers.Conv2D(WIDTH, 3, strides=2, name="stem", **data)(inputs)
    x = layers.Activation("relu", name="stem_relu")(layers.BatchNormalization(axis=axis, name="norm")(x))
    y = layers.Conv2D(WIDTH, 3, padding="same", activation="tanh", name="inner", **data)(x)
    y = layers.Activation("relu", name="block")(x + y)
    pooled = layers.Dropout(0.5)(layers.GlobalAveragePooling2D(name="pool", **data)(y))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", name="head")(pooled))


@pytest.fixture(scope="module")
def net(keras):
    keras.utils.set_random_seed(0)
    found = keras_net(keras)
    rng = np.random.default_rng(2)
    for variable in found.get_layer("norm").variables:
        variable.assign(1 + 0.3 * rng.uniform(size=variable.shape))
    return found


def keras_by_hand(net, image):
    """The network of `keras_net` cut behind the convolution inside its block, its softmax left out."""
    layer, head = net.get_layer, net.get_layer("head")

    def front(image):
        x = jax.nn.relu(layer("norm")(layer("stem")(image[None]), training=False))
        return x, layer("inner")(x)[0]

    def tail(x, a):
        return (jax.nn.relu(x[0] + a).mean((0, 1)) @ head.kernel.value + head.bias.value).astype(jnp.float32)

    return by_hand(front, tail, image)


def test_a_keras_layer_inside_a_residual_block(net):
    image = image_of(16, 20)
    model = tap_keras(net, "inner", image, link="probabilities")
    assert model.activation_shape == (7, 9, WIDTH)
    compare(model, image, *keras_by_hand(net, image))
    assert "call" not in vars(net.get_layer("inner"))
    np.testing.assert_allclose(
        model.view(model.params, image).probabilities(), net(image[None], training=False)[0], atol=1e-6
    )


def test_keras_layers_together(net):
    image = image_of(16, 20)
    several(partial(tap_keras, net, image=image, link="probabilities"), ("norm", "inner", "block"), image)
    with pytest.raises(CaseJaxError, match=r"layers: 'nrm' is unknown\. Did you mean 'norm'"):
        tap_keras(net, "inner", image, link="probabilities", layers=["nrm"])


def test_keras_channels_first(keras, net):
    turned, image = keras_net(keras, "first"), image_of(16, 20)
    turned.set_weights(net.get_weights())
    several(partial(tap_keras, turned, image=image, link="probabilities", check=False), ("stem", "inner"), image)
    model = tap_keras(turned, "inner", image, link="probabilities", head=None)
    assert model.activation_shape == (7, 9, WIDTH)
    compare(model, image, *keras_by_hand(net, image))
    closed = tap_keras(turned, "block", image, link="probabilities", head="head")  # its closed form is checked
    assert closed.activation_shape == (7, 9, WIDTH)


def test_keras_parameters_are_nested_by_the_variables_paths(keras, net):
    model = tap_keras(net, "block", image_of(16, 20), link="probabilities", head="head")
    assert model.head_is_last
    assert parameter_layers(model).names == ("head", "inner", "norm", "stem")
    assert sorted(model.params["norm"]) == ["beta", "gamma", "moving_mean", "moving_variance"]


def test_evaluation_of_a_keras_model(net, tmp_path):
    evaluated(tap_keras(net, "inner", image_of(16, 20), link="probabilities"), tmp_path)


def test_a_keras_rectifier_behind_a_layer(net):
    assert tap_keras(net, "norm", image_of(16, 20), link="probabilities", after="relu").layer == "norm, relu"


def subclassed(keras, name):
    """A block of the same names twice, and dense layers behind."""

    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.conv = keras.layers.Conv2D(WIDTH, 3, padding="same", name="conv")

        def call(self, x):
            return keras.ops.tanh(self.conv(x))

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name=name)
            self.blocks = [Block(), Block()]
            self.drop = keras.layers.Dropout(0.5)
            self.hidden = keras.layers.Dense(5, activation="relu", name="hidden")
            self.out = keras.layers.Dense(CLASSES, name="out")

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.out(self.hidden(self.drop(x.mean((1, 2)))))

    found = Net()
    found(jnp.ones((1, 12, 12, 3)))
    return found


def test_a_subclassed_keras_model_with_names_that_occur_twice(keras):
    net, image = subclassed(keras, "own"), image_of(12, 12)
    model = tap_keras(net, "block~2/conv", image, head=None)
    assert len(parameter_layers(model).names) == 4
    assert [p for p in parameter_layers(model).names if "conv" in p] == ["own.block.conv~2", "own.block.conv"]
    first, second = net.blocks

    def front(image):
        return 0, second.conv(first(image[None]))[0]

    def tail(_, a):
        return net.out(net.hidden(jnp.tanh(a).mean((0, 1))[None]))[0]

    compare(model, image, *by_hand(front, tail, image))
    closed = tap_keras(net, "block~2/conv", image, head="hidden")  # a rectifier and a layer follow it
    assert not closed.head_is_last
    with pytest.raises(CaseJaxError, match="'conv', the name of 2 layers; accepted: 'block/conv', 'block~2/conv'"):
        tap_keras(net, "conv", image)


def test_a_keras_model_inside_a_sequential_one(keras, net):
    body = keras.Model(net.input, net.get_layer("block").output, name="body")
    outer = keras.Sequential([body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES, name="top")])
    outer.build((None, 16, 20, 3))
    image = image_of(16, 20)
    model = tap_keras(outer, "inner", image)
    assert model.layer == "body/inner"
    assert explain(model, image, "case", targets=[1, 2]).shape == (2, 16, 20)
    assert tap_keras(outer, "body", image, head="top").head_is_last


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"link": None}, "link: got no link for a network that ends in softmax"),
        ({"layer": "iner"}, "layer: 'iner' is unknown. Did you mean 'inner'"),
        ({"head": "pool"}, "head: got 'pool', a GlobalAveragePooling2D; accepted: a keras.layers.Dense"),
        ({"call": 1}, "a number below 1, the calls of 'inner'"),
        ({"training": True}, "a call writes 'moving_mean', a batch statistic.*tap_keras.* without training=True"),
        ({"image": jnp.zeros((3, 16, 20))}, r"accepted: one normalised floating-point image of shape \(16, 20, 3\)"),
        ({"layer": "norm", "head": "head"}, "head: the closed form"),
        ({"layer": "pool"}, "accepted: a layer"),
    ],
)
def test_keras_arguments_that_cannot_be(net, given, message):
    given = {"layer": "inner", "image": image_of(16, 20), "link": "probabilities"} | given
    with pytest.raises(CaseJaxError, match=message):
        tap_keras(net, **given)
    assert not any({"call", "quantized_call"} & vars(layer).keys() for layer in net.layers)


def test_keras_models_that_cannot_be(keras, net, monkeypatch):
    image = image_of(16, 20)
    with pytest.raises(CaseJaxError, match=r"not built.*model\(image\[None\]\)"):
        tap_keras(keras.Sequential([keras.layers.Dense(3)]), "dense", image)
    inputs = keras.Input((16, 20, 3))

    class Noise(keras.layers.Layer):
        """What drops out whatever it is told."""

        def __init__(self):
            super().__init__(name="noise")
            self.drop = keras.layers.Dropout(0.5)

        def call(self, x):
            return self.drop(x, training=True)

    noisy = keras.layers.GlobalAveragePooling2D()(Noise()(keras.layers.Conv2D(4, 3, name="conv")(inputs)))
    noisy = keras.Model(inputs, keras.layers.Dense(3)(noisy))
    with pytest.raises(CaseJaxError, match=r"random generator, first in 'noise/.*training=True whatever the model"):
        tap_keras(noisy, "conv", image)
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    twice = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(shared(shared(inputs)))))
    with pytest.raises(CaseJaxError, match=r"evaluated 2 times in one forward pass \(call=0, call=1\)"):
        tap_keras(twice, "shared", image)
    assert tap_keras(twice, "shared", image, call=1).layer == "shared"
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    with pytest.raises(CaseJaxError, match=r"Keras on 'tensorflow'; accepted: .*os.environ\['KERAS_BACKEND'\] = 'jax'"):
        tap_keras(net, "inner", image)


def application_by_hand(keras, net, layer, image, head, last):
    """A network cut at a layer that everything passes through; `head` is its dense layer, `last` the layer in front of it."""
    cut = next(op.output for op in net.operations if op.name == layer)
    front = keras.Model(net.input, cut)
    back = keras.Model(cut, net.get_layer(last).output)
    kernel, bias = (v.value for v in net.get_layer(head).variables)
    return by_hand(
        lambda image: (0, front(image[None], training=False)[0]),
        lambda _, a: back(a[None], training=False)[0] @ kernel + bias,
        image,
    )


APPLICATIONS = {
    "ResNet50": ("conv5_block3_out", "predictions", "avg_pool", True),
    "MobileNetV2": ("out_relu", "predictions", "global_average_pooling2d", True),
    "EfficientNetB0": ("top_activation", "predictions", "top_dropout", True),
    "ConvNeXtTiny": ("add", "convnext_tiny_head_dense", "convnext_tiny_head_layernorm", False),
}


def application(keras, name, **options):
    """One of them with random weights, its layer to tap, and its maps by hand."""
    layer, head, last, closed = APPLICATIONS[name]
    keras.utils.set_random_seed(1)
    net = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=20, **options)
    image, names = image_of(64, 64), [op.name for op in net.operations]
    layer, last = ([n for n in names if n.startswith(start)][-1] for start in (layer, last))
    model = tap_keras(net, layer, image, head=head if closed else None, link="probabilities")
    normalised = (
        "layernorm" in last
    )  # it takes the mean out of gradients, so that a map is what is left of terms that cancel
    compare(model, image, *application_by_hand(keras, net, layer, image, head, last), cancelling=normalised)
    return model


def test_a_keras_application(keras):
    model = application(keras, "MobileNetV2", alpha=0.35)
    assert len(parameter_layers(model).names) == 105


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_keras_applications(keras, name, tmp_path):
    evaluated(application(keras, name), tmp_path)

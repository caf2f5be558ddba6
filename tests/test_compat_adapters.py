"""Keras, Equinox and Haiku models, untouched: Grad-CAM and CASE of all classes against gradients written by hand, and the adapters' errors.

Packages of the extra `compat`; a test whose package is missing is skipped. Weights are small and random.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read at the first import of keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import cam_and_case
from flax import linen, nnx
from studies import sanity

from case_jax import (
    METHODS,
    CaseJaxError,
    all_class_maps,
    evaluate,
    explain,
    tap_equinox,
    tap_haiku,
    tap_keras,
    tap_linen,
    tap_nnx,
    topk_logits,
)
from case_jax.contrast.choice import choose_contrast
from case_jax.evaluation import Pixels
from case_jax.source import Example
from case_jax.tap.parameters import parameter_layers, permuted

pytestmark = pytest.mark.compat
CLASSES, RIVALS, WIDTH = 7, 3, 8
EXTRA = "pip install 'case-jax[compat]'"
PIXELS = Pixels((0.5,) * 3, (0.25,) * 3)


@pytest.fixture(autouse=True)
def _promotion_as_users_have_it():
    """Strict promotion is a rule of our own tests."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason=EXTRA)


@pytest.fixture(scope="module")
def eqx():
    return pytest.importorskip("equinox", reason=EXTRA)


@pytest.fixture(scope="module")
def hk():
    return pytest.importorskip("haiku", reason=EXTRA)


def image_of(*sides):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*sides, 3)), jnp.float32)


def compare(model, image, activation, gradients, logits):
    """Both maps of every class, within 1e-5 of the largest value."""
    classes = len(logits)
    assert model.num_classes == classes

    def maps(image):
        of = {name: METHODS[name].maps for name in ("grad_cam", "case")}
        contrast = topk_logits(RIVALS, classes)
        return {name: all_class_maps(f, model, model.params, image, contrast=contrast) for name, f in of.items()}

    found, expected = jax.jit(maps)(image), cam_and_case(activation, gradients, logits, rivals=RIVALS)
    for name, by_hand in expected.items():
        assert by_hand.max() > 0
        np.testing.assert_allclose(
            found[name], by_hand.reshape(found[name].shape), rtol=0, atol=1e-5 * by_hand.max(), err_msg=name
        )


def by_hand(front, tail, image):
    """A layer's output, all logits' gradients in it, and the logits, from a network cut in two there."""

    @jax.jit
    def everything(image):
        kept, a = front(image)
        return a, jax.jacrev(lambda a: tail(kept, a))(a), tail(kept, a)

    return everything(image)


class Noise:
    """Four smooth random images."""

    name, class_names, fingerprint = "noise", None, "v1"

    def __init__(self, height, width):
        self.sides = height, width

    def __len__(self):
        return 4

    def __getitem__(self, index):
        height, width = self.sides
        coarse = np.random.default_rng(index).integers(0, 256, (height // 4, width // 4, 3))
        return Example(index, f"noise {index}", coarse.repeat(4, 0).repeat(4, 1).astype(np.uint8), index % 3)


def evaluated(model, path, **options):
    """Class sensitivity and sanity checks of four images: a row each for images and methods, and layers changed."""
    source = Noise(*model.image_shape[:2])
    methods = ("grad_cam", "case")
    folder = evaluate(source, model, methods=methods, pixels=PIXELS, out=path / "run", contrast="topk_logits:2", tile=4)
    rows = folder.rows()
    assert len(rows) == 4 * len(methods)
    assert set(rows["method"]) == set(methods)
    assert (folder.path / "report.html").stat().st_size > 0

    contrast = choose_contrast("topk_logits:2", num_classes=model.num_classes)
    checked = sanity(
        source,
        model,
        contrast,
        ("grad_cam",),
        path / "sanity",
        pixels=PIXELS,
        untrained=permuted(model.params),
        **options,
    )
    layers = parameter_layers(model, depth=options.get("depth")).names
    assert set(checked.rows()["layer"]) >= set(layers)


# Keras


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


def test_keras_channels_first(keras, net):
    turned, image = keras_net(keras, "first"), image_of(16, 20)
    turned.set_weights(net.get_weights())
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
SMALL = {"MobileNetV2": {"alpha": 0.35}}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in SMALL else pytest.mark.slow) for n in APPLICATIONS])
def test_keras_applications(keras, name, tmp_path):
    layer, head, last, closed = APPLICATIONS[name]
    keras.utils.set_random_seed(1)
    options = {"weights": None, "input_shape": (64, 64, 3), "classes": 20, **SMALL.get(name, {})}
    net, image = getattr(keras.applications, name)(**options), image_of(64, 64)
    names = [op.name for op in net.operations]
    layer, last = ([n for n in names if n.startswith(start)][-1] for start in (layer, last))
    model = tap_keras(net, layer, image, head=head if closed else None, link="probabilities")
    compare(model, image, *application_by_hand(keras, net, layer, image, head, last))
    if name in SMALL:
        assert len(parameter_layers(model).names) == 105
    else:
        evaluated(model, tmp_path, kinds=("cascading",))


# Equinox


@pytest.fixture(scope="module")
def eqx_net(eqx):
    class Net(eqx.Module):
        stem: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        blocks: list
        drop: eqx.nn.Dropout
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.stem = eqx.nn.Conv2d(3, WIDTH, 3, stride=2, key=keys[0])
            self.norm = eqx.nn.BatchNorm(WIDTH, "batch", mode="batch")
            self.blocks = [eqx.nn.Conv2d(WIDTH, WIDTH, 3, padding=1, key=keys[1]), eqx.nn.Lambda(jax.nn.relu)]
            self.drop, self.head = eqx.nn.Dropout(0.5), eqx.nn.Linear(WIDTH, CLASSES, key=keys[2])

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.stem(x), state)
            x = self.blocks[1](x)
            x = jax.nn.relu(x + jnp.tanh(self.blocks[0](x)))
            return self.head(self.drop(x.mean((1, 2)), key=key)), state

    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 3, 16, 20))
    run = jax.vmap(
        lambda x, s: net(x, s, key=jax.random.key(2)), axis_name="batch", in_axes=(0, None), out_axes=(0, None)
    )
    _, state = run(images, state)  # statistics of training
    return net, state


def test_an_equinox_network_with_a_state(eqx, eqx_net, tmp_path):
    (net, state), image = eqx_net, image_of(16, 20)
    model = tap_equinox(net, lambda m: m.blocks[0], image, state=state)
    assert (model.layer, model.activation_shape) == ("blocks.0", (7, 9, WIDTH))
    quiet = eqx.nn.inference_mode(net)

    def front(image):
        x, _ = quiet.norm(quiet.stem(jnp.moveaxis(image, -1, 0)), state)
        x = jax.nn.relu(x)
        return x, jnp.moveaxis(quiet.blocks[0](x), 0, -1)

    def tail(x, a):
        return quiet.head(jax.nn.relu(x + jnp.tanh(jnp.moveaxis(a, -1, 0))).mean((1, 2)))

    compare(model, image, *by_hand(front, tail, image))
    assert parameter_layers(model).names == ("head", "blocks.0", "norm", "stem")
    assert tap_equinox(net, "norm", image, state=state, after="relu").layer == "norm, relu"
    evaluated(model, tmp_path, depth=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"where": "stam"}, "where: 'stam' is unknown. Did you mean 'stem'"),
        ({"where": lambda m: m.stam}, "where: 'stam' is unknown. Did you mean 'stem'"),
        ({"where": lambda m: m.stem.weight}, "stands in 0 of its places; accepted: a module"),
        ({"state": None}, "state: got none, for a model that keeps 'norm.batch_counter'"),
        ({"head": "stem"}, "head: got 'stem', a Conv2d"),
        ({"head": "head"}, "head: the closed form"),
        ({"image": jnp.zeros((3, 16, 20))}, r"accepted: one normalised floating-point image of shape \(16, 20, 3\)"),
        ({"training": True}, "argument of Net.__call__: 'training' is unknown"),
    ],
)
def test_equinox_arguments_that_cannot_be(eqx_net, given, message):
    net, state = eqx_net
    given = {"where": "stem", "image": image_of(16, 20), "state": state} | given
    with pytest.raises(CaseJaxError, match=message):
        tap_equinox(net, **given)


def test_equinox_heads_see_positions_first(eqx):
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        hidden: eqx.nn.Linear
        out: eqx.nn.Linear

        def __call__(self, x):
            return self.out(jnp.tanh(self.hidden(jnp.ravel(jax.nn.relu(self.conv(x))))))

    keys = jax.random.split(jax.random.key(0), 3)
    net = Net(eqx.nn.Conv2d(3, 4, 3, key=keys[0]), eqx.nn.Linear(64, 5, key=keys[1]), eqx.nn.Linear(5, 3, key=keys[2]))
    model = tap_equinox(net, "conv", image_of(6, 6), head=lambda m: m.hidden)  # its closed form is checked
    assert not model.head_is_last
    assert model.activation_shape == (4, 4, 4)


@pytest.fixture(scope="module")
def eqx_vit(eqx):
    class Block(eqx.Module):
        norm1: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        norm2: eqx.nn.LayerNorm
        mlp: eqx.nn.Linear
        drop: eqx.nn.Dropout

        def __init__(self, key):
            keys = jax.random.split(key)
            self.norm1, self.norm2 = eqx.nn.LayerNorm(16), eqx.nn.LayerNorm(16)
            self.attention = eqx.nn.MultiheadAttention(2, 16, key=keys[0])
            self.mlp, self.drop = eqx.nn.Linear(16, 16, key=keys[1]), eqx.nn.Dropout(0.3)

        def __call__(self, x, *, key):
            y = jax.vmap(self.norm1)(x)
            x = x + self.attention(y, y, y)
            return x + self.drop(jax.nn.gelu(jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))), key=key)

    class ViT(eqx.Module):
        patches: eqx.nn.Conv2d
        token: jax.Array
        blocks: list
        norm: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.patches = eqx.nn.Conv2d(3, 16, 4, stride=4, key=keys[0])
            self.token = jax.random.normal(keys[1], (1, 16))
            self.blocks = [Block(keys[2]), Block(keys[3])]
            self.norm, self.head = eqx.nn.LayerNorm(16), eqx.nn.Linear(16, CLASSES, key=keys[4])

        @eqx.filter_jit
        def __call__(self, x, *, key):
            x = self.patches(x)
            x = jnp.concatenate([self.token, x.reshape(16, -1).T])
            for block in self.blocks:
                x = block(x, key=key)
            return self.head(self.norm(x[0]))

    return ViT(jax.random.key(1))


def test_an_equinox_transformer(eqx, eqx_vit, tmp_path):
    """Its normalisation is called for each token, under `jax.vmap` and inside a compiled call."""
    image, key = image_of(16, 16), jax.random.key(0)
    grid = {"token_grid": (4, 4), "prefix_tokens": 1, "key": key}
    model = tap_equinox(eqx_vit, "blocks.1.norm1", image, **grid)
    quiet = eqx.nn.inference_mode(eqx_vit)
    last = quiet.blocks[1]

    def front(image):
        x = quiet.patches(jnp.moveaxis(image, -1, 0))
        x = quiet.blocks[0](jnp.concatenate([quiet.token, x.reshape(16, -1).T]), key=key)
        a = jax.vmap(last.norm1)(x)
        return (x, a[:1]), a[1:].reshape(4, 4, 16)

    def tail(kept, a):
        x, first = kept
        a = jnp.concatenate([first, a.reshape(16, 16)])
        x = x + last.attention(a, a, a)
        x = x + jax.nn.gelu(jax.vmap(last.mlp)(jax.vmap(last.norm2)(x)))
        return quiet.head(quiet.norm(x[0]))

    compare(model, image, *by_hand(front, tail, image))
    with pytest.raises(
        CaseJaxError, match=r"tokens in front of its grid alone.* nearest before it is 'blocks.1.norm1'"
    ):
        tap_equinox(eqx_vit, lambda m: m.blocks[1], image, **grid)
    with pytest.raises(CaseJaxError, match=r"missing a required argument: 'key'.*key=jax.random.key\(0\)"):
        tap_equinox(eqx_vit, "patches", image)
    with pytest.raises(CaseJaxError, match=r"returns \(1, 17, 16\) .*token_grid=\(4, 4\), prefix_tokens=1"):
        tap_equinox(eqx_vit, "blocks.0", image, key=key)
    evaluated(model, tmp_path, depth=1)


def test_an_equinox_layer_inside_a_loop(eqx):
    class Net(eqx.Module):
        blocks: eqx.nn.Conv2d
        head: eqx.nn.Linear

        def __call__(self, x):
            arrays, static = eqx.partition(self.blocks, eqx.is_array)
            x, _ = jax.lax.scan(lambda x, a: (jnp.tanh(eqx.combine(a, static)(x)), None), x, arrays)
            return self.head(x.mean((1, 2)))

    stack = eqx.filter_vmap(lambda key: eqx.nn.Conv2d(3, 3, 3, padding=1, key=key))(jax.random.split(jax.random.key(0)))
    net, image = Net(stack, eqx.nn.Linear(3, CLASSES, key=jax.random.key(1))), image_of(8, 8)
    model = tap_equinox(net, "blocks[-1]", image)
    first, second = (jax.tree.map(lambda a, i=i: a[i] if eqx.is_array(a) else a, stack) for i in range(2))

    def front(image):
        return 0, jnp.moveaxis(second(jnp.tanh(first(jnp.moveaxis(image, -1, 0)))), 0, -1)

    compare(model, image, *by_hand(front, lambda _, a: net.head(jnp.tanh(a).mean((0, 1))), image))
    with pytest.raises(CaseJaxError, match="name one, -2 to 1"):
        tap_equinox(net, "blocks", image)


# Haiku


def haiku_by_hand(hk, transformed, params, state, layer, image, **call):
    """The layer's output and every logit's gradient in it: that of a perturbation which is added to the output."""
    seen = []

    def logits(added):
        def intercept(own, args, kwargs, context):
            out = own(*args, **kwargs)
            if context.method_name != "__call__" or context.module.module_name != layer:
                return out
            seen.append(out)
            return out + added

        with hk.intercept_methods(intercept):
            return transformed.apply(params, state, None, image[None], **call)[0][0]

    shape = jax.eval_shape(lambda: (logits(0.0), seen.pop())[1]).shape

    @jax.jit
    def everything(added):
        found, activation = logits(added), seen.pop()
        gradients = jax.jacrev(logits)(added)
        seen.clear()
        return activation[0], gradients[:, 0], found

    return everything(jnp.zeros(shape))


def haiku_resnet(hk, blocks, widths, image):
    def forward(x, is_training):
        net = hk.nets.ResNet(blocks, CLASSES, bottleneck=True, channels_per_group=widths, name="resnet")
        return net(x, is_training)

    transformed = hk.transform_with_state(forward)
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        noise, name = rng.standard_normal(leaf.shape).astype(np.float32), path[-1].key
        if name == "w":
            return jnp.asarray(noise / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(
            1 + 0.1 * np.abs(noise) if path[-2].key.endswith("var_ema") or name == "scale" else 0.1 * noise
        )

    shapes = jax.eval_shape(lambda: transformed.init(jax.random.key(0), image[None], True))
    params, state = jax.tree_util.tree_map_with_path(drawn, shapes)
    return transformed, params, jax.tree.map(lambda a, s: a.astype(s.dtype), state, shapes[1])


@pytest.mark.parametrize(
    ("blocks", "widths", "layers"),
    [
        ((1, 1, 1, 1), (16, 16, 16, 16), 35),
        pytest.param((3, 4, 6, 3), (256, 512, 1024, 2048), 107, marks=pytest.mark.slow),  # a ResNet-50
    ],
)
def test_haiku_resnets(hk, blocks, widths, layers, tmp_path):
    image, layer = image_of(64, 64), "resnet/~/block_group_3"
    transformed, params, state = haiku_resnet(hk, blocks, widths, image)
    model = tap_haiku(transformed, params, state, layer, image, head="resnet/~/logits", is_training=False)
    compare(model, image, *haiku_by_hand(hk, transformed, params, state, layer, image, is_training=False))
    assert model.head_is_last
    assert len(parameter_layers(model).names) == layers
    inner = f"{layer}/~/block_0/~/conv_1"
    model = tap_haiku(transformed, params, state, inner, image, is_training=False)
    compare(model, image, *haiku_by_hand(hk, transformed, params, state, inner, image, is_training=False))
    if layers > 100:
        evaluated(model, tmp_path, kinds=("cascading",))


@pytest.fixture(scope="module")
def haiku_net(hk):
    """A network without a state, its axes in PyTorch's order, random numbers drawn where it is told to."""

    def forward(x, noisy=False):
        x = jax.nn.relu(hk.Conv2D(4, 3, data_format="NCHW", name="conv")(x))
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if noisy else x
        return hk.Linear(CLASSES, name="out")(jnp.tanh(hk.Linear(5, name="hidden")(x.mean((2, 3)))))

    transformed = hk.transform(forward)
    return transformed, transformed.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8)))


def test_haiku_functions_without_a_state(hk, haiku_net):
    (transformed, params), image = haiku_net, image_of(8, 8)
    model = tap_haiku(transformed, params, None, "conv", image, head="hidden", channels="first")
    assert not model.head_is_last
    assert model.activation_shape == (8, 8, 4)
    quiet = hk.without_apply_rng(transformed)
    other = tap_haiku(quiet, params, None, "conv", image, channels="first", after="relu")
    logits = quiet.apply(params, jnp.moveaxis(image, -1, 0)[None])[0]
    for found in (model, other):
        np.testing.assert_allclose(found.view(found.params, image).logits, logits, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "con"}, "layer: 'con' is unknown. Did you mean 'conv'"),
        ({"head": "conv"}, "head: got 'conv', a Conv2D; accepted: an hk.Linear"),
        ({"state": {"a": {}}}, "state: got a dict; accepted: None or {}"),
        ({"rng": jax.random.key(0), "noisy": True}, "the logits change with the state of a random generator, first in"),
        ({"nosy": True}, "unexpected keyword argument 'nosy'.*call_args"),
    ],
)
def test_haiku_arguments_that_cannot_be(haiku_net, given, message):
    transformed, params = haiku_net
    given = {"state": None, "layer": "conv", "image": image_of(8, 8), "channels": "first"} | given
    with pytest.raises(CaseJaxError, match=message):
        tap_haiku(transformed, params, **given)


# All of them


def test_the_wrong_adapter_names_the_right_one(net, eqx_net, haiku_net):
    image, plain = image_of(16, 20), nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    models = {
        "tap_keras": net,
        "tap_equinox": eqx_net[0],
        "tap_haiku": haiku_net[0],
        "tap_nnx": plain,
        "tap_linen": linen.Dense(3),
    }
    taps = {
        "tap_keras": lambda model: tap_keras(model, "a", image),
        "tap_equinox": lambda model: tap_equinox(model, "a", image),
        "tap_haiku": lambda model: tap_haiku(model, {}, None, "a", image),
        "tap_nnx": lambda model: tap_nnx(model, "a", image),
        "tap_linen": lambda model: tap_linen(model, {}, "a", image),
    }
    for name, model in models.items():
        for other in taps.keys() - {name}:
            with pytest.raises(CaseJaxError, match=rf"accepted.*: {name}\("):
                taps[other](model)

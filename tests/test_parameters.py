"""Which layers parameters belong to, in which order they are used, and others in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError, tag, tap_function, tap_linen, tap_nnx
from case_jax.models import convnext, densenet, resnet, vgg, vit
from case_jax.models.initial import initial_params
from case_jax.tap.parameters import ParameterLayers, fitted, parameter_layers, permuted, with_layers_of

FAMILIES = {
    "resnet": (
        lambda rngs: resnet.ResNet(
            resnet.Bottleneck, (1, 1, 1, 1), widths=(2, 2, 3, 3), stem=4, num_classes=5, rngs=rngs
        ),
        "layer4.0",
        {},
    ),
    "vgg": (lambda rngs: vgg.VGG(((4,), (6,)), hidden=(8, 9), num_classes=5, rngs=rngs), "features.5", {}),
    "densenet": (lambda rngs: densenet.DenseNet((1, 2), growth=4, stem=4, num_classes=5, rngs=rngs), "relu", {}),
    "convnext": (lambda rngs: convnext.ConvNeXt((1, 1), (4, 6), num_classes=5, rngs=rngs), "features.3.0", {}),
    "vit": (
        lambda rngs: vit.VisionTransformer(
            width=16, depth=2, heads=2, hidden=20, patch=8, image_size=32, num_classes=5, rngs=rngs
        ),
        "encoder.layers.encoder_layer_1.ln_1",
        {"token_grid": (4, 4), "prefix_tokens": 1},
    ),
}
ORDERS = {
    "resnet": [
        "conv1",
        "bn1",
        *(
            f"layer{stage}.0.{part}"
            for stage in (1, 2, 3, 4)
            for part in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")
        ),
        "fc",
    ],
    "vgg": ["features.0", "features.1", "features.4", "features.5", "classifier.0", "classifier.3", "classifier.6"],
    "densenet": [
        *(f"features.{name}" for name in ("conv0", "norm0")),
        *(f"features.denseblock1.denselayer1.{name}" for name in ("norm1", "conv1", "norm2", "conv2")),
        *(f"features.transition1.{name}" for name in ("norm", "conv")),
        *(
            f"features.denseblock2.denselayer{layer}.{name}"
            for layer in (1, 2)
            for name in ("norm1", "conv1", "norm2", "conv2")
        ),
        "features.norm5",
        "classifier",
    ],
    "convnext": [
        *("features.0.0", "features.0.1"),
        *(f"features.1.0{part}" for part in (".block.0", ".block.2", ".block.3", ".block.5", "")),  # last its own scale
        *("features.2.0", "features.2.1"),
        *(f"features.3.0{part}" for part in (".block.0", ".block.2", ".block.3", ".block.5", "")),
        *("classifier.0", "classifier.2"),
    ],
    "vit": [
        *("conv_proj", "class_token", "encoder"),  # the encoder's own are the positions
        *(
            f"encoder.layers.encoder_layer_{layer}.{part}"
            for layer in (0, 1)
            for part in (
                *("ln_1", "self_attention.in_proj", "self_attention.out_proj"),
                *("ln_2", "mlp.0", "mlp.3"),
            )
        ),
        "encoder.ln",
        "heads.head",
    ],
}


@pytest.fixture(scope="module")
def family():
    """A tiny network tapped, and parameters of a newly initialised one; its own are far from those of any initialiser."""
    built = {}

    def get(name):
        if name not in built:
            build, layer, options = FAMILIES[name]
            drawn = nnx.jit(build)
            model = tap_nnx(drawn(nnx.Rngs(0)), layer, jnp.zeros((32, 32, 3)), **options)
            rng = np.random.default_rng(0)
            flat, structure = jax.tree.flatten(model.params)
            odd = [jnp.asarray(np.abs(a) * 10 ** rng.uniform(-1, 1, a.shape) + 1e-3, jnp.float32) for a in flat]
            fresh = nnx.split(drawn(nnx.Rngs(1)), nnx.RngState, ...)[2]
            built[name] = model, jax.tree.unflatten(structure, odd), fitted(model.params, fresh, "fresh")
        return built[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_in_reverse_order_of_use_and_own_every_array(family, name):
    layers = parameter_layers(family(name)[0])
    assert list(layers.names) == ORDERS[name][::-1]
    assert min(layers.of_leaf) == 0


def test_the_shipped_classifier_s_layers(tapped):
    parts = ("conv1", "bn1", "conv2", "bn2", "shortcut")
    expected = ["stem", "bn", *(f"blocks.{b}.{p}" for b in range(3) for p in parts), "head"]
    expected.remove("blocks.0.shortcut")  # the identity
    assert list(parameter_layers(tapped).names) == expected[::-1]
    assert parameter_layers(tapped, depth=2).names == ("head", "blocks.2", "blocks.1", "blocks.0", "bn", "stem")
    assert parameter_layers(tapped, depth=1).names == ("head", "blocks", "bn", "stem")


def test_the_order_is_that_of_use_not_of_names():
    params = {name: jnp.ones(3, jnp.float32) for name in ("c", "a", "b", "never")}

    def function(params, x):
        shifted = jax.jit(lambda x: x + params["b"])(x)  # inside a call
        return (tag(shifted * (1 / (1 + params["c"])), "layer") + params["a"]).sum((0, 1))

    layers = parameter_layers(tap_function(function, params, "layer", jnp.zeros((4, 4, 3))))
    assert layers == ParameterLayers(("a", "c", "b"), (0, 2, 1, -1))


def test_a_layer_used_twice_has_the_place_of_its_last_use():
    params = [{"w": jnp.ones(3, jnp.float32)}, {"w": jnp.ones(3, jnp.float32)}]

    def function(params, x):
        return tag(x * params[0]["w"] * params[1]["w"] * params[0]["w"], "layer").sum((0, 1))

    assert parameter_layers(tap_function(function, params, "layer", jnp.zeros((4, 4, 3)))).names == ("0", "1")


def test_linen_s_collections_are_no_part_of_a_layer_s_name():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (3, 3))(x))
            return linen.Dense(3)(linen.relu(x).mean((1, 2)))

    image = jnp.zeros((8, 8, 3))
    net = Net()
    variables = net.init(jax.random.key(0), image[None], train=False)
    layers = parameter_layers(tap_linen(net, variables, "Conv_0", image, train=False))
    assert layers.names == ("Dense_0", "BatchNorm_0", "Conv_0")
    assert layers.of_leaf.count(1) == 4  # mean and variance with scale and bias


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_stay_finite_whatever_is_put_back(family, name):
    model, odd, fresh = family(name)
    layers = parameter_layers(model)
    count = len(layers.names)
    places = np.arange(count)
    chosen = np.concatenate([places < np.arange(count + 1)[:, None], np.eye(count, dtype=bool)])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(32, 32, 3)), jnp.float32)

    @jax.jit
    def logits(own, other, chosen):
        return jax.lax.map(lambda c: model.apply(with_layers_of(own, other, layers, c), x), chosen)

    found = logits(odd, fresh, chosen)
    assert np.isfinite(found).all()
    assert np.isfinite(logits(odd, jax.jit(permuted)(odd), chosen)).all()
    np.testing.assert_allclose(found[count], logits(fresh, odd, chosen)[0], rtol=1e-4, atol=1e-6)  # all are put back


def test_chosen_layers_and_no_others_are_changed(family):
    model, own, other = family("densenet")
    layers = parameter_layers(model)
    chosen = np.zeros(len(layers.names), bool)
    chosen[[0, 3]] = True
    leaves = [jax.tree.leaves(t) for t in (with_layers_of(own, other, layers, chosen), own, other)]
    for found, mine, its, layer in zip(*leaves, layers.of_leaf, strict=True):
        np.testing.assert_array_equal(found, its if layer in (0, 3) else mine)


def test_permuting_keeps_values_and_what_belongs_to_one_channel(family):
    model = family("vgg")[0]
    flat, structure = jax.tree.flatten(model.params)
    numbered = jax.tree.unflatten(structure, [jnp.arange(a.size, dtype=a.dtype).reshape(a.shape) for a in flat])
    shuffle = jax.jit(permuted, static_argnames="seed")
    found = shuffle(numbered, seed=3)
    for before, after in zip(jax.tree.leaves(numbered), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(np.sort(after.ravel()), before.ravel())
    norm = {name: np.asarray(found["features"]["1"][name][...]) for name in ("mean", "var", "scale", "bias")}
    assert all((a == norm["mean"]).all() for a in norm.values())
    kernel = np.asarray(found["classifier"]["0"]["kernel"][...])
    assert (kernel != np.arange(kernel.size).reshape(kernel.shape)).mean() > 0.9
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), found, shuffle(numbered, seed=3)))
    again = shuffle(numbered, seed=4)["classifier"]["0"]["kernel"][...]
    assert (np.asarray(again) != kernel).any()


def test_permuting_takes_vectors_with_axes_of_length_one_as_vectors():
    values = np.arange(12.0)
    found = permuted({"norm": {"scale": values, "mean": values.reshape(1, 1, 1, 12), "kernel": values.reshape(3, 4)}})
    np.testing.assert_array_equal(found["norm"]["mean"].ravel(), found["norm"]["scale"])
    assert (np.ravel(found["norm"]["kernel"]) != np.ravel(found["norm"]["scale"])).any()


def test_initial_parameters_are_seeded_and_never_those_that_training_began_with(classifier, tapped):
    found = fitted(tapped.params, initial_params(classifier, seed=0), "initial")
    again, other = (initial_params(classifier, seed=seed) for seed in (0, 1))
    kernel = np.asarray(found["head"]["kernel"][...])
    np.testing.assert_array_equal(kernel, again["head"]["kernel"][...])
    for strange in (other, nnx.state(classifier.entry.build(25, rngs=nnx.Rngs(0)))):
        assert np.abs(kernel - np.asarray(strange["head"]["kernel"][...])).max() > 0.01
    np.testing.assert_array_equal(found["bn"]["var"][...], 1.0)
    np.testing.assert_array_equal(found["bn"]["mean"][...], 0.0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"a": np.zeros((3, 2))}, "others: got b in one network only"),
        (
            {"a": np.zeros((3, 3), np.float32), "b": np.zeros(2, np.float32)},
            r"others: got float32 \(3, 3\) for a, which is",
        ),
        ({"a": np.zeros((3, 2), np.int32), "b": np.zeros(2, np.float32)}, r"others: got int32 \(3, 2\) for a"),
    ],
)
def test_parameters_of_another_network_are_refused(other, words):
    with pytest.raises(CaseJaxError, match=words):
        fitted({"a": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}, other, "others")


def test_bad_depths_and_models_without_parameters_are_refused(tapped):
    with pytest.raises(CaseJaxError, match="depth: got 0"):
        parameter_layers(tapped, depth=0)
    with pytest.raises(CaseJaxError, match="no parameters"):
        parameter_layers(tap_function(lambda p, x: tag(x, "x").sum((0, 1)), {}, "x", jnp.zeros((4, 4, 3))))
    with pytest.raises(CaseJaxError, match="seed"):
        permuted({}, seed=-1)

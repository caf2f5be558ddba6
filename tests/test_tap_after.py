"""A tap behind a rectifier that is no layer, against the same network with the rectifier as a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError, all_class_maps, case, tap_linen, tap_nnx, topk_logits
from case_jax.methods import METHODS


class Layer(nnx.Module):
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)


class Net(nnx.Module):
    """Convolution, normalisation, rectifier, convolution, rectifier, head; the rectifiers are layers or not."""

    def __init__(self, rectify, layers=False):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)
        self.rectify1, self.rectify2 = (Layer(rectify), Layer(rectify)) if layers else (rectify, rectify)

    def __call__(self, x):
        x = self.rectify1(self.bn(self.conv1(x)))
        return self.head(self.rectify2(self.conv2(x)).mean((1, 2)))


IMAGE = jnp.asarray(np.random.default_rng(1).normal(size=(12, 12, 3)), jnp.float32)
RECTIFIERS = {
    "nnx.relu": nnx.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "clip": lambda x: jnp.clip(x, 0),
    "relu6": jax.nn.relu6,
    "remat": jax.checkpoint(nnx.relu),
    "jit": jax.jit(lambda x: nnx.relu(x)),
}


@pytest.mark.parametrize(("layer", "rectifier", "head"), [("bn", "rectify1", None), ("conv2", "rectify2", "head")])
@pytest.mark.parametrize("kind", RECTIFIERS)
def test_the_same_as_a_tap_at_the_rectifier(kind, layer, rectifier, head):
    function = RECTIFIERS[kind]
    model = tap_nnx(Net(function), layer, IMAGE, after="relu", linear_head=head)
    layers = tap_nnx(Net(function, layers=True), rectifier, IMAGE, linear_head=head)
    assert model.layer == f"{layer}, relu"
    assert (model.head_kernel is None) == (head is None)
    contrast = topk_logits(2, 5)
    for method in (case, METHODS["layer_cam"].maps):
        found, expected = (
            jax.jit(lambda m, x, method=method: all_class_maps(method, m, m.params, x, contrast=contrast))(m, IMAGE)
            for m in (model, layers)
        )
        np.testing.assert_array_equal(found, expected)
    view, before = model.view(model.params, IMAGE), tap_nnx(Net(function), layer, IMAGE)
    np.testing.assert_array_equal(view.activation, function(before.view(before.params, IMAGE).activation))


def test_the_derivative_at_zero_stays_the_rectifiers_own():
    """`jax.nn.relu` has the derivative 0 there, `max(x, 0)` the derivative ½."""
    dead = Net(nnx.relu)
    for conv in (dead.conv1, dead.conv2):
        conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
    model = tap_nnx(dead, "bn", IMAGE, after="relu")
    gradient = jax.grad(lambda x: model.apply(model.params, x)[0])(IMAGE)
    assert not gradient.any()


def test_linen():
    class LinenNet(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(4, (3, 3), name="conv")(x))
            return linen.Dense(5, name="head")(x.mean((1, 2)))

    variables = LinenNet().init(jax.random.key(0), IMAGE[None])
    before = tap_linen(LinenNet(), variables, "conv", IMAGE)
    model = tap_linen(LinenNet(), variables, "conv", IMAGE, after="relu", linear_head="head")
    raw = before.view(variables, IMAGE).activation
    assert (raw < 0).any()
    np.testing.assert_array_equal(model.view(variables, IMAGE).activation, jax.nn.relu(raw))


def test_tokens():
    """The tagged tokens become the grid behind the rectifier, too."""

    class Tokens(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(3, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            tokens = jnp.pad(x.reshape(1, 36, 3), ((0, 0), (1, 0), (0, 0)))
            return nnx.relu(self.dense(tokens)).mean(1)

    image = IMAGE[:6, :6]
    model = tap_nnx(Tokens(), "dense", image, after="relu", token_grid=(6, 6), prefix_tokens=1)
    activation = model.view(model.params, image).activation
    assert activation.shape == (6, 6, 4)
    np.testing.assert_allclose(activation, nnx.relu(Tokens().dense(image)), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "layer", "words"),
    [
        (nnx.relu, "conv1", "'conv1', whose output is taken by 0 rectifiers and by: sub; accepted: .*normalisation"),
        (nnx.gelu, "conv2", "taken by 0 rectifiers"),
        (nnx.leaky_relu, "conv2", "taken by 0 rectifiers"),
        (lambda x: nnx.relu(x) + 2 * nnx.relu(x), "conv2", "taken by 2 rectifiers"),
    ],
)
def test_what_is_not_rectified_next_is_refused(function, layer, words):
    with pytest.raises(CaseJaxError, match=f"after: got 'relu' at layer .*{words}"):
        tap_nnx(Net(function), layer, IMAGE, after="relu")


def test_what_else_goes_wrong_is_named():
    with pytest.raises(CaseJaxError, match="after: got 'gelu'; accepted: 'relu', or None"):
        tap_nnx(Net(nnx.gelu), "conv2", IMAGE, after="gelu")

    class Twice(Net):
        def __call__(self, x):
            x = self.rectify1(self.bn(self.conv1(x)))
            return self.head((self.rectify2(self.conv2(x)) + self.conv2(x)).mean((1, 2)))

    with pytest.raises(CaseJaxError, match="'conv2' is evaluated 2 times"):
        tap_nnx(Twice(nnx.relu), "conv2", IMAGE, after="relu")


# --- channels first -------------------------------------------------------------------------------------------------------

FIRST = r"image: got shape \(3, 12, 12\), dtype float32; accepted: .* of shape \(12, 12, 3\), channels last"


@pytest.mark.parametrize("after", [None, "relu"])
def test_channels_first_are_told(after):
    with pytest.raises(CaseJaxError, match=FIRST):
        tap_nnx(Net(nnx.relu), "conv2", jnp.moveaxis(IMAGE, -1, 0), after=after)
    module = linen.Sequential([linen.Conv(4, (3, 3)), lambda x: x.mean((1, 2)), linen.Dense(5)])
    variables = module.init(jax.random.key(0), IMAGE[None])
    with pytest.raises(CaseJaxError, match=FIRST):
        tap_linen(module, variables, "layers_0", jnp.moveaxis(IMAGE, -1, 0), after=after)


def test_other_errors_of_a_network_are_its_own():
    with pytest.raises(ValueError, match="conv_general_dilated"):
        tap_nnx(Net(nnx.relu), "conv2", jnp.zeros((12, 12, 4)))

"""Closed forms behind dense layers: flattened features, more layers behind the head, some of the channels; tokens as maps."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from case_jax import CaseJaxError, tag, tap_function, tap_linen, tap_nnx
from case_jax.tap import tag_head_input, tag_head_output

CLASSES, SIZE = 6, 8


def image_of(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(SIZE, SIZE, 3)), jnp.float32)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0]), jnp.float32)


class Dense(nnx.Module):
    """Convolution, relu, 2×2 pool, flattened channels last, then one linear layer or three."""

    def __init__(self, *, hidden=None, channels=4):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, channels, (3, 3), rngs=rngs)
        flat = SIZE * SIZE // 4 * channels
        self.first = nnx.Linear(flat, hidden or CLASSES, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs) if hidden else None
        self.third = nnx.Linear(hidden, CLASSES, rngs=rngs) if hidden else None

    def __call__(self, x):
        x = nnx.max_pool(jax.nn.relu(self.conv(x)), (2, 2), (2, 2))
        x = self.first(x.reshape(len(x), -1))
        if self.second is not None and self.third is not None:
            x = self.third(jax.nn.relu(self.second(jax.nn.relu(x))))
        return x


def assert_equals_pullback(model, *, classes=None):
    """Chosen and all classes, closed form against pullback; leaves out nothing."""
    pulled_back = replace(model, head_kernel=None)
    every = jnp.arange(model.num_classes)
    for seed in range(3):
        x = image_of(seed)
        pulled = np.asarray(jax.jit(lambda x: pulled_back.view(model.params, x).class_weights(every))(x))
        scale = np.abs(pulled).max()
        assert scale > 0
        for view in (model.view, model.view_all):
            closed = jax.jit(lambda x, view=view: view(model.params, x).class_weights(every))(x)
            np.testing.assert_allclose(closed, pulled, atol=1e-6 * scale, rtol=0)
        one = model.view(model.params, x).class_weights(jnp.asarray([3, 1, 77]))
        np.testing.assert_allclose(one[:2], pulled[[3, 1]], atol=1e-6 * scale, rtol=0)
        assert np.isnan(one[2]).all()  # there is no class 77


@pytest.mark.parametrize("channels", [4, 9], ids=["fewer channels", "fewer classes"])
def test_more_layers_behind_the_first_dense_one(channels):
    model = tap_nnx(Dense(hidden=10, channels=channels), "conv", image_of(), dense_head="first")
    assert not model.head_is_last
    assert_equals_pullback(model)


def test_a_flattened_linear_head():
    assert_equals_pullback(tap_nnx(Dense(), "conv", image_of(), linear_head="first"))


def test_the_same_in_linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jax.nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
            x = jax.nn.relu(nn.Dense(10, name="first")(x.reshape(len(x), -1)))
            return nn.Dense(CLASSES, name="last")(x)

    variables = Net().init(jax.random.key(0), image_of()[None])
    assert_equals_pullback(tap_linen(Net(), variables, "conv", image_of(), dense_head="first"))


PARTS = {"old": numbers(3, 5, seed=1), "new": numbers(3, 4, seed=2), "late": numbers(3, 2, seed=3)}
PARTS |= {"head": numbers(11, CLASSES, seed=4)}


def concatenated(p, x):
    """As the last layer of a DenseNet: the tapped channels are 5 to 8 of the 11 in front of the head."""
    new = tag(x @ p["new"], "new")
    features = jax.nn.relu(jnp.concatenate([x @ p["old"], new, x @ p["late"]], axis=-1))
    return tag_head_input(features.mean((0, 1))) @ p["head"]


def tap_concatenated(channels):
    return tap_function(concatenated, PARTS, "new", image_of(), head_kernel=lambda p: p["head"], head_channels=channels)


def test_channels_that_are_some_of_those_in_front_of_the_head():
    model = tap_concatenated((5, 11))
    assert_equals_pullback(model)
    head = model.view(model.params, image_of()).head
    assert head.kernel.shape == (1, 4, CLASSES)
    np.testing.assert_array_equal(head.kernel[0], PARTS["head"][5:9])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((4, 11), "differs from the pullback"),  # the wrong ones
        ((8, 11), "head_channels: got 11 inputs .* of 4 channels with head_channels=\\(8, 11\\)"),
        ((-1, 11), "head_channels: got 11 inputs"),
        ((0, 10), "a multiple of them"),
        (None, "head: got 11 inputs behind layer 'new' of 4 channels"),
    ],
)
def test_the_wrong_channels_are_refused(channels, message):
    with pytest.raises(CaseJaxError, match=message):
        tap_concatenated(channels)


def test_a_plain_function_marks_the_head_s_output():
    params = {"conv": numbers(3, 4), "first": numbers(4, 7), "last": numbers(7, CLASSES)}

    def function(p, x):
        a = jnp.tanh(tag(x @ p["conv"], "a"))
        return jax.nn.gelu(tag_head_output(tag_head_input(a.mean((0, 1))) @ p["first"])) @ p["last"]

    model = tap_function(function, params, "a", image_of(), head_kernel=lambda p: p["first"])
    assert_equals_pullback(model)
    head = model.view(params, image_of()).head
    np.testing.assert_allclose(head.rest(head.output), model.apply(params, image_of()), rtol=1e-6)


def test_only_one_kind_of_head_is_taken():
    with pytest.raises(CaseJaxError, match="linear_head, dense_head: got 'third', 'first'"):
        tap_nnx(Dense(hidden=4), "conv", image_of(), linear_head="third", dense_head="first")


def test_a_dense_head_must_be_linear():
    with pytest.raises(CaseJaxError, match="dense_head: got 'conv', a Conv"):
        tap_nnx(Dense(hidden=4), "conv", image_of(), dense_head="conv")
    with pytest.raises(CaseJaxError, match=r"dense_head: 'firts' is unknown\. Did you mean 'first'"):
        tap_nnx(Dense(hidden=4), "conv", image_of(), dense_head="firts")


# --- tokens ----------------------------------------------------------------------------------------------------------------


class Tokens(nnx.Module):
    """Two class tokens before 4×2 patches; mixing over tokens, read out at the first class token."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Linear(3 * 2 * 4, 5, rngs=rngs)
        self.mix = nnx.Linear(10, 10, rngs=rngs)
        self.head = nnx.Linear(5, CLASSES, rngs=rngs)

    def __call__(self, x):
        patches = x.reshape(-1, 4, 2, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 8, 24)
        tokens = jnp.concatenate([jnp.ones((len(x), 2, 24)), patches], axis=1)
        tokens = jnp.tanh(self.embed(tokens))
        mixed = jnp.tanh(self.mix(tokens.swapaxes(1, 2))).swapaxes(1, 2)
        return self.head(mixed[:, 0])


def test_tokens_become_a_map_and_the_class_tokens_pass_by():
    net, x = Tokens(), image_of()
    model = tap_nnx(net, "embed", x, token_grid=(4, 2), prefix_tokens=2, check=False)  # patches of 2×4 are not square
    view = model.view(model.params, x)
    tokens = net.embed(jnp.concatenate([jnp.ones((1, 2, 24)), x.reshape(4, 2, 2, 4, 3).transpose(0, 2, 1, 3, 4)
                                        .reshape(1, 8, 24)], axis=1))[0]  # fmt: skip
    np.testing.assert_allclose(view.activation, tokens[2:].reshape(4, 2, 5), rtol=1e-6)
    np.testing.assert_allclose(view.logits, net(x[None])[0], rtol=1e-5)

    def logit(patches):
        mixed = jnp.tanh(net.mix(jnp.tanh(jnp.concatenate([tokens[:2], patches])).T)).T
        return net.head(mixed[:1])[0, 3]

    expected = jax.grad(logit)(tokens[2:]).mean(0)
    np.testing.assert_allclose(view.class_weights(jnp.asarray([3]))[0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("grid", [(4, 3), (0, 2)])
def test_a_grid_that_does_not_fit_the_tokens_is_refused(grid):
    with pytest.raises(CaseJaxError, match=r"token_grid: got .* for the output \(1, 10, 5\) of layer 'embed'"):
        tap_nnx(Tokens(), "embed", image_of(), token_grid=grid, prefix_tokens=2)


def test_tokens_without_a_grid_are_no_map():
    with pytest.raises(
        CaseJaxError,
        match=r"layer: 'embed' returns \(1, 10, 5\) for one image, tokens .*: token_grid=\(3, 3\), prefix_tokens=1",
    ):
        tap_nnx(Tokens(), "embed", image_of())

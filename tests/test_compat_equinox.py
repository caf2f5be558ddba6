"""Equinox modules, untouched: Grad-CAM and CASE of all classes against gradients written by hand, and the adapter's errors."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from compat import CLASSES, EXTRA, by_hand, compare, evaluated, image_of, several

from case_jax import CaseJaxError, tap_equinox
from case_jax.tap.parameters import parameter_layers

pytestmark = [pytest.mark.compat, pytest.mark.usefixtures("promotion_as_users_have_it")]
WIDTH = 8


@pytest.fixture(scope="module")
def eqx():
    return pytest.importorskip("equinox", reason=EXTRA)


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


def test_an_equinox_network_with_a_state(eqx, eqx_net):
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


def test_equinox_layers_together(eqx_net):
    (net, state), image = eqx_net, image_of(16, 20)
    several(partial(tap_equinox, net, image=image, state=state), ("stem", "norm", "blocks.0"), image)
    model = tap_equinox(net, "blocks.0", image, state=state, layers=[lambda m: m.norm])
    assert model.layers == ("case_jax.layer:norm",)


def test_evaluation_of_an_equinox_network_with_a_state(eqx_net, tmp_path):
    net, state = eqx_net
    evaluated(tap_equinox(net, "blocks.0", image_of(16, 20), state=state), tmp_path)


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


def test_an_equinox_transformer(eqx, eqx_vit):
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
    several(
        partial(tap_equinox, eqx_vit, image=image, check=False, **grid), ("blocks.0.norm1", "blocks.1.norm1"), image
    )
    with pytest.raises(
        CaseJaxError, match=r"tokens in front of its grid alone.* nearest before it is 'blocks.1.norm1'"
    ):
        tap_equinox(eqx_vit, lambda m: m.blocks[1], image, **grid)
    with pytest.raises(CaseJaxError, match=r"missing a required .*argument: 'key'.*key=jax.random.key\(0\)"):
        tap_equinox(eqx_vit, "patches", image)
    with pytest.raises(CaseJaxError, match=r"returns \(1, 17, 16\) .*token_grid=\(4, 4\), prefix_tokens=1"):
        tap_equinox(eqx_vit, "blocks.0", image, key=key)


@pytest.mark.slow
def test_evaluation_of_an_equinox_transformer(eqx_vit, tmp_path):
    grid = {"token_grid": (4, 4), "prefix_tokens": 1, "key": jax.random.key(0)}
    evaluated(tap_equinox(eqx_vit, "blocks.1.norm1", image_of(16, 16), **grid), tmp_path)


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

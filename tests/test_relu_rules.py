"""ReLUs with another backward rule: every way to write one, what is no ReLU, and the rules against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError
from case_jax.tap.relu import deconvolution_relu, guided_relu, replace_relus

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
RULES = {"guided": guided_relu, "deconvolution": deconvolution_relu}


def same(x):
    return x


@jax.custom_jvp
def own_block(x):
    return jnp.tanh(jax.nn.relu(x) * 2.0)


own_block.defjvp(lambda primals, tangents: (own_block(*primals), 0.0 * tangents[0]))


@jax.custom_jvp
def doubled(x):
    return 2.0 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 5.0 * tangents[0]))

RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "flax relu": nnx.relu,
    "maximum": lambda x: jnp.maximum(x, 0.0),
    "maximum, integer zero first": lambda x: jnp.maximum(0, x),
    "maximum with an array of zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "lax.max": lambda x: jax.lax.max(x, jnp.zeros((), x.dtype)),
    "a zero from outside a call": lambda x: jax.jit(lambda a, b: jnp.maximum(a, b))(x, 0.0),
    "clip": lambda x: jnp.clip(x, 0),
    "relu6": jax.nn.relu6,
    "under jit twice": jax.jit(lambda x: jax.jit(jax.nn.relu)(x)),
    "under remat": jax.checkpoint(jax.nn.relu),
    "in a call of its own gradient": own_block,
    "linen module": lambda x: linen.Sequential([linen.relu]).apply({}, x),
}


def once_zeroed(x):
    """Marks replaced ReLUs: their values are zero."""
    return jnp.zeros_like(x)


@pytest.mark.parametrize("name", RELUS)
def test_each_way_to_write_a_relu_is_found(name):
    function = RELUS[name]
    changed, count = replace_relus(function, jax.nn.relu, X)
    assert count == 1
    zeroed, _ = replace_relus(function, once_zeroed, X)
    before, after, zero = jax.jit(lambda x: (function(x), changed(x), zeroed(x)))(X)
    np.testing.assert_allclose(after, before, rtol=1e-6)
    np.testing.assert_array_equal(zero, 0)


norm = nnx.LayerNorm(4, rngs=nnx.Rngs(0))
NO_RELUS = {
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "max of two values": lambda x: jnp.maximum(x, x[::-1]),
    "floor at one": lambda x: jnp.maximum(x, 1.0),
    "max-pooling": lambda x: linen.max_pool(x[..., None], (2, 1))[..., 0],
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "layer norm": norm,
    "group norm": nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0)),
    "a standard deviation": lambda x: x / jnp.sqrt(jnp.maximum(x.var(-1, keepdims=True), 0.0) + 1e-5),
    "a loop without one": lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(norm(c)), None), x, length=3)[0],
    "a custom gradient without one": doubled,
}


@pytest.mark.parametrize("name", NO_RELUS)
def test_what_is_no_relu_is_left_alone(name):
    function = NO_RELUS[name]
    changed, count = replace_relus(function, once_zeroed, X)
    assert count == 0

    @jax.jit
    def values_and_gradients(x):
        found = [jax.vjp(f, x) for f in (function, changed)]
        return [(value, pull(jnp.cos(value))[0]) for value, pull in found]

    (value, gradient), (kept, same_gradient) = values_and_gradients(X)
    np.testing.assert_allclose(kept, value, atol=1e-6)
    np.testing.assert_allclose(same_gradient, gradient, atol=1e-6)


def test_relus_are_counted_where_variances_are_clamped_too():
    def network(x):
        for _ in range(3):
            x = jax.nn.relu(norm(x)) + x
        return x

    assert replace_relus(network, guided_relu, X)[1] == 3
    assert replace_relus(jax.jit(jax.checkpoint(network)), guided_relu, X)[1] == 3


# --- the rules, against two layers by hand --------------------------------------------------------------------------------

rng = np.random.default_rng(1)
W1, W2, W3 = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 8), (8, 3)))


def network(x, relu=jax.nn.relu):
    hidden = relu(x @ jnp.asarray(W1))
    return relu(hidden @ jnp.asarray(W2) + hidden) @ jnp.asarray(W3)  # with a residual connection


def by_hand(x, row, rule):
    hidden = np.maximum(x @ W1, 0)
    first, second = x @ W1, hidden @ W2 + hidden

    def back(gradient, before):
        positive = np.maximum(gradient, 0)
        return positive * (before > 0) if rule == "guided" else positive

    gradient = back(W3 @ row, second)
    return W1 @ back(W2 @ gradient + gradient, first)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nested", [same, jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))])
def test_the_rules_equal_two_layers_by_hand(rule, nested):
    images = rng.normal(size=(5, 6)).astype(np.float32)
    rows = np.eye(3, dtype=np.float32)

    def attribution(x, row):
        changed, count = replace_relus(nested(network), RULES[rule], x)
        assert count == 2
        value, pull = jax.vjp(changed, x)
        return value, jax.vmap(lambda row: pull(row)[0])(rows), jax.grad(lambda x: changed(x) @ row)(x)

    value, pulled, gradient = jax.jit(jax.vmap(attribution, (0, None)))(images, rows[1])
    np.testing.assert_allclose(value, jax.vmap(network)(images), atol=1e-5)
    np.testing.assert_allclose(gradient, pulled[:, 1], atol=1e-6)
    for i, x in enumerate(images):
        for c, row in enumerate(rows):
            np.testing.assert_allclose(pulled[i, c], by_hand(x, row, rule), atol=1e-5)
            assert not np.allclose(pulled[i, c], jax.grad(lambda x, c=c: network(x)[c])(x), atol=1e-2)


@pytest.mark.parametrize("rule", RULES)
def test_at_zero_and_below_a_guided_relu_passes_nothing_back(rule):
    before = jnp.asarray([-1.0, 0.0, 0.5, 2.0, 0.5])
    gradient = jnp.asarray([3.0, 3.0, 3.0, -3.0, 0.0])
    _, pull = jax.vjp(RULES[rule], before)
    expected = [0, 0, 3, 0, 0] if rule == "guided" else [3, 3, 3, 0, 0]
    np.testing.assert_array_equal(pull(gradient)[0], expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_rules_keep_the_type(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.linspace(-1, 1, 6), dtype)
        for rule in RULES.values():
            changed, count = replace_relus(lambda x: jax.nn.relu(x) * jnp.maximum(x, 0), rule, x)
            assert count == 2
            value, pull = jax.vjp(changed, x)
            assert value.dtype == pull(jnp.ones_like(x))[0].dtype == jnp.dtype(dtype)


def test_a_custom_gradient_elsewhere_is_kept():
    changed, count = replace_relus(lambda x: doubled(jax.nn.relu(x)), guided_relu, X)
    assert count == 1
    np.testing.assert_allclose(jax.grad(lambda x: changed(x).sum())(X), 5.0 * np.asarray(X > 0))


LOOPS = {
    "while": lambda x: jax.lax.while_loop(lambda c: c.sum() < 0, jax.nn.relu, x),
    "scan": lambda x: jax.lax.scan(lambda c, _: (jax.nn.relu(c), None), x, length=2)[0],
    "cond": lambda x: jax.lax.cond(x.sum() > 0, jax.jit(jax.nn.relu), lambda x: x, x),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_relu_in_a_loop_or_branch_is_refused(name):
    with pytest.raises(CaseJaxError, match=f"a ReLU lies inside a '{name}' loop or branch, .* unroll the loop"):
        replace_relus(jax.jit(LOOPS[name]), guided_relu, X)

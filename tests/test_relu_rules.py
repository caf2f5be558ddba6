"""ReLUs with another backward rule: every way to write one, what is no ReLU, and the rules against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError, tap_nnx
from case_jax.contrast import Query
from case_jax.methods import METHODS
from case_jax.tap import count_gates
from case_jax.tap.relu import deconvolution_relu, guided_relu, replace_relus

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
RULES = {"guided": guided_relu, "deconvolution": deconvolution_relu}


def same(x):
    return x


@jax.custom_jvp
def own_block(x):
    return jnp.tanh(jax.nn.relu(x) * 2.0)


@jax.custom_jvp
def own_relu(x):
    return jnp.where(x > 0, x, 0)


own_relu.defjvp(lambda primals, tangents: (own_relu(*primals), tangents[0] * (primals[0] > 0)))
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
    "clip to an interval": lambda x: jnp.clip(x, 0, 0.6),
    "clamp": lambda x: jax.lax.clamp(0.0, x, 0.6),
    "relu6": jax.nn.relu6,
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where, the other way round": lambda x: jnp.where(x <= 0, 0.0, x),
    "where not": lambda x: jnp.where(~(x < 0), x, 0.0),
    "a jit of where, its condition from outside": lambda x: jax.jit(jnp.where)(x > 0, x, 0.0),
    "lax.select": lambda x: jax.lax.select(x > 0, x, jnp.zeros_like(x)),
    "select": lambda x: jnp.select([x > 0], [x], 0),
    "times a mask": lambda x: x * (x > 0).astype(x.dtype),
    "times a step": lambda x: jnp.heaviside(x, 0) * x,
    "half of a sum": lambda x: (x + jnp.abs(x)) / 2,
    "a gradient of its own": own_relu,
    "a mask of another shape": lambda x: jnp.where((x > 0).reshape(1, 3, 4), x.reshape(1, 3, 4), 0.0)[0],
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
    assert count == (1, {})
    zeroed, _ = replace_relus(function, once_zeroed, X)
    before, after, zero = jax.jit(lambda x: (function(x), changed(x), zeroed(x)))(X)
    np.testing.assert_allclose(after, before, rtol=1e-6)
    np.testing.assert_array_equal(zero, 0)


norm = nnx.LayerNorm(4, rngs=nnx.Rngs(0))
GATES = {
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "GELU (tanh)": jax.nn.gelu,
    "GELU (logistic)": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "SiLU": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "Mish": jax.nn.mish,
    "squareplus": jax.nn.squareplus,
    "leaky ReLU": jax.nn.leaky_relu,
    "ELU": jax.nn.elu,
    "SELU": jax.nn.selu,
}
MADE_OF_MAXIMA = {
    "softplus": lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    "ELU": jax.nn.celu,
    "leaky ReLU": lambda x: jnp.maximum(x, 0) + 0.1 * jnp.minimum(x, 0),
}
NO_RELUS = {
    **GATES,
    "absolute values": jnp.abs,
    "sigmoid": jax.nn.sigmoid,
    "the negative half": lambda x: jnp.minimum(x, 0),
    "where another value is positive": lambda x: jnp.where(x[::-1] > 0, x, 0),
    "integers": lambda x: x + jnp.maximum(jnp.round(x).astype(int), 0).astype(x.dtype),
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
    assert count == (0, {name: 1} if name in GATES else {})

    @jax.jit
    def values_and_gradients(x):
        found = [jax.vjp(f, x) for f in (function, changed)]
        return [(value, pull(jnp.cos(value))[0]) for value, pull in found]

    (value, gradient), (kept, same_gradient) = values_and_gradients(X)
    np.testing.assert_allclose(kept, value, atol=1e-6)
    np.testing.assert_allclose(same_gradient, gradient, atol=1e-6)


@pytest.mark.parametrize("name", MADE_OF_MAXIMA)
def test_a_gate_that_is_made_of_maxima_is_no_relu(name):
    assert count_gates(MADE_OF_MAXIMA[name], X) == (0, {name: 1})


def test_gates_are_counted_in_calls_and_loops_and_where_a_slope_is_learned():
    slope = linen.PReLU()
    learned = slope.init(jax.random.key(0), X)

    def network(params, x):
        x = jax.lax.scan(lambda c, _: (jax.jit(lambda a: jax.nn.silu(norm(a)))(c), None), x, length=3)[0]
        return slope.apply(params, jax.checkpoint(lambda a: jax.nn.gelu(norm(jax.nn.relu(a))))(x))

    @jax.jit
    def told(params, x):  # the slope is traced, as parameters are in a compiled step
        assert count_gates(lambda x: network(params, x), x) == (1, {"SiLU": 3, "GELU (tanh)": 1, "PReLU": 1})
        return x

    told(learned, X)


class Net(nnx.Module):
    def __init__(self, *rectifiers):
        rngs = nnx.Rngs(0)
        self.c, self.d = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.h = nnx.Linear(4, 5, rngs=rngs)
        self.first, self.second = rectifiers

    def __call__(self, x):
        return self.h(self.second(self.d(self.first(self.c(x)))).mean((1, 2)))


def guided(name, *rectifiers, **options):
    image = jnp.asarray(np.random.default_rng(2).normal(size=(8, 8, 3)), jnp.float32)
    model = tap_nnx(Net(*rectifiers), "c", image)
    return METHODS[name].maps(model.view(model.params, image), Query(jnp.arange(2)), **options)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution"])
def test_methods_see_a_rectifier_as_it_may_be_written(name):
    expected = guided(name, nnx.relu, nnx.relu)
    assert np.asarray(expected).max((1, 2)).all()
    found = guided(name, lambda x: jnp.where(x > 0, x, 0), lambda x: x * (x > 0).astype(x.dtype))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.asarray(guided(name, nnx.gelu, nnx.silu)).any()


def test_gates_of_two_kinds_are_refused_unless_asked_for():
    words = (
        r"partial: got False for a network with 1 ReLU and gates of other kinds \(1 GELU \(tanh\)\), .* or partial=True"
    )
    with pytest.raises(CaseJaxError, match=words):
        guided("guided_backprop", nnx.relu, nnx.gelu)
    found = guided("guided_backprop", nnx.relu, nnx.gelu, partial=True)
    assert np.asarray(found).any()
    assert not np.allclose(found, guided("saliency", nnx.relu, nnx.gelu))


def test_relus_are_counted_where_variances_are_clamped_too():
    def network(x):
        for _ in range(3):
            x = jax.nn.relu(norm(x)) + x
        return x

    assert replace_relus(network, guided_relu, X)[1].relus == 3
    assert replace_relus(jax.jit(jax.checkpoint(network)), guided_relu, X)[1].relus == 3


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
        assert count.relus == 2
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
            assert count.relus == 2
            value, pull = jax.vjp(changed, x)
            assert value.dtype == pull(jnp.ones_like(x))[0].dtype == jnp.dtype(dtype)


def test_a_custom_gradient_elsewhere_is_kept():
    changed, count = replace_relus(lambda x: doubled(jax.nn.relu(x)), guided_relu, X)
    assert count.relus == 1
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

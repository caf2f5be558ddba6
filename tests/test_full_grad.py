"""FullGrad: its terms sum to the logit of any network, are those of the biases by hand, and make the map of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax import tag, tap_function, tap_nnx
from case_jax.contrast.sets import Query
from case_jax.imageops import resize_map
from case_jax.methods import full_grad, full_gradients

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.normal(size=(8, 8, 3)), jnp.float32)
CLASSES = Query(jnp.arange(3))


def drawn(*shape):
    return jnp.asarray(RNG.normal(0, 0.5, shape), jnp.float32)


PARAMS = {
    "first": drawn(3, 3, 3, 4), "scale": drawn(4), "mean": drawn(4), "shift": drawn(4),
    "second": drawn(3, 3, 4, 5), "bias": drawn(5), "head": drawn(5, 3), "last": drawn(3),
    "mixing": drawn(2, 4, 4),
}  # fmt: skip


def convolve(x, kernel, stride):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), "SAME", dimension_numbers=dimensions)[0]


def rest(p, z, z2=None):
    """From the first layer's pre-activation, or the second's."""
    if z2 is None:
        z2 = convolve(jax.nn.relu(z), p["second"], 2) + p["bias"]
    return jnp.maximum(z2, 0).mean((0, 1)) @ p["head"] + p["last"]


def network(p, x):
    """Convolution, normalisation by fixed statistics, ReLU; convolution with a bias, ReLU; mean and a dense layer."""
    return rest(p, tag((convolve(x, p["first"], 1) - p["mean"]) * p["scale"] + p["shift"], "a"))


def test_terms_are_the_biases_by_hand():
    model = tap_function(network, PARAMS, "a", IMAGE)

    @jax.jit
    def run(p, image):
        found = jax.vmap(lambda c: full_gradients(model.view(p, image), c))(jnp.arange(3))
        z = (convolve(image, p["first"], 1) - p["mean"]) * p["scale"] + p["shift"]
        z2 = convolve(jax.nn.relu(z), p["second"], 2) + p["bias"]
        of_norm = jax.jacrev(lambda z: rest(p, z))(z) * (p["shift"] - p["mean"] * p["scale"])
        of_bias = jax.jacrev(lambda z2: rest(p, z, z2))(z2) * p["bias"]
        of_image = jax.jacrev(lambda x: network(p, x))(image) * image
        return found, (of_image, [of_norm, of_bias, jnp.diag(p["last"])]), full_grad(model.view(p, image), CLASSES)

    found, (of_image, of_biases), maps = run(PARAMS, IMAGE)
    np.testing.assert_allclose(found.image, of_image, atol=1e-6)
    assert len(found.biases) == len(of_biases)
    for term, expected in zip(found.biases, of_biases, strict=True):
        np.testing.assert_allclose(term, expected, atol=1e-6)

    def scaled(t):
        size = np.abs(t) - np.abs(t).min()
        return (size / size.max()).sum(-1)

    for c in range(3):
        several = [resize_map(jnp.asarray(scaled(np.asarray(t[c]))), (8, 8)) for t in of_biases[:2]]
        np.testing.assert_allclose(maps[c], scaled(np.asarray(of_image[c])) + sum(several), atol=1e-4)


class Residual(nnx.Module):
    """Normalisation, pools, a shortcut, two kinds of gates and a layer normalisation."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.second = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.layer_norm = nnx.LayerNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)
        self.norm.mean[...] = jnp.asarray([0.3, -0.2, 0.1, 0.4])
        self.norm.bias[...] = jnp.asarray([0.1, 0.2, -0.3, 0.2])
        self.head.bias[...] = jnp.asarray([0.5, -1.0, 0.2])

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), (2, 2), strides=(2, 2))
        x = x + jax.nn.gelu(self.second(x)) * jax.nn.sigmoid(x)
        x = jnp.where(x > 0, x, 0.1 * x) / (1 + jnp.exp(-x)).sum(-1, keepdims=True)
        return self.head(self.layer_norm(nnx.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID").mean((1, 2))))


def scanned(p, x):
    """A loop over layers, whose bias is that of the loop as a whole."""
    a = tag(convolve(x, p["first"], 2), "a")
    mixed, _ = jax.lax.scan(lambda a, k: (jnp.tanh(a @ k + 0.3), None), a, p["mixing"])
    return mixed.max((0, 1)) @ p["head"][:4] + jnp.clip(x, -1, 0.5).sum() * jnp.asarray([0.0, 0.01, 0.02])


@pytest.mark.parametrize("kind", ["residual", "scanned"])
def test_terms_sum_to_the_logits_of_any_network(kind):
    if kind == "residual":
        model = tap_nnx(Residual(nnx.Rngs(0)), "second", IMAGE)
    else:
        model = tap_function(scanned, PARAMS, "a", IMAGE)

    @jax.jit
    def run(params, image):
        view = model.view(params, image)
        found = jax.vmap(lambda c: full_gradients(view, c))(jnp.arange(3))
        return view.logits, sum(term.reshape(3, -1).sum(1) for term in jax.tree.leaves(found))

    logits, total = run(model.params, IMAGE)
    assert float(jnp.abs(logits).max()) > 0.1
    np.testing.assert_allclose(total, logits, atol=1e-5)


def test_without_biases_it_is_the_input_times_its_gradient(toy, toy_images):
    view = toy.view(toy.params, toy_images[0])
    found = full_gradients(view, 3)
    assert found.biases == []
    np.testing.assert_allclose(found.image.sum(), view.logits[3], atol=1e-5)


def test_terms_of_tokens_and_of_dense_layers_are_no_maps():
    """Behind a convolution without bias: the map is the image's own term."""

    def tokens(p, x):
        a = tag(convolve(x, p["first"], 2), "a")
        return (a.reshape(1, -1, a.shape[-1]) + 0.5).max((0, 1)) @ p["head"][: a.shape[-1]]

    view = tap_function(tokens, PARAMS, "a", IMAGE).view(PARAMS, IMAGE)
    own = jnp.abs(full_gradients(view, 1).image)
    own = own - own.min()
    found = full_grad(view, Query(jnp.asarray([1])))[0]
    np.testing.assert_allclose(found, (own / own.max()).sum(-1), atol=1e-6)


def test_loops_that_count_and_the_largest_values_have_terms_too():
    def counting(p, x):
        a = tag(convolve(x, p["first"], 2), "a")
        a = jax.lax.fori_loop(0, 2, lambda i, c: jax.nn.relu(c * 1.5 + 0.1 * i), a)
        return jax.lax.top_k(a.reshape(-1), 3)[0]

    view = tap_function(counting, PARAMS, "a", IMAGE).view(PARAMS, IMAGE)
    total = sum(term.sum() for term in jax.tree.leaves(full_gradients(view, 0)))
    np.testing.assert_allclose(total, view.logits[0], atol=1e-5)

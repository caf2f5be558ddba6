"""Gradients of their own (`jax.custom_vjp`) behind the layer: quantisers, straight-through estimators, custom kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax import all_class_maps, case, grad_cam, tap_nnx, topk_logits
from case_jax.methods.cam import positive_maps

CLASSES = 7
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 3)), jnp.float32)


@jax.custom_vjp
def quantised(x):
    """Sixteenths, with the gradient of the identity."""
    return jnp.round(16 * x) / 16


quantised.defvjp(lambda x: (quantised(x), None), lambda _, gradient: (gradient,))


def straight_through(x):
    """The same to plain automatic differentiation."""
    return x + jax.lax.stop_gradient(jnp.round(16 * x) / 16 - x)


def looped(rule):
    return lambda x: jax.lax.scan(lambda c, _: (jnp.sin(rule(c)), None), x, length=2)[0]


class Net(nnx.Module):
    """Convolution, then one to three layers, something in front of them and in between; more classes than channels."""

    def __init__(self, front, between=None, *, pooled=True):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.first = nnx.Linear(4 if pooled else 64, 10 if between else CLASSES, rngs=rngs)
        self.last = nnx.Linear(10, CLASSES, rngs=rngs) if between else None
        self.front, self.between, self.pooled = front, between, pooled

    def behind(self, a):
        a = jax.nn.relu(self.front(a))
        z = self.first(a.mean((1, 2)) if self.pooled else a.reshape(len(a), -1))
        return z if self.last is None else self.last(jnp.tanh(self.between(z)))

    def __call__(self, x):
        return self.behind(self.conv(x))


def same(x):
    return x


NETS = {
    "no head is declared": (lambda rule: Net(jax.jit(rule)), {}),
    "in front of a pooled head": (lambda rule: Net(rule), {"linear_head": "first"}),
    "in front of a flattened head": (lambda rule: Net(rule, pooled=False), {"linear_head": "first"}),
    "behind a dense head": (lambda rule: Net(same, jax.checkpoint(rule)), {"dense_head": "first"}),
    "in a loop": (lambda rule: Net(looped(rule)), {"linear_head": "first"}),
}


@pytest.mark.parametrize("place", NETS)
def test_maps_of_all_classes_equal_gradients_by_hand(place):
    build, head = NETS[place]
    plain = build(straight_through)
    activation = plain.conv(IMAGE[None])[0]
    weights = jax.jacrev(lambda a: plain.behind(a[None])[0])(activation).mean((1, 2))
    assert np.abs(weights).max() > 0.01

    model = tap_nnx(build(quantised), "conv", IMAGE, **head)
    assert (model.head_kernel is not None) == bool(head)

    @jax.jit
    def maps(model, x):
        both = [all_class_maps(m, model, model.params, x, contrast=topk_logits(2, CLASSES)) for m in (grad_cam, case)]
        return model.view(model.params, x).class_weights(jnp.arange(CLASSES)), both

    found, (cam, contrastive) = maps(model, IMAGE)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    np.testing.assert_allclose(cam, positive_maps(activation, weights), atol=1e-5)
    assert np.isfinite(contrastive).all()
    assert np.asarray(contrastive).any()

"""Convolutions in the layout of fast CPU code: the same numbers, wherever the convolution stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax.tap.cpu_convolutions import cpu_convolutions

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(9, 8, 4)), jnp.float32)


def network(*, strides=(1, 1), groups=1, dilation=(1, 1), padding="SAME"):
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 4 // groups, 8)), jnp.float32)

    def function(x):
        y = jax.lax.conv_general_dilated(
            x[None],
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.tanh(y).sum()

    return function


KINDS = {
    "plain": network(),
    "strided": network(strides=(2, 3), padding="VALID"),
    "grouped": network(groups=2),
    "depthwise": network(groups=4),
    "dilated": network(dilation=(2, 2)),
    "under jit": jax.jit(network()),
    "under remat": jax.checkpoint(network()),
    "without one": lambda x: (x**3).sum(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_in_a_loop_and_outside(kind):
    gradient = jax.value_and_grad(KINDS[kind])
    expected = gradient(IMAGE)
    changed = cpu_convolutions(gradient)
    looped = jax.jit(lambda x: jax.lax.scan(lambda carry, _: (carry, changed(carry)), x, length=2)[1])(IMAGE)
    for found in (changed(IMAGE), jax.jit(changed)(IMAGE), jax.tree.map(lambda a: a[1], looped)):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), found, expected)


def test_a_batch_of_gradients_is_the_same():
    images = jnp.stack([IMAGE, 2 * IMAGE, -IMAGE])
    gradient = jax.grad(network(strides=(2, 2)))
    found = jax.jit(jax.vmap(cpu_convolutions(gradient)))(images)
    np.testing.assert_allclose(found, jax.vmap(gradient)(images), rtol=2e-5, atol=1e-5)


def test_the_swapped_layout_is_written_as_a_transpose():
    """What the function is for: the gradient's convolution has swapped channels, and here it no longer has."""

    def layouts(function):
        text = jax.jit(function).lower(IMAGE).as_text()
        return [
            line.split("dim_numbers = ")[1].split(", window")[0] for line in text.splitlines() if "dim_numbers" in line
        ]

    assert "[b, 0, 1, f]x[0, 1, o, i]->[b, 0, 1, f]" in layouts(jax.grad(network()))
    assert set(layouts(cpu_convolutions(jax.grad(network())))) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}

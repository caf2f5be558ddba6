"""Sparseness and complexity of masks: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from case_jax.metrics import entropy_complexity, gini


def test_a_flat_mask_is_not_sparse_and_as_complex_as_can_be():
    for value in (1.0, 0.3, 0.02):
        mask = jnp.full((12, 17), value)
        np.testing.assert_allclose(gini(mask), 0.0, atol=1e-6)
        np.testing.assert_allclose(entropy_complexity(mask), np.log(12 * 17), rtol=1e-6)


def test_one_pixel_is_as_sparse_and_simple_as_can_be():
    mask = jnp.zeros((10, 20)).at[3, 7].set(0.8)
    np.testing.assert_allclose(gini(mask), 1 - 1 / 200, atol=200 * 1e-7 * 2)
    np.testing.assert_allclose(entropy_complexity(mask), 0.0, atol=1e-6)


def test_k_equal_pixels_of_n():
    n, k = 60, 15
    mask = jnp.zeros(n).at[jnp.arange(k) * 4].set(0.5)
    np.testing.assert_allclose(gini(mask), 1 - k / n, atol=1e-5)
    np.testing.assert_allclose(entropy_complexity(mask), np.log(k), rtol=1e-6)


def test_neither_sees_scale_nor_place_and_zero_masks_have_neither():
    mask = jax.random.uniform(jax.random.key(0), (9, 9))
    shuffled = 5.0 * jax.random.permutation(jax.random.key(1), mask.ravel()).reshape(9, 9)
    for measure in (gini, entropy_complexity):
        np.testing.assert_allclose(measure(mask), measure(shuffled), atol=1e-5)
        found = jax.vmap(measure)(jnp.stack([mask, jnp.zeros((9, 9))]))
        np.testing.assert_array_equal(jnp.isnan(found), [False, True])


def test_gini_is_half_the_mean_difference_over_the_mean():
    mask = np.random.default_rng(0).random((6, 7)).astype(np.float32)
    a = mask.ravel()
    direct = np.abs(a[:, None] - a[None]).mean() / (2 * a.mean())
    np.testing.assert_allclose(gini(jnp.asarray(mask)), direct, rtol=1e-4)

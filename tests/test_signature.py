"""Signature Activation and the image signature: stored numbers, identities of the cosine transform, and what rounding must not decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import tag, tap_function
from case_jax.contrast.sets import Query
from case_jax.imageops import finish_maps
from case_jax.methods import METHODS, image_signature, signature_activation
from case_jax.methods.signature_activation import cosines, signature

ORTHONORMAL = [
    [0.584878, 0.382081, 0.225243, 0.651779, 1.259445],
    [1.449376, 0.162917, 0.831112, 0.262076, 1.472293],
    [1.079409, 2.123631, 0.482695, 0.771110, 1.463012],
    [1.820762, 2.561801, 1.108665, 0.495837, 0.811879],
]
RESCALED = [
    [0.175899, 0.091361, 0.025981, 0.203787, 0.457099],
    [0.536274, 0, 0.278544, 0.041336, 0.545827],
    [0.382050, 0.817344, 0.133303, 0.253532, 0.541958],
    [0.691090, 1, 0.394245, 0.138781, 0.270527],
]
NOTEBOOK = [
    [0.279172, 0.083073, 0, 0.176192, 0.461773],
    [0.512500, 0.038390, 0.258714, 0.041189, 0.530143],
    [0.338770, 0.789026, 0.151028, 0.255395, 0.687946],
    [0.810692, 1, 0.339535, 0.150055, 0.302611],
]


@pytest.fixture(scope="module")
def stored():
    """The map of which the numbers are, made by the formula that came with them."""
    i, j, k = np.meshgrid(np.arange(4), np.arange(5), np.arange(3), indexing="ij")
    return jnp.asarray(np.maximum(0, np.sin(1.3 * i + 0.7 * j**2 + 2.1 * k + 0.4 * i * j) + 0.2), jnp.float32)


def rescaled(map_):
    return (map_ - map_.min()) / (map_.max() - map_.min())


def test_stored_numbers(stored):
    np.testing.assert_allclose(signature(stored), ORTHONORMAL, atol=2e-6)
    np.testing.assert_allclose(rescaled(signature(stored)), RESCALED, atol=2e-6)
    np.testing.assert_allclose(rescaled(signature(stored, reference_scaling=True)), NOTEBOOK, atol=2e-6)


def test_the_transform_is_scipy_s():
    fft = pytest.importorskip("scipy.fft")
    x = np.random.default_rng(0).normal(size=(6, 9))
    np.testing.assert_allclose(cosines(6) @ x @ cosines(9).T, fft.dctn(x, norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(cosines(9) @ cosines(9).T, np.eye(9), atol=1e-14)


def test_the_sum_counts_signs_that_are_not_zero(stored):
    one = jnp.zeros((4, 5, 1)).at[..., 0].set(jnp.asarray(np.outer(cosines(4)[2], cosines(5)[1]), jnp.float32))
    np.testing.assert_allclose(signature(stored).sum(), 20, rtol=1e-6)
    np.testing.assert_allclose(signature(one).sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(signature(one), one[..., 0] ** 2, atol=1e-6)


def test_rounding_decides_no_sign(stored):
    constant = jnp.full((7, 7, 1), 0.3)
    np.testing.assert_allclose(signature(constant), 1 / 49, rtol=1e-5)
    np.testing.assert_array_equal(signature(jnp.zeros((7, 7, 2))), 0)
    dead = jnp.concatenate([stored, jnp.zeros((4, 5, 1))], -1)
    np.testing.assert_allclose(signature(dead), 0.75 * signature(stored), rtol=1e-5)
    noise = jnp.asarray(1e-9 * np.random.default_rng(0).normal(size=(7, 7, 3)), jnp.float32)
    both = jnp.concatenate([jnp.broadcast_to(constant, (7, 7, 2)), jnp.ones((7, 7, 1)).at[:, :3].set(0)], -1)
    np.testing.assert_array_equal(signature(both), signature(both + noise))


def test_magnitudes_do_not_count_and_axes_may_be_exchanged(stored):
    np.testing.assert_allclose(signature(stored * jnp.array([1, 1e-3, 50])), signature(stored), atol=1e-6)
    turned = stored.swapaxes(0, 1)
    np.testing.assert_allclose(signature(turned), signature(stored).T, atol=1e-6)
    notebook = signature(turned, reference_scaling=True)
    assert np.abs(notebook - signature(stored, reference_scaling=True).T).max() > 0.1


def view_of(image, activation=None):
    """A view whose layer is the image, or says something else whatever the image."""

    def function(params, x):
        a = tag(x if activation is None else activation + 0 * x.mean(), "a")
        return a.mean((0, 1)) @ params

    channels = (image if activation is None else activation).shape[-1]
    model = tap_function(function, jnp.ones((channels, 4)), "a", image)
    return model.view(model.params, image)


def test_the_map_is_that_of_the_layer_and_the_same_for_every_class(stored):
    maps = signature_activation(view_of(jnp.ones((8, 8, 3)), stored), Query(jnp.array([0, 3, 9])))
    np.testing.assert_allclose(rescaled(maps[0]), RESCALED, atol=2e-6)
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.isnan(maps[2]).all()
    flat = signature_activation(view_of(jnp.ones((8, 8, 3)), jnp.full((7, 7, 2), 0.7)), Query(jnp.arange(2)))
    np.testing.assert_array_equal(flat, 0)


@pytest.mark.parametrize("side", [48, 160])
def test_the_image_signature_finds_what_is_sparse_and_knows_no_classifier(side):
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    waves = np.cos(np.pi * (2 * y + 1) * 3 / (2 * side)) + np.cos(np.pi * (2 * x + 1) * 2 / (2 * side))
    image = np.repeat(0.3 * waves[..., None], 3, -1).astype(np.float32)
    low, high = 5 * side // 8, 6 * side // 8
    image[low:high, low:high] += 1
    run = jax.jit(lambda x, layer: image_signature(view_of(x, layer), Query(jnp.arange(2))))
    maps, other = (run(jnp.asarray(image), jnp.full((3, 3, 2), value)) for value in (0.0, 5.0))
    np.testing.assert_array_equal(maps, other)
    finished = finish_maps(maps, (side, side))[0]
    assert maps.shape[1:] == (min(side, 64),) * 2
    assert finished[low:high, low:high].mean() > 4 * finished.mean()
    np.testing.assert_array_equal(image_signature(view_of(jnp.full((16, 16, 3), 0.3)), Query(jnp.arange(1))), 0)


def test_what_tables_know_of_both():
    assert METHODS["signature_activation"].class_blind
    assert METHODS["image_signature"].control


def test_a_signal_s_signature_is_that_of_a_picture_of_one_row():
    signal = jnp.asarray(np.random.default_rng(3).normal(size=(16, 3)), jnp.float32)
    np.testing.assert_allclose(signature(signal[None])[0], signature(signal), atol=1e-6)
    np.testing.assert_allclose(signature(signal).sum(), 16, rtol=1e-5)  # Parseval, no sign is 0

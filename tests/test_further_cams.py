"""ShapleyCAM, FEM and KPCA-CAM against stored maps of pytorch-grad-cam, and against their formulas written plainly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, grad_cam, tag, tap_function
from case_jax.contrast.sets import Query
from case_jax.methods import fem, kpca_cam, shapley_cam
from case_jax.methods.kpca_cam import kernel_component


def convolve(x, kernel, stride):
    dimensions, pad = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), pad, dimension_numbers=dimensions)[0]


def stored_network(p, x):
    """Three convolutions with ReLUs, each tagged, then a tanh, so that the tail is curved."""
    x = tag(jax.nn.relu(convolve(x, p["conv1"], 2)), "first")
    x = tag(jax.nn.relu(convolve(x, p["conv2"], 2)), "second")
    x = tag(jax.nn.relu(convolve(x, p["conv3"], 1)), "third")
    return jnp.tanh(x).mean((0, 1)) @ p["head"]


@pytest.fixture(scope="module")
def stored(golden):
    arrays = golden("further_cams")
    params = {name: jnp.asarray(arrays[name]) for name in ("conv1", "conv2", "conv3", "head")}
    return arrays, params


def tap_stored(stored, layer):
    arrays, params = stored
    return tap_function(stored_network, params, layer, jnp.asarray(arrays["images"][0]))


def maps_of_stored(stored, layer, methods):
    arrays, params = stored
    model = tap_stored(stored, layer)

    @jax.jit
    @jax.vmap
    def run(image, targets):
        view = model.view(params, image)
        return view.logits, {name: method(view, Query(targets)) for name, method in methods.items()}

    logits, maps = run(jnp.asarray(arrays["images"]), jnp.asarray(arrays["targets"]))
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)
    return jax.tree.map(np.asarray, maps)


def assert_close(found, expected, share=2e-5):
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, atol=share * scale, rtol=0)


def assert_close_up_to_sign(found, signed):
    """Each image's map is the positive part of the stored component or of its negative, as the sign is another rule's."""
    for map_, component in zip(found, signed, strict=True):
        parts = [np.maximum(sign * component, 0) for sign in (1, -1)]
        assert_close(map_, min(parts, key=lambda part: np.abs(part - map_).max()))


def test_stored_maps(stored):
    methods = {
        "shapley": shapley_cam,
        "shapley_rest": partial(shapley_cam, residual_softmax=True),
        "fem": partial(fem, binary=False),
        "kpca": kpca_cam,
        "kpca_gamma": partial(kpca_cam, gamma=0.3),
        "grad_cam": grad_cam,
    }
    arrays, found = stored[0], maps_of_stored(stored, "third", methods)
    for name in ("shapley", "shapley_rest"):
        assert_close(found[name], np.maximum(arrays[name], 0))
    assert np.abs(found["shapley"] - found["grad_cam"]).max() > 0.05 * found["grad_cam"].max()
    assert_close(found["fem"][:, 0], np.maximum(arrays["fem"], 0))
    for name in ("kpca", "kpca_gamma"):
        assert_close_up_to_sign(found[name][:, 0], arrays[name])


def test_stored_kernel_components_of_many_positions(stored):
    found = maps_of_stored(stored, "first", {"kpca_1": kpca_cam})
    assert_close_up_to_sign(found["kpca_1"][:, 0], stored[0]["kpca_1"])


def test_shapley_cam_by_the_whole_hessian(stored):
    arrays, params = stored
    image, model = jnp.asarray(arrays["images"][0]), tap_stored(stored, "third")

    @jax.jit
    def run(image):
        view = model.view(params, image)

        def score(a):
            return view.tail(a)[2]

        hessian = jax.hessian(score)(view.activation)
        curved = jnp.einsum("abcdef,def->abc", hessian, view.activation, precision="highest")
        weights = (jax.grad(score)(view.activation) - curved / 2).mean((0, 1))
        signed = jnp.einsum("hwk,k->hw", view.activation, weights, precision="highest")
        maps = [shapley_cam(view, Query(jnp.asarray([2])), sign=sign)[0] for sign in (1, -1)]
        return signed, maps

    signed, maps = run(image)
    for sign, found in zip((1, -1), maps, strict=True):
        assert_close(found, np.maximum(sign * signed, 0))


def test_shapley_cam_of_a_piecewise_linear_tail_is_grad_cam(toy, toy_images):
    @jax.jit
    def run(image):
        view = toy.view(toy.params, image)
        query = Query(jnp.arange(5))
        return grad_cam(view, query), shapley_cam(view, query), shapley_cam(view, query, residual_softmax=True)

    plain, same, curved = run(toy_images[0])
    assert_close(same, plain, share=1e-6)
    assert float(jnp.abs(curved - plain).max()) > 1e-2 * float(plain.max())


def test_fem_by_hand():
    rng = np.random.default_rng(0)
    a = np.abs(rng.normal(size=(5, 6, 4))).astype(np.float32)
    a[..., 3] = 0.5  # never above its own threshold
    model = tap_function(lambda p, x: tag(x, "a").mean((0, 1)) @ p, jnp.ones((4, 3)), "a", jnp.asarray(a))
    found = jax.jit(lambda x: fem(model.view(model.params, x), Query(jnp.arange(2)), deviations=1.5))(jnp.asarray(a))
    expected = sum(m.mean() * (m > m.mean() + 1.5 * m.std()) for m in np.moveaxis(a[..., :3], -1, 0))
    assert_close(found, np.broadcast_to(expected, (2, 5, 6)), share=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_kernel_component_by_decomposition(scale):
    """At scale 30 the kernel is a matrix of signs, with eigenvalues far below zero."""
    rows = np.random.default_rng(1).normal(size=(20, 3)) * scale
    rows -= rows.mean(0)
    kernel = np.tanh(rows @ rows.T / 3 + 1)
    centre = np.eye(20) - 1 / 20
    values, vectors = np.linalg.eigh(centre @ kernel @ centre)
    expected = vectors[:, -1] * np.sqrt(values[-1])
    found = np.asarray(jax.jit(partial(kernel_component, gamma=1 / 3))(jnp.asarray(rows, jnp.float32)))
    assert min(np.abs(found - s * expected).max() for s in (1, -1)) < 1e-4 * np.abs(expected).max()


def test_where_an_eigenvalue_below_zero_is_the_furthest_the_largest_is_taken():
    rows = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    kernel, centre = np.tanh(-0.8 * rows @ rows.T + 1), np.eye(12) - 1 / 12
    values, vectors = np.linalg.eigh(centre @ kernel.astype(float) @ centre)
    assert -values[0] > 1.5 * values[-1] > 1
    found = np.asarray(jax.jit(partial(kernel_component, gamma=-0.8))(jnp.asarray(rows)))
    expected = vectors[:, -1] * np.sqrt(values[-1])
    assert min(np.abs(found - s * expected).max() for s in (1, -1)) < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("method", [fem, kpca_cam])
def test_an_activation_without_variation_has_a_zero_map(method):
    image = jnp.full((4, 4, 3), 0.7)
    model = tap_function(lambda p, x: tag(x, "a").mean((0, 1)) @ p, jnp.ones((3, 3)), "a", image)
    run = jax.jit(lambda x: method(model.view(model.params, x), Query(jnp.arange(2))))
    np.testing.assert_array_equal(run(image), 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (partial(fem, deviations=-1.0), r"deviations: got -1\.0; accepted: a number of at least 0"),
        (partial(kpca_cam, gamma=0.0), r"gamma: got 0\.0; accepted: a number above 0"),
    ],
)
def test_options_out_of_range(toy, toy_images, call, words):
    with pytest.raises(CaseJaxError, match=words):
        call(toy.view(toy.params, toy_images[0]), Query(jnp.arange(2)))

"""Input attributions: stored numbers of captum, closed forms on functions with known gradients, and the edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, all_class_maps, ask, tag, tap_function
from case_jax.methods import guided_backprop, input_x_gradient, integrated_gradients, occlusion, saliency, smooth_grad
from case_jax.methods.deconvolution import deconvolution
from case_jax.methods.integrated_gradients import convergence_delta, integrated_gradients_attribution, quadrature
from case_jax.methods.occlusion import occlusion_attribution, windows
from case_jax.methods.saliency import saliency_attribution
from case_jax.methods.smooth_grad import smooth_grad_attribution
from experiments.parity.attributions import attribution_lines
from experiments.parity.goldens import network

SHAPE, CLASSES = (9, 7, 3), 4
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(CLASSES, *SHAPE)), jnp.float32)
IMAGE = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE), jnp.float32)
TARGETS = jnp.asarray([2, 0])


def power(exponent):
    """Logit c is `Σ w_c x^exponent` over all colours of all pixels."""

    def function(params, x):
        a = tag(x**exponent, "power")
        return jnp.einsum("chwd,hwd->c", params, a, precision=jax.lax.Precision.HIGHEST)

    return tap_function(function, WEIGHTS, "power", IMAGE)


def of(attribution, model=None, image=IMAGE, targets=TARGETS, **options):
    model = model or power(1)
    run = jax.jit(lambda params, x, classes: attribution(model.view(params, x), classes, **options))
    return run(model.params, image, jnp.asarray(targets))


def maps(method, model=None, image=IMAGE, targets=TARGETS, key=0, **options):
    def asked(view, targets):
        return method(view, ask(view, targets, key=jax.random.key(key)), **options)

    return of(asked, model, image, targets)


def test_stored_attributions(golden):
    """Everything that captum computed, signed, on the stored ResNet."""
    lines = list(attribution_lines(network("resnet_bottleneck", golden("resnet_bottleneck")), golden("attributions")))
    assert len(lines) == 10
    assert [line for line in lines if line.verdict != "pass"] == []


# gradients


def test_the_gradient_of_a_cubic():
    expected = 3 * WEIGHTS[TARGETS] * IMAGE**2
    np.testing.assert_allclose(of(saliency_attribution, power(3)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps(saliency, power(3)), jnp.abs(expected).max(-1), rtol=1e-5)
    products = jax.nn.relu((expected * IMAGE).sum(-1))
    np.testing.assert_allclose(maps(input_x_gradient, power(3)), products, rtol=1e-4, atol=1e-5)


# integrated gradients


@pytest.mark.parametrize("exponent", [1, 2, 3, 5])
@pytest.mark.parametrize("baseline", [None, 0.5, [0.1, -0.2, 0.3]])
def test_gauss_legendre_is_exact_for_polynomials(exponent, baseline):
    """Three nodes integrate `x^5`; the attributions are each pixel's own change of its term."""
    found = of(integrated_gradients_attribution, power(exponent), steps=3, baseline=baseline)
    start = np.broadcast_to(0.0 if baseline is None else np.asarray(baseline, np.float32), SHAPE)
    expected = WEIGHTS[TARGETS] * (IMAGE**exponent - start**exponent)
    np.testing.assert_allclose(found, expected, atol=2e-6 * float(jnp.abs(expected).max()))
    model = power(exponent)
    delta = of(lambda view, t: convergence_delta(view, t, found, baseline=baseline), model)
    np.testing.assert_allclose(delta, 0, atol=2e-6 * float(jnp.abs(expected).sum()))


def test_captums_trapezoid_misses_a_share_of_the_change():
    found = of(integrated_gradients_attribution, steps=8, rule="riemann_trapezoid")
    np.testing.assert_allclose(found, (1 - 1 / 8) * WEIGHTS[TARGETS] * IMAGE, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_trapezoid"])
def test_nodes_lie_on_the_way_and_weights_sum_up(rule):
    nodes, weights = quadrature(rule, 16)
    assert ((nodes >= 0) & (nodes <= 1)).all()
    assert (np.diff(nodes) > 0).all()
    assert weights.sum() == pytest.approx(1 if rule == "gausslegendre" else 1 - 1 / 16)


def test_the_map_is_the_positive_part_of_the_sum_over_colours():
    expected = jax.nn.relu((WEIGHTS[TARGETS] * IMAGE**2).sum(-1))
    np.testing.assert_allclose(maps(integrated_gradients, power(2), steps=4), expected, atol=1e-5)


# SmoothGrad


def test_a_constant_gradient_needs_no_smoothing():
    np.testing.assert_allclose(maps(smooth_grad, samples=5), jnp.abs(WEIGHTS[TARGETS]).max(-1), rtol=1e-5)


def test_smooth_grad_is_the_mean_gradient_over_the_keys_noise():
    """Of a quadratic: `2 w (x + mean noise)`, with the noise written out."""
    key = jax.random.key(5)
    noise = jnp.stack([jax.random.normal(k, SHAPE) for k in jax.random.split(key, 7)])
    deviation = 0.2 * (IMAGE.max() - IMAGE.min())
    expected = 2 * WEIGHTS[TARGETS] * (IMAGE + deviation * noise.mean(0))
    found = of(smooth_grad_attribution, power(2), key=key, samples=7, noise=0.2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, of(smooth_grad_attribution, power(2), key=jax.random.key(6), samples=7, noise=0.2))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("method", [partial(smooth_grad, samples=7), partial(integrated_gradients, steps=7)])
def test_summed_gradients_do_not_depend_on_the_batch(toy, toy_images, method, batch):
    expected = maps(method, toy, toy_images[0])
    found = maps(partial(method, batch=batch), toy, toy_images[0])
    np.testing.assert_allclose(found, expected, atol=2e-6 * float(expected.max()))


# occlusion


def test_windows_cover_every_pixel_and_the_last_is_cut_off():
    covers = windows(10, 4, 3)
    assert covers.sum(1).tolist() == [4, 4, 4]
    assert np.flatnonzero(covers[2]).tolist() == [6, 7, 8, 9]
    cut = windows(9, 4, 3)
    assert [np.flatnonzero(row).tolist() for row in cut] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8]]


@pytest.mark.parametrize(("window", "stride"), [(3, 2), ((4, 2), (3, 1)), (1, 1), ((9, 7), (9, 7))])
def test_occlusion_of_a_linear_function(window, stride):
    """Hiding a window takes away what its pixels add; written as a loop over windows."""
    (h, w), (dh, dw) = (np.broadcast_to(size, 2) for size in (window, stride))
    terms = np.asarray((WEIGHTS[TARGETS] * (IMAGE - 0.3)).sum(-1), np.float64)
    total, count = np.zeros_like(terms), np.zeros(SHAPE[:2])
    for top in range(0, SHAPE[0] - h + dh, dh):
        for left in range(0, SHAPE[1] - w + dw, dw):
            hidden = (slice(None), slice(top, top + h), slice(left, left + w))
            total[hidden] += terms[hidden].sum((1, 2), keepdims=True)
            count[hidden[1:]] += 1
    found = of(occlusion_attribution, window=window, stride=stride, baseline=0.3)
    np.testing.assert_allclose(found, total / count, atol=3e-5)  # differences of logits near 10
    shown = maps(occlusion, window=window, stride=stride, baseline=0.3)
    np.testing.assert_array_equal(shown, np.maximum(found, 0))


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_occlusion_does_not_depend_on_the_batch(toy, toy_images, batch):
    expected = maps(occlusion, toy, toy_images[0])
    np.testing.assert_allclose(maps(occlusion, toy, toy_images[0], batch=batch), expected, atol=1e-5)


# edges

EVERY = [saliency, input_x_gradient, integrated_gradients, smooth_grad, guided_backprop, deconvolution, occlusion]


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.__name__)
def test_a_class_that_does_not_exist_has_no_map(toy, toy_images, method):
    found = maps(method, toy, toy_images[0], [1, 5, -1])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.__name__)
def test_a_constant_logit_has_an_empty_map(method):
    model = tap_function(lambda p, x: p + 0 * tag(x, "image").sum(), jnp.arange(3.0), "image", IMAGE)
    np.testing.assert_array_equal(maps(method, model), 0)


@pytest.mark.parametrize("method", [guided_backprop, deconvolution], ids=lambda m: m.__name__)
def test_a_network_without_relus_has_nothing_to_rectify(method):
    def function(params, x):
        return jnp.einsum("chwd,hwd->c", params, jax.nn.gelu(tag(x, "image")))

    model = tap_function(function, WEIGHTS, "image", IMAGE)
    np.testing.assert_array_equal(maps(method, model), 0)
    assert float(maps(saliency, model).max()) > 0


BAD = [
    (integrated_gradients, {"rule": "trapezoid"}, "rule: 'trapezoid' is unknown"),
    (integrated_gradients, {"steps": 0}, "steps: got 0"),
    (integrated_gradients, {"steps": 1, "rule": "riemann_trapezoid"}, "steps: got 1"),
    (integrated_gradients, {"batch": 0}, "batch: got 0"),
    (integrated_gradients, {"baseline": [1.0, 2.0]}, r"baseline: got shape \(2,\)"),
    (smooth_grad, {"samples": 0}, "samples: got 0"),
    (smooth_grad, {"noise": -0.1}, r"noise: got -0\.1"),
    (smooth_grad, {"batch": 0}, "batch: got 0"),
    (occlusion, {"window": 0}, "window: got 0"),
    (occlusion, {"window": 8}, "window: got 8"),
    (occlusion, {"window": 2, "stride": 3}, "stride: got 3"),
    (occlusion, {"baseline": [1.0, 2.0]}, r"baseline: got shape \(2,\)"),
    (occlusion, {"batch": 0}, "batch: got 0"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_are_refused(method, options, message):
    with pytest.raises(CaseJaxError, match=message):
        all_class_maps(partial(method, **options), power(1), WEIGHTS, IMAGE, key=jax.random.key(0))


def test_smooth_grad_asks_for_a_key():
    with pytest.raises(CaseJaxError, match=r"key: .* key=jax\.random\.key\(0\)"):
        all_class_maps(smooth_grad, power(1), WEIGHTS, IMAGE)

"""Class activation maps against their formulas written plainly, against stored maps, and at the edges."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from case_jax import METHODS, CaseJaxError, ask, tag, tap_function
from case_jax.contrast.sets import Query
from case_jax.imageops import is_degenerate
from case_jax.methods import (
    ablation_cam,
    eigen_cam,
    eigen_grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    score_cam,
    xgrad_cam,
)
from case_jax.methods.ablation_cam import reference_values
from case_jax.methods.cam import principal_map
from case_jax.tap import tag_head_input, tag_head_output
from case_jax.tap.view import View
from experiments.parity.goldens import network

CLASSES, CHANNELS = 5, 6
OF_GRADIENTS = (hires_cam, grad_cam_plus_plus, xgrad_cam, layer_cam, eigen_grad_cam)
ALL = (*OF_GRADIENTS, eigen_cam, score_cam, ablation_cam)


def numbers(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def convolve(x, kernel, stride):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), "SAME", dimension_numbers=dimensions)[0]


MIXING = {
    "kernel": numbers(3, 3, 3, CHANNELS, seed=0) / 3,
    "mix": numbers(3, 3, CHANNELS, CHANNELS, seed=1) / 4,
    "head": numbers(CHANNELS, CLASSES, seed=2),
}


def mixing(p, x):
    """A tapped convolution with negative values, then a ReLU, another convolution and a tanh: nothing is channelwise."""
    a = tag(convolve(x, p["kernel"], 2), "features")
    return jnp.tanh(convolve(jax.nn.relu(a), p["mix"], 1)).mean((0, 1)) @ p["head"]


def saturating(p, x):
    """Without the ReLU: here it matters what a channel is set to."""
    return jnp.tanh(tag(convolve(x, p["kernel"], 2), "features")).mean((0, 1)) @ p["head"]


def tap_mixing(**options):
    return tap_function(mixing, MIXING, "features", numbers(8, 8, 3, seed=3), **options)


def compiled(methods, model, **options):
    """Maps of some classes of one image or a stack of them, by several methods in one program."""

    def one(params, image, targets):
        view = model.view(params, image)
        return {method.__name__: method(view, Query(targets), **options) for method in methods}

    @jax.jit
    def run(params, images, targets):
        return (one if images.ndim == 3 else jax.vmap(one, (None, 0, None)))(params, images, targets)

    return lambda images, targets: jax.tree.map(np.asarray, run(model.params, images, jnp.asarray(targets)))


def maps_of(method, model, image, targets, **options):
    return compiled([method], model, **options)(image, targets)[method.__name__]


def facts(model, image):
    """Logits, activation and every class's gradient of one image, in float64."""

    @jax.jit
    def run(image):
        view = model.view(model.params, image)
        return view.logits, view.activation, jax.jacrev(view.tail)(view.activation)

    return [np.asarray(a, np.float64) for a in run(image)]


def relu(x):
    return np.maximum(x, 0)


def weighted(weights, a):
    return relu(sum(w * a[:, :, k] for k, w in enumerate(weights)))


def plain_hires(a, g):
    return relu(sum(g[:, :, k] * a[:, :, k] for k in range(a.shape[-1])))


def plain_plus_plus(a, g):
    weights = []
    for k in range(a.shape[-1]):
        total, weight = a[:, :, k].sum(), 0.0
        for slope in g[:, :, k].flat:
            share = slope**2 / (2 * slope**2 + total * slope**3 + 1e-6) if slope != 0 else 0.0
            weight += max(slope, 0) * share
        weights.append(weight)
    return weighted(weights, a)


def plain_xgrad(a, g):
    return weighted([(g[:, :, k] * a[:, :, k]).sum() / (a[:, :, k].sum() + 1e-7) for k in range(a.shape[-1])], a)


def plain_layer(a, g):
    return relu(sum(relu(g[:, :, k]) * a[:, :, k] for k in range(a.shape[-1])))


def plain_principal(values):
    """Signed projection on the first right singular vector, by NumPy's singular value decomposition in float64."""
    rows = values.reshape(-1, values.shape[-1])
    centred = rows - rows.mean(0)
    projection = centred @ np.linalg.svd(centred)[2][0]
    return (projection * np.sign(np.corrcoef(projection, rows.sum(1))[0, 1])).reshape(values.shape[:2])


PLAIN = {
    hires_cam: plain_hires,
    grad_cam_plus_plus: plain_plus_plus,
    xgrad_cam: plain_xgrad,
    layer_cam: plain_layer,
    eigen_cam: lambda a, g: relu(plain_principal(a)),
    eigen_grad_cam: lambda a, g: relu(plain_principal(g * a)),
}


def assert_close(found, expected, share=1e-5, name=""):
    """Maps are unscaled: differences count as shares of the largest value."""
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, atol=share * scale, rtol=0, err_msg=name)


@pytest.fixture(scope="module")
def mixed():
    """Facts of one image at the layer of the mixing network."""
    return facts(tap_mixing(), numbers(8, 8, 3, seed=4))


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_maps_from_gradients_follow_their_formula(mixed, chunk):
    _, a, g = mixed
    assert a.min() < 0
    found = compiled(PLAIN, tap_mixing(chunk=chunk))(numbers(8, 8, 3, seed=4), range(CLASSES))
    for method, plain in PLAIN.items():
        expected = np.stack([plain(a, g[c]) for c in range(CLASSES)])
        assert_close(found[method.__name__], expected, name=method.__name__)


def test_the_same_behind_a_relu_with_a_declared_head(toy, toy_images):
    _, a, g = facts(toy, toy_images[2])
    found = compiled(PLAIN, toy)(toy_images[2], [1, 4])
    for method, plain in PLAIN.items():
        assert_close(found[method.__name__], np.stack([plain(a, g[c]) for c in (1, 4)]), name=method.__name__)


def test_a_class_that_does_not_exist_has_no_map():
    run = compiled(ALL, tap_mixing())
    some, other = run(numbers(8, 8, 3, seed=4), [2, CLASSES, -1]), run(numbers(8, 8, 3, seed=4), [2, 1, 0])
    for name, maps in some.items():
        assert np.isnan(maps[1:]).all(), name
        np.testing.assert_array_equal(maps[0], other[name][0])
        assert np.isfinite(other[name]).all(), name


def test_float64_stays_float64():
    narrow = compiled(ALL, tap_mixing())(numbers(8, 8, 3, seed=4), [0, 3])
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: np.asarray(p, np.float64), MIXING)
        image = jnp.asarray(numbers(8, 8, 3, seed=4), jnp.float64)
        wide = compiled(ALL, tap_function(mixing, params, "features", image))(image, [0, 3])
    for name, maps in wide.items():
        assert (maps.dtype, narrow[name].dtype) == (np.float64, np.float32), name
        assert_close(narrow[name], maps, name=name)


# Stored maps of the reference, from its own activations and gradients


NETWORKS = ("resnet_bottleneck", "resnet_basic", "vgg_bn", "densenet", "convnext")
STORED = {
    "hirescam": hires_cam,
    "gradcampp": grad_cam_plus_plus,
    "xgradcam": xgrad_cam,
    "layercam": layer_cam,
    "eigencam": eigen_cam,
    "eigengradcam": eigen_grad_cam,
}


def view_of_arrays(activation, gradients, targets):
    """A view that knows the gradients of some of ten classes, and no network."""
    table = jnp.zeros((10, *activation.shape)).at[targets].set(gradients)

    def pull(cotangent):
        return jnp.einsum("c,chwk->hwk", cotangent, table, precision="highest")

    def unknown(*_):
        raise AssertionError("this view has no network")

    nothing = jnp.zeros((64, 64, 3))
    return View(nothing, jnp.zeros(10), activation, unknown, unknown, pull, unknown, None, 64)


def bound_of(golden, network, name):
    """The stored numbers' own bound for another float32 implementation."""
    return max(2e-5, 20 * float(golden(f"{network}_maps")[f"relerr/{name}"].max()))


def assert_stored(found, stored, bound, *, signs=(1,)):
    """Non-negative maps against stored ones before their relu, each relative to its largest magnitude."""
    assert found.shape == stored.shape
    for map_, reference in zip(found.reshape(-1, *found.shape[2:]), stored.reshape(-1, *stored.shape[2:]), strict=True):
        error = min(np.abs(map_ - relu(sign * reference)).max() for sign in signs)
        assert error <= bound * np.abs(reference).max()


@pytest.mark.parametrize("network", NETWORKS)
def test_stored_maps_from_stored_gradients(golden, network):
    arrays, stored = golden(network), golden(f"{network}_maps")
    activations = jnp.asarray(np.moveaxis(arrays["act"], 1, -1))
    gradients = jnp.asarray(np.moveaxis(arrays["grads"], 2, -1))

    @jax.jit
    @jax.vmap
    def run(activation, gradients, targets):
        view = view_of_arrays(activation, gradients, targets)
        return {name: method(view, Query(targets)) for name, method in STORED.items()}

    found = jax.tree.map(np.asarray, run(activations, gradients, jnp.asarray(arrays["targets"])))
    terms = arrays["act"][:, None] * arrays["grads"]
    cancelled = np.abs(terms.sum(2)).max((2, 3)) / np.abs(terms).sum(2).max((2, 3))
    if network == "convnext":
        # the layer lies in front of a LayerNorm: the stored map is noise, and ours is zero
        assert cancelled.max() < 1e-6
        np.testing.assert_array_equal(found.pop("hirescam"), 0)
    else:
        assert cancelled.min() > 0.1  # ten thousand times what would be taken for rounding
    for name, maps in found.items():
        signs = (1, -1) if name.startswith("eigen") else (1,)
        assert_stored(maps, stored[f"lowres/{name}"], bound_of(golden, network, name), signs=signs)
    for name, values in {"eigencam": arrays["act"][:, None] + 0 * terms, "eigengradcam": terms}.items():
        if (network, name) == ("convnext", "eigengradcam"):
            continue  # the sum is rounding noise, and the sign another rule's
        signed = np.array([[plain_principal(np.moveaxis(v, 0, -1).astype(float)) for v in image] for image in values])
        assert_stored(found[name], signed, 2e-5)


# The networks themselves, for the methods that run them


@pytest.fixture(scope="module")
def tapped_network(golden):
    """A stored network tapped at its layer, and its images."""

    @cache
    def build(name):
        filled = network(name, golden(name))
        images = filled.images()
        return filled.tap_declared(images[0]) or filled.tap(images[0]), images

    return build


@pytest.mark.parametrize(
    "network", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("resnet_") else n for n in NETWORKS]
)
def test_stored_maps_of_methods_that_run_the_network(golden, tapped_network, network):
    (model, images), stored = tapped_network(network), golden(f"{network}_maps")

    def run(image, targets):
        view = model.view(model.params, image)
        query, every = ask(view, targets), view.activation.shape[-1]
        ablated = ablation_cam(view, query, reference=True, batch=every)
        return {"scorecam": score_cam(view, query, batch=every), "ablationcam": ablated}

    found = jax.jit(jax.vmap(run))(images, jnp.asarray(golden(network)["targets"]))
    for name, maps in found.items():
        assert_stored(np.asarray(maps), stored[f"lowres/{name}"], bound_of(golden, network, name))


# Eigen-CAM


of_stack = jax.jit(jax.vmap(partial(principal_map, dtype=jnp.float32)))


@pytest.mark.parametrize("shape", [(3, 4, 30), (5, 6, 7), (4, 4, 16), (1, 6, 4), (6, 1, 40)])
def test_the_first_component_is_that_of_a_singular_value_decomposition(shape):
    for scale in (1e-25, 1.0, 1e25):
        values = numbers(3, *shape, seed=0) * np.float32(scale)
        found = np.asarray(of_stack(values))
        for values_, map_ in zip(np.asarray(values, np.float64), found, strict=True):
            assert_close(map_, plain_principal(values_))
            assert (map_ * values_.sum(-1)).sum() > 0
        np.testing.assert_array_equal(of_stack(-values), -found)


def test_where_the_sum_over_channels_cancels_the_furthest_value_is_positive():
    half = numbers(4, 5, 6, seed=0)
    values = jnp.concatenate([half, -half], axis=-1)
    for given in (values, -values):
        found = np.asarray(of_stack(given[None])[0])
        assert found.max() == np.abs(found).max()
        assert found.min() < 0


PATTERNS = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)
"""Three orthogonal maps of 2×2 positions, each of mean zero."""


def with_singular_values(values, channels):
    """A map (2, 2, K) whose three first singular values are twice these, those of the three patterns."""
    padding = np.zeros((4, channels - 3), np.float32)
    return np.hstack([PATTERNS.T * np.asarray(values, np.float32), padding]).reshape(2, 2, channels)


def test_the_first_component_is_found_where_the_second_is_as_large_but_for_the_last_digit():
    """Squares of channels are exact here: what is left of the second is what the squarings leave."""
    just_less = 1 - np.finfo(np.float32).eps
    values = np.stack([with_singular_values(v, 3) for v in ((1, just_less, 0.5), (just_less, 0.5, 1))])
    parts = np.asarray(of_stack(values)).reshape(2, 4) @ PATTERNS.T / 4
    np.testing.assert_allclose(np.abs(parts), [[1, 0, 0], [0, 0, 1]], atol=1e-6)


def direction_error(shape, gap):
    """Largest error of a map, as a share of its largest value, whose second singular value is smaller by this share."""
    rng = np.random.default_rng(0)
    height, width, channels = shape
    rows = rng.normal(size=(height * width, 4))
    left = np.linalg.qr(rows - rows.mean(0))[0]
    right = np.linalg.qr(rng.normal(size=(channels, 4)))[0]
    values = ((left * [1, 1 - gap, 0.7, 0.1]) @ right.T).astype(np.float32).reshape(shape)
    found, expected = (
        f(v) for f, v in ((lambda v: of_stack(v[None])[0], values), (plain_principal, values.astype(float)))
    )
    return min(np.abs(found - expected).max(), np.abs(found + expected).max()) / np.abs(expected).max()


@pytest.mark.parametrize("shape", [(6, 6, 64), (14, 14, 32)])
def test_the_error_grows_as_the_two_largest_come_closer(shape):
    """As it must in float32: with one over their difference, and no faster."""
    for gap in (0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        assert direction_error(shape, gap) < 3e-7 + 3e-8 / gap


@pytest.mark.parametrize("channels", [3, 9], ids=["channels", "positions"])
def test_of_two_equally_large_components_the_map_is_one_of_their_plane(channels):
    found = np.asarray(of_stack(with_singular_values((1, 0.5, 1), channels)[None])).ravel()
    parts = PATTERNS @ found / 4
    np.testing.assert_allclose(np.hypot(parts[0], parts[2]), 1, rtol=1e-6)  # as long as either
    np.testing.assert_allclose(parts[1], 0, atol=1e-6)


def test_a_value_that_is_not_finite_leaves_no_map():
    for broken in (np.nan, np.inf):
        for shape in ((2, 3, 9), (3, 4, 2)):
            assert np.isnan(of_stack(numbers(1, *shape, seed=0).at[0, 1, 2, 1].set(broken))).all()


@pytest.mark.parametrize("shape", [(2, 3, 9), (3, 4, 2)])
def test_the_first_component_has_a_gradient(shape):
    with jax.enable_x64(True):
        values = jnp.asarray(np.random.default_rng(0).normal(size=shape))
        check_grads(jax.jit(partial(principal_map, dtype=jnp.float64)), (values,), order=1, rtol=1e-5)


@jax.jit
def principal_maps(activation, gradients):
    view = view_of_arrays(activation, gradients, jnp.arange(2))
    return eigen_cam(view, Query(jnp.arange(2))), eigen_grad_cam(view, Query(jnp.arange(2)))


def test_an_activation_without_variation_has_an_empty_map():
    for constant in (0.0, 1.0):
        for maps in principal_maps(jnp.full((3, 4, 5), constant), jnp.ones((2, 3, 4, 5))):
            np.testing.assert_array_equal(maps, jnp.zeros((2, 3, 4)))


# HiResCAM in front of a normalisation


def normalised(p, x):
    a = tag(x @ p["in"], "a")
    centred = a - a.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + jnp.asarray(1e-6, a.dtype)) * p["gain"]
    return jnp.tanh(y @ p["hidden"]).mean((0, 1)) @ p["head"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_in_front_of_a_layer_norm_hires_cam_is_exactly_zero(dtype):
    shapes = {"in": (3, 24), "gain": (24,), "hidden": (24, 12), "head": (12, CLASSES)}
    params = {name: numbers(*shape, seed=i).astype(dtype) for i, (name, shape) in enumerate(shapes.items())}
    model = tap_function(normalised, params, "a", numbers(5, 5, 3, seed=9).astype(dtype))
    images = numbers(6, 5, 5, 3, seed=8).astype(dtype)
    _, a, g = facts(model, images[0])
    assert np.abs((a * g).sum(-1)).max() > 0  # not zero by itself
    found = compiled([hires_cam, eigen_grad_cam, layer_cam], model)(images, range(CLASSES))
    np.testing.assert_array_equal(found["hires_cam"], 0)
    assert bool(is_degenerate(jnp.asarray(found["hires_cam"])).all())
    for name in ("eigen_grad_cam", "layer_cam"):
        assert np.isfinite(found[name]).all()
        assert (found[name].max((2, 3)) > 0).all()


# Score-CAM


def enlarged(plane, size, align):
    """Bilinear interpolation, pixel by pixel."""

    def position(i, source, target):
        if align == "corners":
            return i * (source - 1) / (target - 1)
        return min(max((i + 0.5) * source / target - 0.5, 0), source - 1)

    result, sizes = np.zeros(size), list(zip(plane.shape, size, strict=True))
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = (position(n, *lengths) for n, lengths in zip((i, j), sizes, strict=True))
            top, left = int(y), int(x)
            bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
            above = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
            below = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
            result[i, j] = above * (1 - y + top) + below * (y - top)
    return result


@pytest.mark.parametrize("align", ["corners", "half-pixel"])
def test_score_cam_follows_its_formula(align):
    model, image = tap_mixing(), numbers(8, 8, 3, seed=5)
    _, a, _ = facts(model, image)
    scores = []
    for k in range(CHANNELS):
        mask = enlarged(a[:, :, k], (8, 8), align)
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        scores.append(np.asarray(model.apply(model.params, image * jnp.asarray(mask[..., None], jnp.float32))))
    shares = np.exp(np.stack(scores, dtype=np.float64))
    expected = np.stack([weighted(shares[:, c] / shares[:, c].sum(), a) for c in range(CLASSES)])
    for batch in (None, 4) if align == "corners" else (None,):
        found = maps_of(score_cam, model, image, range(CLASSES), align=align, batch=batch)
        assert_close(found, expected)


def test_score_cam_does_not_pass_images_again_for_more_targets_and_holds_one_batch_of_them():
    model = tap_mixing(chunk=2)

    def program(targets):
        def run(image):
            view = model.view(model.params, image)
            return score_cam(view, Query(targets))

        return str(jax.make_jaxpr(run)(numbers(8, 8, 3, seed=5)))

    one, many = program(jnp.arange(1)), program(jnp.arange(CLASSES))
    assert one.count("conv_general_dilated[") == many.count("conv_general_dilated[") > 0
    assert "f32[2,8,8,3]" in many
    assert f"f32[{CHANNELS},8,8" not in many


def test_score_cam_of_constant_channels_sees_only_the_mean_image():
    model = tap_function(lambda p, x: tag(x * 0 + 2, "a").mean((0, 1)) @ p, jnp.ones((3, 4)), "a", jnp.ones((4, 4, 3)))
    maps = maps_of(score_cam, model, jnp.ones((4, 4, 3)), [0, 1])
    np.testing.assert_allclose(maps, 2.0, rtol=1e-6)  # three equal weights of 1/3, and A = 2


# Ablation-CAM


def plain_ablation(model, image, values):
    """Every channel in turn set to its value, one run of the tail each."""
    view = model.view(model.params, image)
    logits, a = np.asarray(view.logits, np.float64), view.activation
    without = np.stack([np.asarray(view.tail(a.at[..., k].set(value))) for k, value in enumerate(values)])
    weights = (logits - without) / logits
    return np.stack([weighted(weights[:, c], np.asarray(a, np.float64)) for c in range(len(logits))])


@pytest.mark.parametrize("batch", [None, 4])
def test_ablation_cam_follows_its_formula(batch):
    model, image = tap_mixing(), numbers(8, 8, 3, seed=6)
    found = maps_of(ablation_cam, model, image, range(CLASSES), batch=batch)
    assert_close(found, plain_ablation(model, image, np.zeros(CHANNELS)))
    logits, _, _ = facts(model, image)
    assert logits.min() < 0 < logits.max()  # both signs


HEADED = {
    "kernel": numbers(3, 3, 3, CHANNELS, seed=0) / 3,
    "shift": jnp.abs(numbers(CHANNELS, seed=1)),
    "old": numbers(3, 2, seed=2),
    "pooled": numbers(CHANNELS, CLASSES, seed=3),
    "flat": numbers(16 * CHANNELS, CLASSES, seed=4),
    "hidden": numbers(16 * CHANNELS, 9, seed=5),
    "last": numbers(9, CLASSES, seed=6),
    "joined": numbers(CHANNELS + 2, CLASSES, seed=7),
}


def features(p, x):
    """With a shift in front of the ReLU: a channel of zeros still has features."""
    return jax.nn.relu(tag(convolve(x, p["kernel"], 2), "features") + p["shift"])


def pooled(p, x):
    return tag_head_input(features(p, x).mean((0, 1))) @ p["pooled"] + 0.5


def flat(p, x):
    return tag_head_input(features(p, x).reshape(-1)) @ p["flat"]


def hidden(p, x):
    z = tag_head_output(tag_head_input(features(p, x).reshape(-1)) @ p["hidden"] + 0.3)
    return jax.nn.relu(z) @ p["last"] - 0.2


def joined(p, x):
    new = features(p, x).mean((0, 1))
    return tag_head_input(jnp.concatenate([(x @ p["old"]).mean((0, 1)), new])) @ p["joined"]


@pytest.mark.parametrize(
    ("function", "kernel", "channels"),
    [(pooled, "pooled", None), (flat, "flat", None), (hidden, "hidden", None), (joined, "joined", (2, CHANNELS + 2))],
    ids=["pooled", "flattened", "more layers behind", "some of the channels"],
)
def test_the_closed_form_of_ablation_cam_is_that_of_setting_channels_to_zero(function, kernel, channels):
    image = numbers(8, 8, 3, seed=7)
    model = tap_function(
        function, HEADED, "features", image, head_kernel=lambda p: p[kernel], head_channels=channels, chunk=4
    )
    expected = plain_ablation(model, image, np.zeros(CHANNELS))
    assert_close(maps_of(ablation_cam, model, image, range(CLASSES)), expected)
    assert_close(maps_of(ablation_cam, replace(model, head_kernel=None), image, range(CLASSES)), expected)


@pytest.mark.parametrize("network", ["vgg_bn", "densenet"])
def test_the_closed_form_of_ablation_cam_on_networks(tapped_network, network):
    model, images = tapped_network(network)
    assert model.head_kernel is not None
    found = maps_of(ablation_cam, model, images[1], range(10))
    run_again = maps_of(ablation_cam, replace(model, head_kernel=None), images[1], range(10))
    assert_close(found, run_again)


def test_the_closed_form_runs_no_tail():
    image = numbers(8, 8, 3, seed=7)
    model = tap_function(pooled, HEADED, "features", image, head_kernel=lambda p: p["pooled"])
    view = model.view(model.params, image)

    def never(_):
        raise AssertionError("the tail was run")

    query = ask(view, jnp.arange(2))
    assert jax.eval_shape(lambda: ablation_cam(replace(view, tail=never), query)).shape == (2, 4, 4)
    with pytest.raises(AssertionError, match="the tail was run"):
        jax.eval_shape(lambda: ablation_cam(replace(view, tail=never, head=None), query))


def test_a_logit_of_zero_has_no_shares_and_an_empty_map():
    def function(p, x):
        logits = tag(x, "a").mean((0, 1)) @ p
        return logits - logits * jnp.asarray([0.0, 1.0])

    model = tap_function(function, numbers(3, 2, seed=0), "a", numbers(4, 4, 3, seed=1))
    maps = maps_of(ablation_cam, model, numbers(4, 4, 3, seed=1), [0, 1])
    assert maps[0].max() > 0
    np.testing.assert_array_equal(maps[1], 0.0)


def reference_loop(activation, batch):
    """What the reference's code does, line for line: one copy of the activation per channel of a batch, altered in turn."""
    channels = activation.shape[-1]
    values = np.zeros(channels, activation.dtype)
    for start in range(0, channels, batch):
        some = range(start, min(start + batch, channels))
        output = np.stack([activation] * len(some))
        for slot, k in enumerate(some):
            output[slot, ..., k] = 0 if output.min() == 0 else output.min() - activation.dtype.type(1e7)
            values[k] = output[slot, 0, 0, k]
    return values


@pytest.mark.parametrize("channels", [1, 32, 70])
def test_the_references_values_are_those_of_its_loop(channels):
    values_of = jax.jit(reference_values)
    for activation in (numbers(3, 3, channels, seed=0), jax.nn.relu(numbers(3, 3, channels, seed=0)) * 0.5):
        for shifted in (activation, activation + 1):
            found = np.asarray(values_of(shifted))
            np.testing.assert_array_equal(found, reference_loop(np.asarray(shifted), 32))


def test_the_references_values_pass_through_the_tail():
    model, image = tap_function(saturating, MIXING, "features", numbers(8, 8, 3, seed=3)), numbers(8, 8, 3, seed=6)
    _, a, _ = facts(model, image)
    expected = plain_ablation(model, image, reference_loop(a.astype(np.float32), 32))
    assert_close(maps_of(ablation_cam, model, image, range(CLASSES), reference=True), expected)
    assert not np.allclose(expected, plain_ablation(model, image, np.zeros(CHANNELS)))


# Options, and what a reader is told


@pytest.mark.parametrize("method", [score_cam, ablation_cam], ids=lambda m: m.__name__)
def test_an_impossible_batch_is_refused(method):
    with pytest.raises(CaseJaxError, match="batch: got 0; accepted: a number of copies of at least 1"):
        maps_of(method, tap_mixing(), numbers(8, 8, 3, seed=0), [0], batch=0)


def test_an_unknown_alignment_is_refused():
    with pytest.raises(CaseJaxError, match=r"align: 'corner' is unknown\. Did you mean 'corners'\?"):
        maps_of(score_cam, tap_mixing(), numbers(8, 8, 3, seed=0), [0], align="corner")


def test_what_is_slow_and_what_is_class_blind():
    assert METHODS["score_cam"].slow
    assert not METHODS["ablation_cam"].slow
    assert METHODS["eigen_cam"].class_blind
    assert not METHODS["eigen_grad_cam"].class_blind

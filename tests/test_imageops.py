"""Resizing, scaling, degenerate maps and fills, against jax.image, cv2's stored numbers and hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError
from case_jax.imageops import (
    FILLS,
    blur,
    filling,
    finish_maps,
    is_degenerate,
    normalise_image,
    rescale_map,
    resize_map,
)

finish = jax.jit(finish_maps, static_argnames="shape")
blurred = jax.jit(blur, static_argnames="sigma")
NETWORKS = ("resnet_bottleneck", "resnet_basic", "vgg_bn", "densenet", "convnext")


@pytest.mark.parametrize(
    ("source", "target"),
    [((7, 7), (224, 224)), ((7, 5), (224, 160)), ((1, 1), (8, 8)), ((2, 3), (5, 3)), ((12, 12), (48, 48))],
)
def test_resize_is_bilinear_with_half_pixel_centres(source, target):
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(3, *source)), jnp.float32)
    expected = jax.image.resize(maps, (3, *target), "linear", antialias=False)
    np.testing.assert_allclose(resize_map(maps, target), expected, atol=1e-6, rtol=0)


def test_resize_to_the_same_shape_returns_the_map_itself():
    saliency = jnp.ones((4, 6))
    assert resize_map(saliency, (4, 6)) is saliency


def test_resize_downwards_does_not_antialias():
    # every second-pair average: half-pixel centres of a halving lie between two pixels
    np.testing.assert_allclose(resize_map(jnp.asarray([[0.0, 2.0, 4.0, 10.0]]), (1, 2)), [[1.0, 7.0]])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "gradcampp"])
def test_scaling_and_resizing_equal_cv2_and_grad_cam(golden, network, method):
    maps = golden(f"{network}_maps")
    once = resize_map(rescale_map(maps[f"lowres/{method}"]), (64, 64))
    # grad-cam scales a second time after resizing, finish_maps does not
    np.testing.assert_allclose(rescale_map(once), maps[f"final/{method}"], atol=2e-6, rtol=0)


def test_rescale_by_hand():
    scaled = rescale_map(jnp.asarray([[[1.0, 3.0], [5.0, -2.0]], [[2.0, 2.0], [4.0, 3.0]]]))
    np.testing.assert_allclose(scaled, [[[0.2, 0.6], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.5]]], atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_rescaling_a_constant_map_gives_zeros(value):
    np.testing.assert_array_equal(rescale_map(jnp.full((3, 3), value)), np.zeros((3, 3)))


DEGENERATE = {
    "zero": (np.zeros((3, 3)), True),
    "constant": (np.full((3, 3), 2.0), True),
    "negative": (-np.arange(9.0).reshape(3, 3) - 1, True),
    "one NaN": (np.where(np.eye(3)[0] * np.eye(3), np.nan, 1.0 + np.arange(9.0).reshape(3, 3)), True),
    "one infinity": (np.where(np.eye(3)[0] * np.eye(3), np.inf, np.arange(9.0).reshape(3, 3)), True),
    "minus infinity": (np.where(np.eye(3)[0] * np.eye(3), -np.inf, np.arange(9.0).reshape(3, 3)), True),
    "one positive": (np.eye(3)[0] * np.eye(3), False),
    "tiny": (np.eye(3) * 1e-30, False),
    "positive, nearly constant": (1 + np.eye(3) * 1e-6, False),
}


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_maps_are_recognised_and_finish_as_zeros(kind):
    saliency, expected = DEGENERATE[kind]
    saliency = jnp.asarray(saliency, jnp.float32)
    assert bool(is_degenerate(saliency)) is expected
    finished = np.asarray(finish(saliency, shape=(6, 6)))
    assert finished.shape == (6, 6)
    assert np.isfinite(finished).all()
    if expected:
        np.testing.assert_array_equal(finished, 0.0)


def test_one_degenerate_map_does_not_touch_its_neighbours():
    good, bad = jnp.asarray(np.random.default_rng(0).random((3, 3)), jnp.float32), jnp.full((3, 3), jnp.nan)
    both = finish(jnp.stack([good, bad]), shape=(9, 9))
    np.testing.assert_array_equal(is_degenerate(jnp.stack([good, bad])), [False, True])
    np.testing.assert_allclose(both[0], finish(good, shape=(9, 9)), atol=1e-7)
    np.testing.assert_array_equal(both[1], 0.0)


def test_finished_maps_lie_in_the_unit_interval():
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(20, 5, 7)), jnp.float32)
    finished = finish(maps, shape=(31, 30))
    assert finished.min() >= 0
    assert 0.5 < finished.max() <= 1


@pytest.mark.parametrize("shape", [32, (32,), (32, 32, 3)])
def test_a_size_that_is_no_pair_is_refused(shape):
    with pytest.raises(CaseJaxError, match=r"shape: got .*; accepted: the pair \(height, width\)"):
        finish_maps(jnp.zeros((4, 4)), shape)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_finished_maps_do_not_depend_on_the_scale(scale):
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 7)), jnp.float32)
    # 1e-7 + max makes a difference of 1e-7 / max: 1e-4 at the smaller scale
    np.testing.assert_allclose(finish(scale * maps, shape=(10, 14)), finish(maps, shape=(10, 14)), atol=3e-4)


def test_normalised_images_by_hand():
    image = np.asarray([[[0, 255, 51]]], np.uint8)
    np.testing.assert_allclose(
        normalise_image(jnp.asarray(image), (0.5, 0.5, 0.1), (0.5, 0.25, 0.1)), [[[-1, 2, 1]]], atol=1e-6
    )


def fill(kind, image, *, key=0):
    return filling(kind, image, black=jnp.asarray([-2.0, -1.0, -0.5]), key=jax.random.key(key))


@pytest.mark.parametrize("kind", FILLS)
def test_fills_keep_shape_and_type(kind):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(12, 10, 3)), jnp.float32)
    other = jax.jit(lambda x: fill(kind, x))(image)
    assert (other.shape, other.dtype) == (image.shape, image.dtype)
    np.testing.assert_allclose(other, fill(kind, image), atol=1e-6)


def test_fill_values():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(30, 40, 3)), jnp.float32)
    np.testing.assert_array_equal(fill("mean", image), 0.0)
    np.testing.assert_array_equal(fill("zero-pixel", image), np.broadcast_to([-2.0, -1.0, -0.5], image.shape))
    noise = np.asarray(fill("noise", image))
    assert abs(noise.mean()) < 0.1  # 3,600 standard normals: six standard errors
    assert abs(noise.std() - 1) < 0.1
    assert (noise != fill("noise", image, key=1)).any()
    np.testing.assert_allclose(fill("blur", image), blurred(image, sigma=4.0), atol=1e-6)


def test_blur_keeps_constants_and_equals_the_gaussian_sum():
    constant = jnp.full((20, 20, 2), 3.0)
    np.testing.assert_allclose(blurred(constant, sigma=2.0), constant, rtol=1e-6)
    point = jnp.zeros((41, 41, 1)).at[20, 20].set(1.0)
    smooth = np.asarray(blurred(point, sigma=2.0))[..., 0]
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    kernel /= kernel.sum()
    np.testing.assert_allclose(smooth[14:27, 14:27], np.outer(kernel, kernel), atol=1e-7)
    assert np.count_nonzero(smooth) == 13 * 13  # truncated at three σ


def test_blur_mirrors_at_the_edges():
    line = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    kernel /= kernel.sum()
    mirrored = np.pad(line, 3, mode="reflect")
    expected = sum(kernel[i] * kernel[j] * mirrored[i : i + 9, j : j + 9] for i in range(7) for j in range(7))
    np.testing.assert_allclose(
        np.asarray(blurred(jnp.asarray(line)[..., None], sigma=1.0))[..., 0], expected, atol=1e-6
    )


def test_an_unknown_fill_suggests_the_nearest():
    with pytest.raises(CaseJaxError, match=r"fill: 'blurr' is unknown\. Did you mean 'blur'"):
        fill("blurr", jnp.zeros((4, 4, 3)))


@pytest.mark.parametrize(("kind", "missing"), [("noise", "key"), ("zero-pixel", "black")])
def test_a_fill_asks_for_what_it_needs(kind, missing):
    with pytest.raises(CaseJaxError, match=f"^{missing}: the fill '{kind}' needs"):
        filling(kind, jnp.zeros((4, 4, 3)))

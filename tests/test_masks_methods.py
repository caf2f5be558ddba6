"""RISE, Opti-CAM, meaningful and extremal perturbation: reference numbers, and classifiers whose evidence is known."""

import sys
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, all_class_maps, ask, tag, tap_function
from case_jax.methods import extremal_perturbation, meaningful_perturbation, opti_cam, rise
from case_jax.methods.extremal_perturbation import Bumps, blur_pyramid, bumps_of, misfit_gradient, perturbed
from case_jax.methods.rise import _mirrored_interpolation, random_mask

SIDE = 24
CORNERS = ((slice(2, 9), slice(2, 9)), (slice(14, 22), slice(13, 22)))


@partial(jax.jit, static_argnums=(0, 5))
def compiled(method, model, image, targets, key, options):
    view = model.view(model.params, image)
    return method(view, ask(view, targets, key=key), **dict(options))


def maps(method, model, image, targets, *, key=0, **options):
    """Traced once for each method, network and options: `by_windows(8.0)` is always the same network."""
    targets, key = jnp.asarray(targets), jax.random.key(key)
    return np.asarray(compiled(method, model, jnp.asarray(image), targets, key, tuple(options.items())))


def windows():
    """One window a class, and a third class that sees nothing."""
    seen = np.zeros((3, SIDE, SIDE), np.float32)
    for c, corner in enumerate(CORNERS):
        seen[(c, *corner)] = 1 / seen[(c, *corner)].size
    return jnp.asarray(seen)


@cache
def by_windows(gain):
    """Logit c is `gain` times the mean square of the image's first channel inside window c."""

    def function(params, x):
        a = tag(x[..., :1] ** 2, "square")
        return gain * jnp.einsum("chw,hw->c", params, a[..., 0])

    return tap_function(function, windows(), "square", jnp.zeros((SIDE, SIDE, 3)))


@pytest.fixture(scope="module")
def chequered():
    """An image of ±1 whose blur is nearly zero."""
    board = (-1.0) ** np.add.outer(np.arange(SIDE), np.arange(SIDE))
    return np.repeat(board[..., None], 3, axis=2).astype(np.float32)


@pytest.fixture(scope="module")
def network(golden):
    """The network and image of the stored numbers."""
    numbers = golden("masks")

    def convolve(x, kernel, stride):
        return jax.lax.conv_general_dilated(
            x[None], kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    def function(params, x):
        a = tag(convolve(jax.nn.relu(convolve(x, params["kernel1"], 2)), params["kernel2"], 1), "features")
        return jax.nn.relu(a).mean((0, 1)) @ params["head"]

    params = {name: jnp.asarray(numbers[name]) for name in ("kernel1", "kernel2", "head")}
    image = jnp.asarray(numbers["image"])
    return tap_function(function, params, "features", image), image


# RISE


@pytest.mark.parametrize("number", [0, 1])
def test_rise_interpolates_as_scikit_image(golden, number):
    grid, upsampled = (golden("masks")[f"rise/{number}/{what}"] for what in ("grid", "upsampled"))
    rows, columns = (_mirrored_interpolation(len(grid), side) for side in upsampled.shape)
    np.testing.assert_allclose(rows @ grid @ columns.T, upsampled, atol=1e-6)


def test_rise_masks_are_crops_of_interpolated_grids():
    """Six pixels a cell: interpolated to 48 and cropped to 42 at one of 36 places."""
    mask = np.asarray(random_mask(jax.random.key(4), (42, 42), cells=7, keep=0.5, dtype=jnp.float32))
    assert mask.shape == (42, 42)
    matrix = _mirrored_interpolation(7, 48)
    errors = []
    for top in range(6):
        for left in range(6):
            rows, columns = matrix[top : top + 42], matrix[left : left + 42]
            grid = np.rint(np.linalg.pinv(rows) @ mask @ np.linalg.pinv(columns).T)
            errors.append(np.abs(rows @ np.clip(grid, 0, 1) @ columns.T - mask).max())
    assert min(errors) < 1e-6
    assert sorted(errors)[1] > 0.01  # no other place fits


def test_every_pixel_of_a_rise_mask_is_kept_with_the_same_probability():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda k: random_mask(k, (13, 17), cells=5, keep=0.3, dtype=jnp.float32))(keys)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    # a value in [0, 1] of mean 0.3 varies by at most 0.46: five standard errors of 4000
    np.testing.assert_allclose(drawn.mean(0), 0.3, atol=5 * 0.46 / np.sqrt(4000))


def test_rise_is_the_sum_over_its_masks(network):
    """Written out in one piece, from the masks that the key gives."""
    model, image = network
    found = maps(rise, model, image, [2, 0], masks=10, cells=4, keep=0.4)
    keys = [jax.random.fold_in(jax.random.key(0), n) for n in range(10)]
    drawn = np.stack([random_mask(k, (SIDE, SIDE), cells=4, keep=0.4, dtype=jnp.float32) for k in keys])
    logits = np.stack([model.apply(model.params, image * m[..., None]) for m in drawn]).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, np.einsum("nt,nhw->thw", shares[:, [2, 0]], drawn) / (10 * 0.4), rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 10, 64])
def test_rise_does_not_depend_on_the_batch(network, batch):
    model, image = network
    expected = maps(rise, model, image, [2, 0], masks=10)
    np.testing.assert_allclose(maps(rise, model, image, [2, 0], masks=10, batch=batch), expected, rtol=2e-6)


def test_rise_depends_on_the_key_and_serves_all_targets_with_one_set_of_masks(network):
    model, image = network
    first = maps(rise, model, image, [2, 0], masks=20)
    np.testing.assert_array_equal(first, maps(rise, model, image, [2, 0], masks=20))
    assert not np.allclose(first, maps(rise, model, image, [2, 0], masks=20, key=1))
    together = maps(rise, model, image, range(4), masks=20)
    np.testing.assert_allclose(together[[2, 0]], first, rtol=1e-6)
    np.testing.assert_allclose(together.sum(0).std() / together.sum(0).mean(), 0, atol=0.2)  # the masks' own sum


def test_rise_is_unbiased():
    """Where the probability is that of one pixel's mask, the map is `E[m(a) m(b)] / keep`, from exact sums over the grids."""
    cells, keep, pixel = 2, 0.5, (1, 2)
    side = 4

    def function(params, x):
        seen = tag(x, "image")[pixel][0]
        return jnp.stack([jnp.log(seen), jnp.log1p(-seen)]) + params

    image = jnp.full((side, side, 3), 0.5)
    model = tap_function(function, jnp.zeros(2), "image", image)
    matrix = _mirrored_interpolation(cells, (cells + 1) * 2)
    expected, places = np.zeros((side, side)), 0
    for top in range(2):
        for left in range(2):
            rows, columns = matrix[top : top + side], matrix[left : left + side]
            for bits in range(2 ** (cells * cells)):
                grid = np.array([(bits >> i) & 1 for i in range(cells * cells)], float).reshape(cells, cells)
                mask = rows @ grid @ columns.T
                expected += 0.5 * mask[pixel] * mask / keep
                places += 1
    expected /= places
    found = maps(rise, model, image, [0], masks=8000, cells=cells, keep=keep, batch=1000)[0]
    error = 5 * 0.5 / np.sqrt(8000)
    np.testing.assert_allclose(found, expected, atol=error)
    assert np.ptp(expected) > 2 * error  # so that a map of equal values would fail


def test_rise_finds_the_window(chequered):
    found = maps(rise, by_windows(6.0), chequered, [0, 1], masks=2000, batch=500)
    for c, corner in enumerate(CORNERS):
        assert found[c][corner].mean() > 1.05 * found[c].mean()
        assert found[c][corner].mean() > found[1 - c][corner].mean()


# Opti-CAM


def test_opti_cam_equals_the_stored_optimum(golden, network):
    model, image = network
    expected = golden("masks")["opti/map"]
    found = maps(opti_cam, model, image, [1], steps=30)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_opti_cam_takes_the_channel_that_shows_the_evidence():
    """Two channels light up one half each; the class looks at the left half alone."""
    left = np.zeros((8, 8, 2), np.float32)
    left[:, :4, 0], left[:, 4:, 1] = 1, 1

    def function(params, x):
        a = tag(jnp.asarray(left) * x.mean(), "halves")
        return jnp.stack([x[:, :4].sum(), x[:, 4:].sum()]) + 0 * a.sum() * params

    image = jnp.ones((8, 8, 3))
    model = tap_function(function, jnp.zeros(()), "halves", image)
    found = maps(opti_cam, model, image, [0, 1])
    np.testing.assert_array_less(found[0][:, 4:], found[0][:, :4])  # any such weights give the best mask, 1 and 0
    np.testing.assert_allclose(found[1], found[0][:, ::-1], atol=1e-5)


def masked_logit(model, image, saliency, target):
    up = np.asarray(jax.image.resize(saliency, image.shape[:2], "linear", antialias=False), np.float64)
    mask = (up - up.min()) / (up.max() - up.min())
    return float(model.apply(model.params, jnp.asarray(np.asarray(image) * mask[..., None], jnp.float32))[target])


def test_more_steps_of_opti_cam_never_lower_its_logit(network):
    model, image = network
    activation = jax.nn.relu(model.view(model.params, image).activation)
    for target in range(4):
        reached = [masked_logit(model, image, np.asarray(activation.mean(-1)), target)]
        for steps in (1, 5, 25):
            reached.append(masked_logit(model, image, maps(opti_cam, model, image, [target], steps=steps)[0], target))
        assert all(later >= before - 1e-5 for before, later in pairwise(reached))
        assert reached[-1] > reached[0] + 0.01


def test_opti_cam_of_a_layer_without_positive_values_is_zero():
    model = tap_function(lambda p, x: p * tag(-(x**2), "below").mean((0, 1)), jnp.ones(3), "below", jnp.ones((6, 6, 3)))
    np.testing.assert_array_equal(maps(opti_cam, model, jnp.ones((6, 6, 3)), [0, 2], steps=3), 0)


# meaningful perturbation


def removed_probability(model, image, region, target):
    """What is left of the probability when the region is blurred away; the chequered image blurs to nearly nothing."""
    left = jnp.asarray(image * (1 - region[..., None]))
    return float(jax.nn.softmax(model.apply(model.params, left))[target])


def test_meaningful_perturbation_removes_the_window(chequered):
    model = by_windows(8.0)
    found = maps(meaningful_perturbation, model, chequered, [0, 1, 2])
    before = jax.nn.softmax(model.apply(model.params, jnp.asarray(chequered)))
    for c, corner in enumerate(CORNERS):
        elsewhere = np.ones((SIDE, SIDE), bool)
        elsewhere[corner] = False
        assert found[c][corner].mean() > 0.4
        assert found[c][elsewhere].mean() < 0.1 * found[c][corner].mean()
        assert removed_probability(model, chequered, found[c], c) < 0.3 * float(before[c])
    assert found.max() <= 1


def test_a_dearer_area_makes_the_region_smaller(chequered):
    sizes = [
        maps(meaningful_perturbation, by_windows(8.0), chequered, [0], area=area, steps=100).sum()
        for area in (0, 0.005, 0.1)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_dearer_variation_makes_the_region_smoother(chequered):
    rough = [
        np.abs(np.diff(maps(meaningful_perturbation, by_windows(8.0), chequered, [0], variation=v, steps=100)[0])).max()
        for v in (0, 10.0)
    ]
    assert rough[1] < 0.7 * rough[0]


def test_jitter_changes_the_region_the_same_way_for_every_class(network):
    model, image = network
    still, moved = (maps(meaningful_perturbation, model, image, [1, 2], steps=10, jitter=j) for j in (1, 4))
    assert not np.allclose(still, moved, atol=1e-3)
    np.testing.assert_allclose(
        moved, maps(meaningful_perturbation, model, image, [1, 2], steps=10, jitter=4, key=7), atol=1e-6
    )
    np.testing.assert_allclose(
        moved[:1], maps(meaningful_perturbation, model, image, [1], steps=10, jitter=4), atol=1e-5
    )


# extremal perturbation


@pytest.fixture
def module():
    return sys.modules["case_jax.methods.extremal_perturbation"]  # the package's attribute is the function


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "sigma"), [("square", (24, 24), 2, 6.0), ("oblong", (24, 17), 3, 7.0)]
)
def test_bumps_equal_torchray(golden, name, shape, spacing, sigma):
    numbers = golden("masks")
    bumps = bumps_of(shape, spacing, sigma)
    full = bumps.full(jnp.asarray(numbers[f"bumps/{name}/heights"]))
    np.testing.assert_allclose(bumps.cropped(full), numbers[f"bumps/{name}/cropped"], atol=5e-6)
    if name == "oblong":
        np.testing.assert_allclose(full, numbers["bumps/oblong/full"], atol=5e-6)


def test_a_bump_written_out():
    """One height of 1 among zeros: at every pixel the smooth maximum of its value and of zeros."""
    bumps = bumps_of((10, 8), 2, 3.0)
    assert isinstance(bumps, Bumps)
    full = np.asarray(bumps.full(jnp.zeros(bumps.grid_shape).at[2, 1].set(1.0)))
    count = len(bumps.weights) ** 2
    for row, column in [(4 + 3, 2 + 3), (4 + 3, 2 + 5), (1, 4), (10, 6)]:
        z = np.hypot(row - 3 - 4, column - 3 - 2) / 3
        v = np.exp(-2 * max(z - 0.5, 0) ** 2)
        assert full[row, column] == pytest.approx(v * np.exp(20 * v) / (np.exp(20 * v) + count - 1), rel=1e-4)


def test_the_perturbed_image_equals_torchray(golden):
    numbers = golden("masks")
    pyramid = blur_pyramid(jnp.asarray(numbers["image"]), 20.0)
    np.testing.assert_allclose(
        perturbed(pyramid, jnp.asarray(numbers["perturbed/mask"])), numbers["perturbed/image"], atol=1e-6
    )
    np.testing.assert_array_equal(perturbed(pyramid, jnp.ones((SIDE, SIDE))), numbers["image"])
    np.testing.assert_array_equal(perturbed(pyramid, jnp.zeros((SIDE, SIDE))), pyramid[0])


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_forty_steps_equal_torchray(golden, network, module, monkeypatch, variant):
    """From torchray's own start its result hangs on how the sort orders ties, so both start from stored heights."""
    numbers, (model, image) = golden("masks"), network
    optimise, start = module.optimise, jnp.asarray(numbers["extremal/start"])
    monkeypatch.setattr(module, "TIE", 0.0)
    for area, heights, expected in zip((0.1, 0.3), start, numbers[f"extremal/{variant}/40"], strict=True):
        monkeypatch.setattr(
            module,
            "optimise",
            lambda bumps, reward, _, *rest, heights=heights: optimise(bumps, reward, heights, *rest),
        )
        options = {
            "areas": (area,),
            "steps": 40,
            "variant": variant,
            "spacing": 2,
            "sigma": 6.0,
            "max_blur": 20.0,
            "flip": True,
        }
        found = maps(extremal_perturbation, model, image, [1], **options)[0]
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_misfit_gradient_is_that_of_the_sorted_mask():
    mask = jnp.asarray(np.random.default_rng(0).permutation(30).reshape(5, 6) / 30, jnp.float32)
    wanted = (jnp.arange(30) >= 21).astype(jnp.float32)
    expected = jax.grad(lambda m: jnp.mean((jnp.sort(m.reshape(-1)) - wanted) ** 2))(mask)
    np.testing.assert_allclose(misfit_gradient(mask, jnp.asarray(21)), expected, atol=1e-8)


def test_equal_values_share_what_their_ranks_want():
    mask = jnp.asarray([[0.2, 0.5, 0.5], [0.5, 0.5, 0.9]])
    wanted = np.array([[0, 0.25, 0.25], [0.25, 0.25, 1]])  # four zeros, two ones: one of the four equals is a one
    np.testing.assert_allclose(misfit_gradient(mask, jnp.asarray(4)), 2 * (mask - wanted) / 6, atol=1e-7)


def test_extremal_perturbation_keeps_or_deletes_the_window(chequered):
    model = by_windows(20.0)
    options = {"areas": (0.06,), "flip": False, "steps": 400}
    for variant in ("preserve", "delete", "dual"):
        found = maps(extremal_perturbation, model, chequered, [0, 1], variant=variant, **options)
        for c, corner in enumerate(CORNERS):
            elsewhere = np.ones((SIDE, SIDE), bool)
            elsewhere[corner] = False
            assert found[c][corner].mean() > 0.4, variant
            assert found[c][elsewhere].mean() < 0.25 * found[c][corner].mean(), variant


def test_the_mask_has_the_area_asked_for(chequered):
    """The area counts the margin around the image too; here the window lies inside, and so does the mask."""
    bumps = bumps_of((SIDE, SIDE), 1, 3.0)
    for area in (0.05, 0.15):
        options = {"areas": (area,), "flip": False, "steps": 800}
        found = maps(extremal_perturbation, by_windows(5.0), chequered, [1], **options)[0]
        assert found.sum() == pytest.approx(area * np.prod(bumps.full_shape), rel=0.15)


def test_several_areas_are_summed(chequered):
    run = partial(maps, extremal_perturbation, by_windows(20.0), chequered, [0, 1], steps=30, flip=False)
    np.testing.assert_allclose(run(areas=(0.05, 0.2)), run(areas=(0.05,)) + run(areas=(0.2,)), atol=1e-5)
    np.testing.assert_allclose(run(areas=(0.05, 0.2), batch=1), run(areas=(0.05, 0.2)), atol=1e-5)


def test_mirroring_brings_both_sides(chequered):
    """A class that looks at the left is, mirrored at every other step, one that looks at both sides."""
    found = [
        maps(extremal_perturbation, by_windows(20.0), chequered, [0], areas=(0.15,), flip=flip, steps=200)[0]
        for flip in (False, True)
    ]
    rows, columns = CORNERS[0]
    mirrored = [m[:, ::-1][rows, columns].mean() for m in found]
    assert mirrored[1] > 0.5 > mirrored[0]


# all of them

FEW = {"rise": {"masks": 20}, "opti_cam": {"steps": 3}, "meaningful": {"steps": 3}, "extremal": {"steps": 3}}
ALL = {
    "rise": rise,
    "opti_cam": opti_cam,
    "meaningful": meaningful_perturbation,
    "extremal": extremal_perturbation,
}


@pytest.mark.parametrize("name", ALL)
def test_a_class_that_answers_nothing_has_no_map(name, chequered):
    """Opti-CAM has no mask but its channels, and shows their mean; the others have nothing to show."""
    model = tap_function(lambda p, x: p + 0 * tag(x**2, "a").sum(), jnp.arange(3.0), "a", jnp.zeros((SIDE, SIDE, 3)))
    found = maps(ALL[name], model, chequered, [0, 2], **FEW[name])
    expected = 1.0 if name == "opti_cam" else 0.0
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["opti_cam", "meaningful", "extremal"])
def test_targets_in_chunks_equal_targets_at_once(network, name):
    model, image = network
    expected = maps(ALL[name], model, image, range(4), **FEW[name])
    np.testing.assert_allclose(maps(ALL[name], model, image, range(4), batch=3, **FEW[name]), expected, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_half_and_double_precision(network, name):
    model, image = network
    expected = maps(ALL[name], model, image, [1], **FEW[name])
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), model.params)
    low = tap_function(model.apply, half, model.tag, image.astype(jnp.bfloat16))
    found = maps(ALL[name], low, image.astype(jnp.bfloat16), [1], **FEW[name])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.15 * expected.max())
    with jax.enable_x64(True):
        double = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), model.params)
        wide = jnp.asarray(np.asarray(image), jnp.float64)
        found = maps(ALL[name], tap_function(model.apply, double, model.tag, wide), wide, [1], **FEW[name])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-4)


BAD = [
    (rise, {"masks": 1}, "masks: got 1"),
    (rise, {"cells": 1}, "cells: got 1"),
    (rise, {"keep": 1.0}, r"keep: got 1\.0"),
    (rise, {"batch": 0}, "batch: got 0"),
    (opti_cam, {"steps": 0}, "steps: got 0"),
    (opti_cam, {"learning_rate": 0.0}, r"learning_rate: got 0\.0"),
    (opti_cam, {"batch": 0}, "batch: got 0"),
    (meaningful_perturbation, {"steps": 0}, "steps: got 0"),
    (meaningful_perturbation, {"learning_rate": -1.0}, r"learning_rate: got -1\.0"),
    (meaningful_perturbation, {"area": -1.0}, r"area: got -1\.0"),
    (meaningful_perturbation, {"variation": -1.0}, r"variation: got -1\.0"),
    (meaningful_perturbation, {"power": 1.0}, r"power: got 1\.0"),
    (meaningful_perturbation, {"jitter": 0}, "jitter: got 0"),
    (meaningful_perturbation, {"batch": 0}, "batch: got 0"),
    (extremal_perturbation, {"steps": 0}, "steps: got 0"),
    (extremal_perturbation, {"areas": ()}, r"areas: got \(\)"),
    (extremal_perturbation, {"areas": (0.1, 1.0)}, r"areas: got \(0\.1, 1\.0\)"),
    (extremal_perturbation, {"variant": "keep"}, "variant: 'keep' is unknown"),
    (extremal_perturbation, {"spacing": 0}, "spacing: got 0"),
    (extremal_perturbation, {"sigma": 0.0}, r"sigma: got 0\.0"),
    (extremal_perturbation, {"max_blur": 0.0}, r"max_blur: got 0\.0"),
    (extremal_perturbation, {"batch": 0}, "batch: got 0"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_are_refused(method, options, message, network):
    model, image = network
    with pytest.raises(CaseJaxError, match=message):
        all_class_maps(partial(method, **options), model, model.params, image, key=jax.random.key(0))


def test_rise_asks_for_a_key(network):
    model, image = network
    with pytest.raises(CaseJaxError, match=r"key: .* key=jax\.random\.key\(0\)"):
        all_class_maps(rise, model, model.params, image)

"""Similarity, random logit, deletion and insertion, ROAD, completeness and soundness, ARCC: against published implementations, closed
forms, and the same thing written plainly."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from case_jax import METRICS, CaseJaxError, ask, finish_maps, softmax_contrast, tag, tap_function
from case_jax.imageops import rescale_map
from case_jax.metrics import (
    MetricInputs,
    arcc,
    area_under,
    coherency,
    completeness,
    deletion_curve,
    impute,
    imputed_probabilities,
    insertion_curve,
    shown_probability,
    soundness,
)
from case_jax.metrics.deletion_insertion import step_counts
from case_jax.metrics.ssim import ssim
from case_jax.ranking import average_ranks, correlation, places, spearman, top_mask
from case_jax.tap.head import at_least_float32

CLASSES = 4
filled = jax.jit(impute, static_argnames="noise")
similar = jax.jit(jax.vmap(ssim))
correlated, rank_correlated = jax.jit(correlation), jax.jit(spearman)
NEW = ("similarity", "random_logit", "deletion_insertion", "road", "soundness", "arcc")
NEEDS = {
    "spearman": {0, 1}, "ssim": {0, 1}, "ssim_random": {0, 2}, "completeness": {0}, "soundness": {2}, "raised": {2},
    "soundness_2": {1},
}  # fmt: skip
"""Which of the three maps a column needs; the first alone where nothing is said."""


@pytest.fixture(scope="module")
def stored(golden):
    return golden("reference_metrics")


@pytest.fixture(scope="module")
def model(stored):
    """The classifier of the stored numbers: one strided convolution, relu, spatial mean, four classes."""

    def function(params, x):
        kernel, head = params
        a = jax.lax.conv_general_dilated(
            x[None], kernel.astype(x.dtype), (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return tag(jax.nn.relu(a[0]), "features").mean((0, 1)) @ head.astype(x.dtype)

    params = (jnp.asarray(stored["kernel"]), jnp.asarray(stored["head"]))
    return tap_function(function, params, "features", jnp.asarray(stored["images"][0]), chunk=16)


def views(model, function):
    """`function(view, target, *rest)` of the predicted class of every image, compiled once."""

    @jax.jit
    def run(images, *rest):
        def one(image, *rest):
            view = model.view(model.params, image)
            return function(view, jnp.argmax(view.logits), *rest)

        return jax.vmap(one)(images, *rest)

    return run


def brute(model, images):
    """Softmax probabilities of some images, one by one."""
    return np.stack([jax.nn.softmax(model.apply(model.params, jnp.asarray(x, jnp.float32))) for x in images])


def test_the_classifier_is_that_of_the_stored_numbers(model, stored):
    found = np.stack([model.apply(model.params, jnp.asarray(x)) for x in stored["images"]])
    np.testing.assert_allclose(found, stored["logits"], atol=2e-6)


# --- similarity -------------------------------------------------------------------------------------------------------------


def test_spearman_is_scipys_with_and_without_ties(stored):
    found = jax.jit(jax.vmap(spearman))(*jnp.asarray(stored["pairs"]).swapaxes(0, 1))
    np.testing.assert_allclose(found, stored["spearman"], atol=5e-6)


def test_average_ranks_are_scipys_exactly(stored):
    found = jax.jit(jax.vmap(average_ranks))(jnp.asarray(stored["tied"]).reshape(3, -1))
    np.testing.assert_array_equal(found.reshape(3, 24, 20), stored["rankdata"])
    few = jnp.asarray([0.0, -0.0, 3.0, -1.0, 3.0, 3.0])
    np.testing.assert_array_equal(average_ranks(few), stats.rankdata(few))


def test_spearman_at_full_size():
    rng = np.random.default_rng(0)
    first = np.maximum(rng.normal(size=(224, 224)), 0).astype(np.float32)  # half zeros, as after a relu
    second = (first + rng.normal(size=(224, 224))).astype(np.float32)
    expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert float(rank_correlated(first, second)) == pytest.approx(expected, abs=2e-6)


def test_correlation_is_numpys(stored):
    for first, second in stored["pairs"]:
        expected = np.corrcoef(first.ravel().astype(np.float64), second.ravel())[0, 1]
        assert float(correlated(first, second)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("function", [rank_correlated, correlated])
def test_correlations_of_constant_or_broken_maps_are_nan(function):
    varied, flat = jnp.arange(12.0).reshape(3, 4), jnp.full((3, 4), 0.1)
    assert bool(jnp.isnan(function(varied, flat)))
    assert bool(jnp.isnan(function(flat, varied)))
    assert bool(jnp.isnan(function(varied, varied.at[0, 0].set(jnp.nan))))
    assert float(function(varied, 2 * varied + 1)) == pytest.approx(1)


def test_correlation_of_a_map_with_no_offset_to_speak_of():
    """A map of tiny or of huge values is still a map."""
    varied = jnp.arange(12.0).reshape(3, 4)
    for scale in (1e-15, 1e15):
        assert float(correlated(varied, scale * varied)) == pytest.approx(1, abs=1e-6)


def test_ssim_is_scikit_images(stored):
    pairs = jnp.asarray(stored["pairs"])
    found = similar(pairs[:, 0], pairs[:, 1])
    np.testing.assert_allclose(found, stored["ssim"], atol=2e-6)
    smallest = pairs[:, :, 3:14, 2:13]  # one window
    np.testing.assert_allclose(similar(smallest[:, 0], smallest[:, 1]), stored["ssim_11"], atol=2e-6)


def test_ssim_of_constant_maps_in_closed_form():
    """No variance: SSIM is the luminance term alone."""
    a, b = 0.75, 0.25
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    flat = jnp.broadcast_to(jnp.asarray([a, b, 0.0])[:, None, None], (3, 12, 15))
    found = similar(flat[jnp.asarray([0, 2, 1])], flat[jnp.asarray([1, 2, 1])])
    np.testing.assert_allclose(found, [expected, 1, 1], atol=1e-6)


@pytest.mark.parametrize("shapes", [((10, 30), (10, 30)), ((12, 12), (12, 13)), ((2, 12, 12), (2, 12, 12))])
def test_ssim_of_improper_maps_raises(shapes):
    with pytest.raises(CaseJaxError, match=r"11 pixels|SSIM: got 3 spatial axes"):
        ssim(*(jnp.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("function", [spearman, correlation, coherency])
def test_correlations_of_other_shapes_raise(function):
    with pytest.raises(CaseJaxError, match="first, second"):
        function(jnp.zeros((3, 4)), jnp.zeros((4, 3)))


# --- ranking ----------------------------------------------------------------------------------------------------------------


def test_places_and_top_masks_are_one_rule(stored):
    maps = jnp.concatenate([stored["tied"], stored["maps"]])
    found = np.asarray(jax.jit(jax.vmap(places))(maps))
    tops = jax.jit(jax.vmap(top_mask, (0, None)))
    for place in found:
        assert sorted(place.ravel()) == list(range(480))
    for count in (0, 1, 37, 240, 480):
        np.testing.assert_array_equal(found < count, tops(maps, count))


# --- deletion and insertion -------------------------------------------------------------------------------------------------


def test_curves_and_areas_are_rises(model, stored):
    images, maps = jnp.asarray(stored["images"]), jnp.asarray(stored["maps"])
    deletion = views(model, lambda view, target, m: deletion_curve(view, m, target))(images, maps)
    insertion = views(model, lambda view, target, m: insertion_curve(view, m, target, fill="mean"))(images, maps)
    np.testing.assert_allclose(deletion, stored["deletion"], atol=2e-6)
    np.testing.assert_allclose(insertion, stored["insertion"], atol=2e-6)
    np.testing.assert_allclose(jax.vmap(area_under)(deletion), stored["deletion_auc"], atol=2e-6)
    np.testing.assert_allclose(jax.vmap(area_under)(insertion), stored["insertion_auc"], atol=2e-6)


def test_a_curve_written_plainly(model, stored):
    """Ragged steps, ties, and a blurred start."""
    from case_jax.imageops import blur

    image, saliency = jnp.asarray(stored["images"][1]), stored["tied"][1]
    order = np.argsort(-saliency.ravel(), kind="stable")
    start, pictures = np.asarray(blur(image, 2.4)), []
    for i in range(8):
        shown = np.zeros(480, bool)
        shown[order[: 480 * i // 7]] = True
        pictures.append(np.where(shown.reshape(24, 20, 1), image, start))
    curve = views(model, lambda view, _, m: insertion_curve(view, m, jnp.int32(2), steps=7))
    found = curve(image[None], jnp.asarray(saliency)[None])[0]
    np.testing.assert_allclose(found, brute(model, pictures)[:, 2], atol=2e-6)


def test_deleting_into_inserting_are_each_others_ends(model, stored):
    def curves(view, _, m):
        target = jnp.int32(1)
        deletion = deletion_curve(view, m, target, steps=3, fill="mean")
        return deletion, insertion_curve(view, m, target, steps=3, fill="mean"), jax.nn.softmax(view.logits)[1]

    found = views(model, curves)(jnp.asarray(stored["images"][:1]), jnp.asarray(stored["maps"][:1]))
    deletion, insertion, whole = (a[0] for a in found)
    assert float(deletion[0]) == float(insertion[-1]) == float(whole)
    assert float(deletion[-1]) == pytest.approx(0.25, abs=1e-6)  # nothing left: four equal logits
    assert float(insertion[0]) == pytest.approx(0.25, abs=1e-6)


def test_area_under_a_straight_line():
    assert float(area_under(jnp.linspace(1.0, 0.2, 9))) == pytest.approx(0.6)


@pytest.mark.parametrize("steps", [0, -1, 481])
def test_improper_steps_raise(steps):
    with pytest.raises(CaseJaxError, match="steps"):
        step_counts(steps, (24, 20))


def test_a_map_of_another_size_raises(model, stored):
    view = model.view(model.params, jnp.asarray(stored["images"][0]))
    small = jnp.zeros((12, 10))
    for function in (deletion_curve, insertion_curve, shown_probability, partial(imputed_probabilities, noise=0.0)):
        with pytest.raises(CaseJaxError, match="saliency"):
            function(view, small, jnp.int32(0))


# --- ROAD -------------------------------------------------------------------------------------------------------------------


def plain_imputation(image, removed):
    """The dense linear system, one equation a pixel."""
    height, width, _ = image.shape
    matrix, right = np.zeros((height * width,) * 2), np.zeros((height * width, image.shape[-1]))
    for y in range(height):
        for x in range(width):
            here = y * width + x
            if not removed[y, x]:
                matrix[here, here], right[here] = 1, image[y, x]
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width:
                        weight = 1 / 12 if dy and dx else 1 / 6
                        matrix[here, here] += weight
                        matrix[here, (y + dy) * width + x + dx] -= weight
    return np.linalg.solve(matrix, right).reshape(image.shape)


def test_imputation_is_pytorch_grad_cams(stored):
    images = stored["images"][np.arange(6) % 3]
    found = np.stack([filled(image, removed) for image, removed in zip(images, stored["removed"], strict=True)])
    extent = np.ptp(stored["images"])
    assert float(np.abs(found - stored["imputed"]).max()) <= 1e-5 * extent


@pytest.mark.parametrize("shape", [(7, 5), (13, 30)])
def test_imputation_solves_the_dense_system_at_any_size(shape):
    rng = np.random.default_rng(3)
    image = rng.normal(size=(*shape, 2)).astype(np.float32)
    for share in (0.05, 0.5, 0.98):
        removed = rng.random(shape) < share
        removed[:, : shape[1] // 2] |= share > 0.4  # a large hole beside scattered pixels
        removed[0, -1] = False
        found = filled(image, removed)
        np.testing.assert_allclose(found, plain_imputation(image, removed), atol=1e-5 * np.ptp(image))
        np.testing.assert_array_equal(np.asarray(found)[~removed], image[~removed])


def test_imputation_continues_what_is_linear():
    """A linear ramp is harmonic: a hole in it closes without a trace, however large."""
    rows, columns = np.mgrid[:160, :96]
    ramp = np.stack([rows / 100, columns / 100, (rows - columns) / 100], -1).astype(np.float32)
    removed = np.zeros((160, 96), bool)
    removed[10:140, 20:90] = True
    np.testing.assert_allclose(filled(ramp, removed), ramp, atol=2e-5)


def test_imputation_of_one_pixel_of_nothing_and_of_everything(stored):
    image = stored["images"][0]
    around = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]])[..., None] / 12
    hole = np.zeros((24, 20), bool)
    hole[5, 7] = True
    np.testing.assert_allclose(filled(image, hole)[5, 7], (around * image[4:7, 6:9]).sum((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(filled(image, np.zeros((24, 20), bool)), image)
    np.testing.assert_array_equal(filled(image, np.ones((24, 20), bool)), np.zeros_like(image))


def test_imputation_noise_lies_on_removed_pixels_only():
    image, removed = jnp.zeros((24, 20, 3)), jnp.zeros((24, 20), bool).at[2:, 1:].set(True)
    found = np.asarray(filled(image, removed, noise=0.5, key=jax.random.key(1)))
    assert not found[~np.asarray(removed)].any()
    assert found[np.asarray(removed)].std() == pytest.approx(0.5, rel=0.1)


def test_imputation_in_other_dtypes(stored):
    image, removed = stored["images"][2], jnp.asarray(stored["removed"][2])
    expected = stored["imputed"][2]
    found = filled(jnp.asarray(image, jnp.bfloat16), removed)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=2**-7 * np.abs(image).max())
    with jax.enable_x64(True):
        precise = filled(jnp.asarray(image, jnp.float64), removed)
        assert precise.dtype == jnp.float64
        np.testing.assert_allclose(precise, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"removed": jnp.zeros((5, 4), bool)}, "removed"),
        ({"noise": -1.0}, "noise"),
        ({"noise": 0.01}, "key"),
    ],
)
def test_improper_imputation_raises(arguments, named):
    with pytest.raises(CaseJaxError, match=named):
        impute(**({"image": jnp.zeros((4, 4, 3)), "removed": jnp.zeros((4, 4), bool)} | arguments))


def test_road_is_pytorch_grad_cams(model, stored):
    def road(view, target, saliency):
        found = imputed_probabilities(view, saliency, target, noise=0.0)
        return [side.mean() - jax.nn.softmax(view.logits)[target] for side in found]

    morf, lerf = views(model, road)(jnp.asarray(stored["images"]), jnp.asarray(stored["maps"]))
    np.testing.assert_allclose(morf, stored["road_morf"], atol=1e-5)
    np.testing.assert_allclose(lerf, stored["road_lerf"], atol=1e-5)
    np.testing.assert_allclose((lerf - morf) / 2, stored["road_combined"], atol=1e-5)


def test_road_takes_ties_by_the_rule(model, stored):
    """Exactly the share, also where many pixels are tied: the last of the ranking are the least relevant."""
    image, saliency = jnp.asarray(stored["images"][2]), stored["tied"][2]
    order = np.argsort(-saliency.ravel(), kind="stable")
    removed = np.zeros((2, 480), bool)
    removed[0, order[:144]] = True
    removed[1, order[-144:]] = True
    pictures = [plain_imputation(np.asarray(image), r.reshape(24, 20)) for r in removed]
    third = views(model, lambda view, _, m: imputed_probabilities(view, m, jnp.int32(3), percents=(30,), noise=0.0))
    found = third(image[None], jnp.asarray(saliency)[None])
    np.testing.assert_allclose(np.concatenate(found).ravel(), brute(model, pictures)[:, 3], atol=1e-5)


@pytest.mark.parametrize("percents", [(), (100,), (20, 0), (20, 120), (0.1,)])
def test_improper_road_percentages_raise(model, stored, percents):
    view = model.view(model.params, jnp.asarray(stored["images"][0]))
    with pytest.raises(CaseJaxError, match="percent"):
        imputed_probabilities(view, jnp.zeros((24, 20)), jnp.int32(0), percents=percents, noise=0.0)


# --- completeness and soundness ---------------------------------------------------------------------------------------------


def test_completeness_and_soundness_are_the_authors(model, stored):
    images, maps = jnp.asarray(stored["images"]), jnp.asarray(stored["maps"])

    @jax.jit
    def run(image, number):
        view = model.view(model.params, image)
        asked = lambda c: shown_probability(view, maps[(number + c) % 3], c)  # noqa: E731
        return jax.vmap(asked)(jnp.arange(CLASSES)), jax.nn.softmax(view.logits)

    shown, p = jax.vmap(run)(images, jnp.arange(3))
    np.testing.assert_allclose(shown, stored["shown"], atol=2e-6)
    np.testing.assert_allclose(completeness(shown, p), stored["completeness"], rtol=1e-5)
    np.testing.assert_allclose(soundness(shown, p), stored["soundness"], rtol=1e-5)
    np.testing.assert_allclose(soundness(shown, p, floor=0.0), stored["soundness_0"], rtol=1e-4)
    assert (stored["soundness"] < 1).any()
    assert (stored["completeness"] < 1).any()


def test_completeness_and_soundness_by_hand():
    shown, p = jnp.asarray([0.4, 0.05, 0.9, 0.0]), jnp.asarray([0.8, 0.5, 0.6, 0.0])
    np.testing.assert_allclose(completeness(shown, p), [0.5, 0.2, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(soundness(shown, p), [1, 1, 2 / 3, 1], rtol=1e-6)


@pytest.mark.parametrize("function", [completeness, soundness])
def test_improper_floor_raises(function):
    with pytest.raises(CaseJaxError, match="floor"):
        function(jnp.float32(0.5), jnp.float32(0.5), floor=1.0)


# --- ARCC -------------------------------------------------------------------------------------------------------------------


def explained(model, target):
    """Grad-CAM of the softmax probability at input resolution, scaled once more after resizing as pytorch-grad-cam does."""

    def explain(image):
        view = model.view(model.params, image)
        maps = softmax_contrast(view, ask(view, target[None]))
        return rescale_map(finish_maps(maps, image.shape[:2]))[0]

    return explain


def test_arcc_is_pytorch_grad_cams(model, stored):
    images, cams = jnp.asarray(stored["images"]), jnp.asarray(stored["cams"])

    def run(view, target, cam):
        explain = explained(model, target)
        seen = explain(view.image * cam[..., None])
        return explain(view.image), seen, arcc(view, cam, target, explain, noise=0.0)

    own, seen, found = views(model, run)(images, cams)
    np.testing.assert_allclose(own, stored["cams"], atol=1e-5)
    np.testing.assert_allclose(seen, stored["cams_again"], atol=1e-5)
    np.testing.assert_allclose(found.road, 2 * stored["arcc_road"], atol=2e-5)
    np.testing.assert_allclose(found.coherency, stored["arcc_coherency"], atol=1e-5)
    np.testing.assert_allclose(found.complexity, stored["arcc_complexity"], atol=1e-6)
    np.testing.assert_allclose(found.arcc, stored["arcc"], atol=2e-5)


def test_arcc_of_a_misleading_map_is_zero_and_of_a_collapsing_method_unknown(model, stored):
    image, saliency = jnp.asarray(stored["images"][0]), jnp.asarray(stored["maps"][0])

    def found_by(view, target, m, seen):
        return arcc(view, m, target, lambda _: seen, noise=0.0)

    maps, seen = jnp.stack([saliency, 1 - saliency, saliency]), jnp.stack([saliency, saliency, 0 * saliency])
    found = views(model, found_by)(jnp.stack([image] * 3), maps, seen)
    one, other, nothing = (type(found)(*(part[i] for part in found)) for i in range(3))
    assert float(one.coherency) == pytest.approx(1, abs=1e-6)
    assert float(other.coherency) == pytest.approx(0, abs=1e-6)
    roads = sorted([float(one.road), float(other.road)])
    assert roads[0] == 0.0 < roads[1]  # one ranking is the other's reverse, so that only one of them can be faithful
    zero = one if float(one.road) == 0 else other
    assert float(zero.arcc) == 0.0
    assert bool(jnp.isnan(nothing.arcc))
    assert bool(jnp.isnan(nothing.coherency))
    assert float(nothing.complexity) == pytest.approx(0.5, abs=1e-6)


# --- columns ----------------------------------------------------------------------------------------------------------------


def scored_of(model, maps, image, key, degenerate=None):
    view = model.view(model.params, image)
    order = jnp.argsort(-view.logits)
    targets = order[jnp.asarray([0, 1, 3])]
    fine = jnp.zeros(3, bool) if degenerate is None else degenerate
    nothing = (jnp.zeros((0, *image.shape[:2]), bool), jnp.zeros(0, jnp.int32))
    p = jax.nn.softmax(at_least_float32(view.logits))[targets]
    return MetricInputs(maps, fine, view, targets, p, *nothing, -jnp.ones(3), key, explained(model, targets[0]))


def options_of(name):
    return {"steps": 4} if name in ("deletion_insertion", "soundness") else {}


@pytest.fixture(scope="module")
def columns_of(model):
    """A metric's columns as a function of maps, image, key and degeneracy, compiled once a metric."""

    @cache
    def build(name):
        def columns(*args):
            return METRICS[name].columns(scored_of(model, *args), **options_of(name))

        return jax.jit(columns), jax.jit(jax.vmap(columns, (0, 0, 0, None)))

    return build


@pytest.mark.parametrize("name", NEW)
def test_columns_are_finite_scalars_described_and_equal_under_jit_and_vmap(columns_of, stored, name):
    one, many = columns_of(name)
    fine = jnp.zeros(3, bool)
    maps = jnp.stack([jnp.roll(jnp.asarray(stored["maps"]), i, 0) for i in range(3)])
    images, keys = jnp.asarray(stored["images"]), jax.random.split(jax.random.key(0), 3)
    batched, alone = many(maps, images, keys, fine), one(maps[0], images[0], keys[0], fine)
    assert {m.name for m in METRICS[name].described} == set(batched) == set(alone)
    for column, values in batched.items():
        assert values.shape == (3,)
        assert bool(jnp.isfinite(values).all())
        np.testing.assert_allclose(values[0], alone[column], atol=1e-5)


@pytest.mark.parametrize("name", NEW)
def test_degenerate_maps_are_never_silently_scored(columns_of, stored, name):
    maps, image, key = jnp.asarray(stored["maps"]), jnp.asarray(stored["images"][0]), jax.random.key(0)
    run = partial(columns_of(name)[0], maps, image, key)
    usable = run(jnp.zeros(3, bool))
    for which in range(3):
        for column, value in run(jnp.arange(3) == which).items():
            needs = NEEDS.get(column, {0})
            np.testing.assert_array_equal(value, np.nan if which in needs else usable[column])


def test_columns_are_the_functions(model, stored):
    @jax.jit
    def run(image, maps, key):
        scored = scored_of(model, maps, image, key)
        view, targets, p = scored.view, scored.targets, scored.probabilities
        first = (view, maps[0], targets[0])
        shown = [shown_probability(view, m, t) for m, t in zip(maps, targets, strict=True)]
        imputed = imputed_probabilities(*first, key=key)
        road = (imputed.lerf.mean() - imputed.morf.mean()) / 2
        parts = [jnp.clip(2 * road, 1e-9, 1), coherency(maps[0], scored.explain(image * maps[0][..., None])), 0.5]
        expected = {
            "spearman": spearman(maps[0], maps[1]),
            "ssim": ssim(maps[0], maps[1]),
            "ssim_random": ssim(maps[0], maps[2]),
            "deletion_auc": area_under(deletion_curve(*first)),
            "insertion_auc": area_under(insertion_curve(*first)),
            "completeness": completeness(shown[0], p[0]),
            "soundness_2": soundness(shown[1], p[1]),
            "soundness": soundness(shown[2], p[2]),
            "raised": shown[2] - p[2],
            "road": road,
            "road_drop_morf": p[0] - imputed.morf.mean(),
            "road_drop_lerf": p[0] - imputed.lerf.mean(),
            "arcc": 3 / sum(1 / part for part in parts),
            "coherency": parts[1],
            "complexity": 0.5,
        }
        found = {}
        for name in NEW:
            found |= METRICS[name].columns(scored)
        return found, expected

    found, expected = run(jnp.asarray(stored["images"][1]), jnp.asarray(stored["maps"]), jax.random.key(5))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


def test_arcc_without_the_method_raises(model, stored):
    scored = scored_of(model, jnp.asarray(stored["maps"]), jnp.asarray(stored["images"][0]), jax.random.key(0))
    with pytest.raises(CaseJaxError, match="explain"):
        METRICS["arcc"].columns(scored._replace(explain=None))


@pytest.mark.slow
def test_columns_in_other_precisions(model, stored):
    """bfloat16 images and maps give the same scores coarsely; double precision closely."""

    def columns(dtype):
        return jax.jit(some_columns)(jnp.asarray(stored["images"][0], dtype), jnp.asarray(stored["maps"], dtype))

    def some_columns(image, maps):
        scored = scored_of(model, maps, image, jax.random.key(0))
        some = {"road": {"noise": 0.0}, "arcc": {"noise": 0.0}}
        found = {}
        for name in NEW:
            found |= METRICS[name].columns(scored, **options_of(name), **some.get(name, {}))
        return found

    single, half = columns(jnp.float32), columns(jnp.bfloat16)
    with jax.enable_x64(True):
        double = columns(jnp.float64)
    for name, value in single.items():
        assert float(double[name]) == pytest.approx(float(value), abs=2e-5), name
        assert float(half[name].astype(jnp.float32)) == pytest.approx(float(value), abs=0.05), name

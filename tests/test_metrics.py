"""Scores of maps: the contract, the reference's numbers, and maps whose score is known."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import METRICS, CaseJaxError, agreement, tag, tap_function
from case_jax.imageops import FILLS, filling
from case_jax.metrics import PERCENTS, MetricInputs, evidence_shares, metric, points_at_own, removed_probabilities
from case_jax.metrics.evidence import evidence_columns
from case_jax.metrics.fidelity import column, fidelity_columns, removal_mask
from case_jax.ranking import top_mask
from case_jax.source import NOBODY, SHARED

NETWORKS = ("resnet_bottleneck", "resnet_basic", "vgg_bn", "densenet", "convnext")
EACH = pytest.mark.parametrize("name", METRICS)


def random_maps(seed=0, shape=(12, 12), count=2):
    return jnp.asarray(np.random.default_rng(seed).random((count, *shape)), jnp.float32)


agree = jax.jit(agreement, static_argnames="percent")
agreements = jax.jit(jax.vmap(agreement))
shares_of = jax.jit(evidence_shares)
points = jax.jit(points_at_own)
removals = jax.jit(jax.vmap(removal_mask, (0, None)))
transposed = jax.jit(jax.vmap(partial(removal_mask, region="reference-transposed"), (0, None)))


def patch(top, left, size=4, shape=(20, 20)):
    return np.pad(np.ones((size, size), bool), [(top, shape[0] - top - size), (left, shape[1] - left - size)])


# --- contract ---------------------------------------------------------------------------------------------------------------


def scored_by(model):
    """The state that metrics see of one image, as a function of arrays; the third map is that of a random class."""

    def build(maps, image, key):
        view = model.view(model.params, image)
        targets = jax.lax.top_k(view.logits, len(maps))[1]
        regions = jnp.asarray([patch(0, 0, 4, (12, 12)), patch(6, 0, 4, (12, 12)), patch(0, 6, 4, (12, 12))])
        classes = jnp.stack([jnp.int32(SHARED), targets[0], targets[1]])
        return MetricInputs(
            maps,
            jnp.zeros(len(maps), bool),
            view,
            targets,
            jax.nn.softmax(view.logits)[targets],
            regions,
            classes,
            -jnp.ones(3),
            key,
            lambda altered: maps[0] * (1 + altered.mean(-1)),
            label=targets[0],
            recursed=lambda target, rounds: jnp.tile(view.logits, (rounds + 1, 1)),
        )

    return build


@EACH
def test_columns_are_finite_scalars_equal_under_jit_and_vmap(toy, toy_images, name):
    def columns(maps, image, key):
        return METRICS[name].columns(scored_by(toy)(maps, image, key))

    maps = jnp.stack([random_maps(s, count=3) for s in range(4)])
    keys = jax.random.split(jax.random.key(0), 4)
    alone = jax.jit(columns)(maps[0], toy_images[0], keys[0])
    batched = jax.jit(jax.vmap(columns))(maps, toy_images, keys)
    assert alone.keys() == batched.keys()
    for key, value in alone.items():
        assert jnp.shape(value) == ()
        assert batched[key].shape == (4,)
        assert bool(jnp.isfinite(batched[key]).all())
        np.testing.assert_allclose(value, batched[key][0], atol=1e-5)


# which maps a column needs, where that is not the first alone
NEEDS = {
    "points_2": {1},
    "soundness_2": {1},
    "soundness": {2},
    "raised": {2},
    "spearman": {0, 1},
    "ssim": {0, 1},
    "ssim_random": {0, 2},
    "F": {0, 1},
    "F_plus": {0, 1},
}
BOTH = ("specificity", "necessity", "sufficiency", "hurts_own", "lowers_own", "raises_rival")


def needs(column_name):
    if column_name.endswith("_oracle"):
        return set()
    if column_name.startswith("mia_wrong"):
        return {2}
    return {0, 1} if column_name.startswith(BOTH) else NEEDS.get(column_name, {0})


@pytest.fixture(scope="module")
def with_degenerate(toy, toy_images):
    """The columns of a metric where these maps are degenerate, compiled once each."""

    def build(name):
        def run(degenerate):
            scored = scored_by(toy)(random_maps(count=3), toy_images[0], jax.random.key(0))
            return METRICS[name].columns(scored._replace(degenerate=degenerate))

        return jax.jit(run)

    return cache(build)


@EACH
@pytest.mark.parametrize("which", [0, 1, 2])
def test_degenerate_maps_are_never_silently_scored(with_degenerate, name, which):
    """Scores that need the degenerate map are NaN; those of the other maps stay."""
    run = with_degenerate(name)
    usable, found = run(jnp.zeros(3, bool)), run(jnp.arange(3) == which)
    for column_name, value in found.items():
        if column_name != "zeros_in_top":
            np.testing.assert_array_equal(value, np.nan if which in needs(column_name) else usable[column_name])


def columns_of(columns, model, images, **options):
    """The columns' names and shapes, without computing anything."""
    args = (random_maps(count=3), images[0], jax.random.key(0))
    return jax.eval_shape(lambda *args: columns(scored_by(model)(*args), **options), *args)


def test_column_names_do_not_clash_between_metrics(toy, toy_images):
    names = [set(columns_of(metric.columns, toy, toy_images)) for metric in METRICS.values()]
    assert all(names)
    assert len(set().union(*names)) == sum(map(len, names))
    assert all(metric(name) is METRICS[name] for name in METRICS)


def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(CaseJaxError, match=r"metric: 'fidelty' is unknown\. Did you mean 'fidelity'\?"):
        metric("fidelty")


# --- agreement --------------------------------------------------------------------------------------------------------------


def test_agreement_equals_the_reference_on_tie_free_maps(golden):
    metrics = golden("metrics")
    maps = jnp.asarray(metrics["agree_maps"].astype(np.float32) / 8192)
    for i, percent in enumerate(metrics["agree_percent"].tolist()):
        found = jax.jit(jax.vmap(partial(agreement, percent=percent)))(maps[:, 0], maps[:, 1])
        np.testing.assert_allclose(100 * np.asarray(found.F, np.float64), metrics["agree"][:, i], atol=1e-5)
        pixels = metrics["agree_npix"][i]
        np.testing.assert_array_equal(
            np.round(np.asarray(found.F) * pixels), np.round(metrics["agree"][:, i] / 100 * pixels)
        )


@pytest.mark.parametrize("network", NETWORKS)
def test_agreement_equals_the_reference_under_the_first_index_tie_rule(golden, stored_maps, network):
    maps, stored = stored_maps(network), golden(f"{network}_eval")
    found = agreements(maps[:, :, 0].reshape(-1, 64, 64), maps[:, :, 1].reshape(-1, 64, 64))
    F = 100 * np.asarray(found.F, np.float64).reshape(12, 4)
    np.testing.assert_allclose(F, stored["agree5_first"], atol=1e-5)  # exact to float32; one pixel is 0.49
    np.testing.assert_array_less(stored["agree5_min"] - 1e-5, F)
    np.testing.assert_array_less(F, stored["agree5_max"] + 1e-5)
    positive = (maps[:, :, :2] > 0).sum((-2, -1)).min(-1)
    np.testing.assert_array_equal(np.asarray(found.zeros_in_top).reshape(12, 4), positive < 204)


def test_identical_maps_agree_and_disjoint_ones_do_not():
    first = random_maps()[0]
    assert tuple(map(float, agree(first, first))) == (1.0, 1.0, 0.0)
    left = jnp.asarray(np.pad(np.random.default_rng(0).random((12, 6)) + 0.1, [(0, 0), (0, 6)]), jnp.float32)
    assert tuple(map(float, agree(left, left[:, ::-1], percent=30))) == (0.0, 0.0, 0.0)


def test_agreement_is_symmetric():
    first, second = random_maps()
    np.testing.assert_array_equal(agree(first, second, percent=40), agree(second, first, percent=40))


def test_disjoint_patches_on_zeros_agree_by_ties_only():
    """Two far apart 20×20 patches on 224×224 'agree' on 5% of the pixels only because zeros fill the rest."""
    first, second = (jnp.asarray(patch(*at, 20, (224, 224)), jnp.float32) for at in ((150, 20), (190, 180)))
    found = agree(first, second)
    # 2,508 pixels in the top, of which 400 positive: both take the same first 2,108 zeros of the flat order
    assert float(found.F) == pytest.approx(2108 / 2508)
    assert float(found.F_plus) == 0.0
    assert bool(found.zeros_in_top)


def test_agreement_by_hand():
    first = jnp.asarray([[5.0, 4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    second = jnp.asarray([[0.0, 4.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0]])
    # tops of 4: {0, 1, 2, 3} and {9, 1, 3, 0}: 3 of 4 in common; positive ones {0, 1, 2, 3} and {1, 3, 9}: 2 of 4
    found = agree(first, second, percent=40)
    assert (float(found.F), float(found.F_plus), bool(found.zeros_in_top)) == (0.75, 0.5, True)
    # tops of 2: {0, 1} and {9, 1}, all positive: F⁺ is F
    found = agree(first, second, percent=20)
    assert (float(found.F), float(found.F_plus), bool(found.zeros_in_top)) == (0.5, 0.5, False)


def test_empty_maps_have_no_positive_agreement():
    found = agree(jnp.zeros((10, 10)), jnp.zeros((10, 10)))
    assert (float(found.F), float(found.F_plus), bool(found.zeros_in_top)) == (1.0, 0.0, True)


@pytest.mark.parametrize("percent", [0, 101])
def test_impossible_percentages_are_refused(percent):
    with pytest.raises(CaseJaxError, match="percent"):
        agreement(*random_maps(), percent=percent)


# --- fidelity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_removed_regions_are_the_references_region_and_not_its_transpose(golden, stored_maps, network):
    """The reference zeroes the transposed region by mistake; we do so only under the name that says it."""
    stored = np.unpackbits(golden(f"{network}_eval")["top50_mask_first"], axis=-1).astype(bool).reshape(-1, 64, 64)
    maps = stored_maps(network).reshape(-1, 64, 64)
    top, swapped = np.asarray(removals(maps, 2048)), np.asarray(transposed(maps, 2048))
    np.testing.assert_array_equal(top, stored)
    np.testing.assert_array_equal(swapped, stored.transpose(0, 2, 1))
    differs = (top != swapped).any((1, 2))
    assert differs.mean() > 0.9  # only a few symmetric maps cannot tell the two apart


def pixel_model(shape=(6, 6, 3)):
    """Class 1's logit is the sum of pixel (1, 4), class 0's is zero."""
    return tap_function(lambda p, x: jnp.stack([0.0, 1.0]) * tag(x, "a")[1, 4].sum(), (), "a", jnp.zeros(shape))


@pytest.mark.parametrize(("region", "removed"), [("top", True), ("reference-transposed", False)])
def test_exactly_the_marked_pixel_loses_its_effect(region, removed):
    model, image = pixel_model(), jnp.ones((6, 6, 3))
    saliency = jnp.zeros((6, 6)).at[1, 4].set(1.0)

    @jax.jit
    def run(image):
        return removed_probabilities(model.view((), image), saliency, jnp.int32(1), percents=(3,), region=region)

    p = run(image)
    assert p.shape == (1,)
    assert float(p[0]) == pytest.approx(0.5 if removed else 1 / (1 + np.exp(-3.0)), abs=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_removal_equals_a_plain_loop(toy, toy_images, fill):
    image, saliency, black, key = toy_images[0], random_maps()[0], jnp.asarray([-1.0, 0.0, 1.0]), jax.random.key(3)

    @jax.jit
    def run(image):
        view = toy.view(toy.params, image)
        return removed_probabilities(
            view, saliency, jnp.int32(2), percents=(5, 50, 100), fill=fill, black=black, key=key
        )

    found = run(image)
    other = filling(fill, image, black=black, key=key)
    for i, count in enumerate((7, 72, 144)):
        changed = jnp.where(top_mask(saliency, count)[..., None], other, image)
        np.testing.assert_allclose(found[i], jax.nn.softmax(toy.apply(toy.params, changed))[2], atol=1e-6)


def test_removing_everything_leaves_what_an_empty_image_gives(toy, toy_images):
    run = jax.jit(
        lambda x: removed_probabilities(toy.view(toy.params, x), random_maps()[0], jnp.int32(0), percents=(100,))
    )
    p = run(toy_images[0])
    np.testing.assert_allclose(p[0], jax.nn.softmax(toy.apply(toy.params, jnp.zeros((12, 12, 3))))[0], atol=1e-6)


def test_fidelity_columns_are_named_after_the_percentages(toy, toy_images):
    assert set(columns_of(fidelity_columns, toy, toy_images)) == {f"p_removed_{p}" for p in PERCENTS}
    assert set(columns_of(fidelity_columns, toy, toy_images, percents=(2.5, 50.0))) == {"p_removed_2.5", "p_removed_50"}
    assert (column(2.5), column(50.0)) == ("p_removed_2.5", "p_removed_50")


def test_fidelity_watches_the_predicted_class_under_its_own_map(toy, toy_images):
    scored = scored_by(toy)(random_maps(), toy_images[0], jax.random.key(0))
    expected = removed_probabilities(scored.view, scored.maps[0], scored.targets[0], percents=(50,))
    np.testing.assert_allclose(fidelity_columns(scored, percents=(50,))["p_removed_50"], expected[0], atol=1e-6)


@pytest.mark.parametrize("percents", [(0,), (50, 120)])
def test_impossible_removals_are_refused(toy, toy_images, percents):
    view = toy.view(toy.params, toy_images[0])
    with pytest.raises(CaseJaxError, match="percent"):
        removed_probabilities(view, random_maps()[0], jnp.int32(0), percents=percents)


def test_unknown_and_impossible_regions_are_refused():
    with pytest.raises(CaseJaxError, match=r"region: 'transposed' is unknown\. Did you mean 'reference-transposed'"):
        removal_mask(random_maps()[0], 3, region="transposed")
    with pytest.raises(CaseJaxError, match=r"region: .* a square map"):
        removal_mask(jnp.zeros((3, 4)), 3, region="reference-transposed")


# --- evidence ---------------------------------------------------------------------------------------------------------------

BODY, OWN, OTHER, NOWHERE = patch(0, 0, 6), patch(10, 0), patch(0, 12), patch(14, 14)
REGIONS = jnp.asarray([BODY, OWN, OTHER, NOWHERE])
SPEAKS_FOR = jnp.asarray([SHARED, 3, 8, NOBODY])


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (BODY, (1, 0, 0)),
        (OWN, (0, 1, 0)),
        (OTHER, (0, 0, 1)),
        (NOWHERE, (0, 0, 0)),
        (BODY | OWN, (36 / 52, 16 / 52, 0)),
    ],
)
def test_shares_of_maps_that_lie_on_one_region(region, expected):
    saliency = jnp.asarray(region, jnp.float32) * 0.3
    np.testing.assert_allclose(shares_of(saliency, REGIONS, SPEAKS_FOR, jnp.int32(3)), expected, atol=1e-6)
    np.testing.assert_allclose(shares_of(jnp.asarray(region), REGIONS, SPEAKS_FOR, jnp.int32(3)), expected, atol=1e-6)


def test_own_and_other_change_places_with_the_target():
    saliency = random_maps(shape=(20, 20))[0]
    of_3, of_8 = (shares_of(saliency, REGIONS, SPEAKS_FOR, jnp.int32(c)) for c in (3, 8))
    assert (float(of_3.own), float(of_3.other)) == (float(of_8.other), float(of_8.own))
    total = float(saliency.sum())
    assert float(of_3.shared) == pytest.approx(float(saliency[BODY].sum()) / total, rel=1e-5)


def test_pixels_of_overlapping_regions_of_one_kind_count_once():
    twice = jnp.asarray([OWN, OWN])
    shares = shares_of(jnp.asarray(OWN, jnp.float32), twice, jnp.asarray([3, 3]), jnp.int32(3))
    np.testing.assert_allclose(shares, (0, 1, 0), atol=1e-6)


@pytest.mark.parametrize(("saliency", "target"), [(jnp.zeros((20, 20)), 3), (jnp.ones((20, 20)), 7)])
def test_without_a_map_or_without_known_evidence_shares_are_undefined(saliency, target):
    assert np.isnan(shares_of(saliency, REGIONS, SPEAKS_FOR, jnp.int32(target))).all()


@pytest.mark.parametrize(
    ("peak", "target", "expected"), [((11, 1), 3, 1.0), ((11, 1), 8, 0.0), ((1, 1), 3, 0.0), ((11, 1), 7, np.nan)]
)
def test_pointing(peak, target, expected):
    saliency = random_maps(shape=(20, 20))[0].at[peak].set(2.0)
    np.testing.assert_equal(float(points(saliency, REGIONS, SPEAKS_FOR, jnp.int32(target))), expected)


def test_perfect_maps_have_perfect_columns(toy, toy_images):
    maps = jnp.asarray([OWN, OTHER], jnp.float32)
    view = toy.view(toy.params, toy_images[0])
    fine = jnp.zeros(2, bool)
    truth = (REGIONS, SPEAKS_FOR)
    scored = MetricInputs(maps, fine, view, jnp.asarray([3, 8]), jnp.ones(2), *truth, jnp.zeros(3), jax.random.key(0))
    columns = {k: float(v) for k, v in evidence_columns(scored, percent=4).items()}  # 16 pixels: the patch itself
    assert columns == {
        f"{part}_{kind}": float(kind == "own") for part in ("mass", "top") for kind in ("shared", "own", "other")
    } | {"points_1": 1, "points_2": 1}
    worst = evidence_columns(scored._replace(maps=maps[::-1]), percent=4)
    assert float(worst["mass_other"]) == 1
    assert [float(worst[k]) for k in ("mass_own", "top_own", "points_1", "points_2")] == [0, 0, 0, 0]


def test_data_without_evidence_have_no_such_columns(toy, toy_images):
    scored = scored_by(toy)(random_maps(), toy_images[0], jax.random.key(0))
    empty = scored._replace(regions=jnp.zeros((0, 12, 12), bool), region_classes=jnp.zeros(0, jnp.int32))
    assert evidence_columns(empty) == {}

"""Class-specific deletion and insertion: a linear classifier, of which every number is known; and what must be nothing is nothing."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from case_jax import CaseJaxError, tag, tap_function
from case_jax.metrics import (
    METRICS,
    ClassSpecificDeletion,
    MetricInputs,
    class_specific_deletion,
    class_specific_insertion,
    removed_probabilities,
)
from case_jax.metrics.pair_scores import SHIFT, shift_of, shifted
from case_jax.metrics.removals import merged, removed
from case_jax.metrics.specificity import PERCENTS
from case_jax.ranking import pixel_count, top_mask
from case_jax.source import SHARED

SIDE, CLASSES = 10, 4
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(SIDE, SIDE, CLASSES)).astype(np.float32)
IMAGE = RNG.normal(1.0, 1.0, size=(SIDE, SIDE, 1)).astype(np.float32)
PAIR = jnp.asarray([2, 0])
KEY = jax.random.key(3)


def linear(weights=WEIGHTS, link=None):
    """`z_c = Σ x W_c`: removing pixels takes their own sum away, and nothing else."""
    return tap_function(
        lambda p, x: jnp.einsum("hwd,hwc->c", tag(x, "a"), p, precision="highest"), weights, "a", IMAGE, link=link
    )


MODEL = linear()


def random_maps(seed=0, shape=(2, SIDE, SIDE)):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def scored(function, model, image, maps, key=KEY, **options):
    return function(model.view(model.params, jnp.asarray(image)), maps, PAIR, key=key, **options)


deletion = jax.jit(partial(scored, class_specific_deletion, MODEL))
insertion = jax.jit(partial(scored, class_specific_insertion, MODEL))


def by_hand(kept, weights=WEIGHTS):
    """m and L of an image of which these pixels are left."""
    z = np.einsum("hwd,hwc->c", np.where(kept[..., None], IMAGE, 0).astype(np.float64), weights)
    others = [z[c] for c in range(CLASSES) if c not in PAIR.tolist()]
    return z[2] - z[0], logsumexp([z[2], z[0]]) - logsumexp(others)


def masks_of(maps, percent):
    return [np.asarray(top_mask(m, pixel_count(percent, m.shape))) for m in maps]


def moved(mask, key=KEY):
    offsets = np.asarray(shift_of(jax.random.fold_in(key, SHIFT), mask.shape))
    return np.roll(mask, offsets, (0, 1))


def test_every_number_of_a_linear_classifier():
    maps = random_maps()
    found = deletion(IMAGE, maps)
    for i, percent in enumerate(PERCENTS):
        (m, _), masks = by_hand(np.ones((SIDE, SIDE), bool)), masks_of(maps, percent)
        (m_own, l_own), (m_rival, l_rival) = (by_hand(~mask) for mask in masks)
        elsewhere = np.mean([by_hand(~moved(mask))[1] for mask in masks])
        expected = {
            "specificity": m_rival - m_own,
            "lowers_own": m - m_own,
            "raises_rival": m_rival - m,
            "hurts_own": float(m_own < m < m_rival),
            "necessity": elsewhere - (l_own + l_rival) / 2,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(found, name)[i], value, atol=2e-4, err_msg=name)


def test_every_number_of_an_insertion_into_a_linear_classifier():
    maps = random_maps(1)
    found = insertion(IMAGE, maps)
    for i, percent in enumerate(PERCENTS):
        masks = masks_of(maps, percent)
        (m_own, l_own), (m_rival, l_rival) = map(by_hand, masks)
        elsewhere = np.mean([by_hand(moved(mask))[1] for mask in masks])
        np.testing.assert_allclose(found.specificity[i], m_own - m_rival, atol=2e-4)
        np.testing.assert_allclose(found.sufficiency[i], (l_own + l_rival) / 2 - elsewhere, atol=2e-4)


def test_the_map_of_each_class_s_own_pixels_is_best():
    """What a pixel gives A against B is a map of A; no other map of as many pixels has more specificity."""
    given = IMAGE[..., 0] * (WEIGHTS[..., 2] - WEIGHTS[..., 0])
    best = deletion(IMAGE, jax.nn.relu(jnp.asarray([given, -given])))
    np.testing.assert_array_equal(best.hurts_own, 1.0)
    for seed in range(5):
        assert (np.asarray(deletion(IMAGE, random_maps(seed)).specificity) < best.specificity).all()
    two = np.sort(given.ravel())
    np.testing.assert_allclose(best.specificity[0], two[-2:].sum() - two[:2].sum(), rtol=1e-4)


def test_noise_has_neither_on_average():
    images = jnp.asarray(RNG.normal(1.0, 1.0, (100, SIDE, SIDE, 1)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 100)
    found = jax.jit(jax.vmap(lambda x, m, k: scored(class_specific_deletion, MODEL, x, m, k)))(
        images, random_maps(5, (100, 2, SIDE, SIDE)), keys
    )
    for name in ("specificity", "necessity", "necessity_random"):
        values = np.asarray(getattr(found, name)).mean(1)
        assert abs(values.mean()) < 3 * values.std() / 10, name
        assert values.std() > 0.1, name  # each by itself is not


def conv_net(params, x):
    kernel, head = params
    a = jax.lax.conv_general_dilated(x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    return jax.nn.relu(tag(a, "a")).mean((0, 1)) @ head


def test_maps_that_are_the_same_for_both_have_exactly_nothing_and_exchanged_ones_exactly_the_opposite():
    rng = np.random.default_rng(2)
    params = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 3, 1, 6), (6, CLASSES))]
    images = jnp.asarray(rng.normal(size=(7, SIDE, SIDE, 1)), jnp.float32)
    net = tap_function(conv_net, params, "a", images[0])
    maps = random_maps(4, (7, 2, SIDE, SIDE))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0))
    def both(x, m):
        return [scored(f, net, x, m) for f in (class_specific_deletion, class_specific_insertion)]

    blind, own, other = (both(images, m) for m in (maps[:, :1].repeat(2, 1), maps, maps[:, ::-1]))
    for number in (0, 1):
        np.testing.assert_array_equal(blind[number].specificity, 0.0)
        np.testing.assert_array_equal(own[number].specificity, -other[number].specificity)
        np.testing.assert_allclose(own[number][-1], other[number][-1], atol=1e-5)  # these do not ask whose map it is
    np.testing.assert_array_equal(blind[0].hurts_own, 0.0)
    assert np.abs(own[0].specificity).min() > 1e-4
    alone = jax.jit(lambda x, m: scored(class_specific_deletion, net, x, m))(images[0], maps[0])
    for name, value in own[0]._asdict().items():
        np.testing.assert_allclose(value[0], getattr(alone, name), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("model", "weights"), [("two classes", WEIGHTS[..., [2, 0]]), ("identity", WEIGHTS)])
def test_where_there_are_no_others_necessity_is_unknown_and_its_columns_are_left_out(model, weights):
    net = linear(weights, "identity" if model == "identity" else None)
    pair = jnp.asarray([0, 1])

    @jax.jit
    def run(image):
        view = net.view(net.params, image)
        known = (class_specific_deletion(view, random_maps(), pair, key=KEY), *columns_of(view, random_maps(), pair))
        return *known, class_specific_insertion(view, random_maps(), pair, key=KEY).sufficiency

    found, deleted, inserted, sufficiency = run(IMAGE)
    assert np.isfinite(found.specificity).all()
    assert np.isnan([found.necessity, found.necessity_random, sufficiency]).all()
    assert not [name for name in (*deleted, *inserted) if name.startswith(("necessity", "sufficiency"))]
    assert np.isfinite(list(deleted.values())).all()


def columns_of(view, maps, pair, key=KEY, regions=(), classes=()):
    inputs = MetricInputs(
        maps, jnp.zeros(2, bool), view, pair, jnp.ones(2), jnp.asarray(regions, bool).reshape(-1, SIDE, SIDE),
        jnp.asarray(classes, jnp.int32), jnp.zeros(1), key,
    )  # fmt: skip
    known = METRICS["specificity"].of_image(inputs._replace(maps=maps[:0], degenerate=jnp.zeros(0, bool)))
    beside = METRICS["specificity"].columns(inputs._replace(of_image=known))
    assert beside.keys() == METRICS["specificity"].columns(inputs).keys()
    return beside, METRICS["specificity_insertion"].columns(inputs)


def test_columns_are_the_functions_and_the_oracle_removes_the_true_parts():
    parts = np.zeros((4, SIDE, SIDE), bool)
    parts[0, :5], parts[1, 5:7, :4], parts[2, 7:, 6:], parts[3, 6:8, 1:3] = True, True, True, True
    classes = (SHARED, 2, 0, 2)

    @jax.jit
    def run(image):
        view = MODEL.view(MODEL.params, image)
        known = columns_of(view, random_maps(), PAIR, regions=parts, classes=classes)
        return *known, columns_of(view, random_maps(), PAIR, regions=parts[:2], classes=classes[:2])[0]

    deleted, inserted, half_known = run(IMAGE)
    expected, shown = deletion(IMAGE, random_maps()), insertion(IMAGE, random_maps())
    for name in ClassSpecificDeletion._fields:
        for i, percent in enumerate(PERCENTS):
            np.testing.assert_allclose(deleted[f"{name}_{percent:g}"], getattr(expected, name)[i], atol=1e-4)
    for name in ("specificity", "necessity", "necessity_random", "hurts_own"):
        np.testing.assert_allclose(deleted[name], getattr(expected, name).mean(), atol=1e-4)
    np.testing.assert_allclose(inserted["specificity_insertion"], shown.specificity.mean(), atol=1e-4)
    np.testing.assert_allclose(inserted["sufficiency_20"], shown.sufficiency[3], atol=1e-4)
    own, rival = parts[1] | parts[3], parts[2]
    np.testing.assert_allclose(deleted["specificity_oracle"], by_hand(~rival)[0] - by_hand(~own)[0], atol=2e-4)
    necessity = np.mean([by_hand(~moved(part))[1] - by_hand(~part)[1] for part in (own, rival)])
    np.testing.assert_allclose(deleted["necessity_oracle"], necessity, atol=2e-4)
    assert np.isnan(half_known["specificity_oracle"])  # nothing is known to speak for the rival


def test_what_metrics_share_is_asked_once_and_changes_nothing():
    """Fidelity and specificity take the same passes at equal percentages, and a class-blind map needs none of its own for the rival."""
    maps = jnp.stack([random_maps(), jnp.broadcast_to(random_maps(1)[:1], (2, SIDE, SIDE))])
    names, passes = ("fidelity", "specificity"), []

    def counting(params, x):
        jax.debug.callback(lambda _: passes.append(1), x[0, 0, 0])
        return jnp.einsum("hwd,hwc->c", tag(x, "a"), params, precision="highest")

    @jax.jit
    def run(image):
        view = replace(MODEL.view(MODEL.params, image), predict=lambda x: counting(MODEL.params, x))
        wanted = merged(METRICS[name].removal() for name in names)
        left = removed(view, maps, (False, True), wanted, black=jnp.zeros(1), key=KEY)
        found = []
        for i in range(2):
            inputs = MetricInputs(
                maps[i], jnp.zeros(2, bool), view, PAIR, jnp.ones(2), jnp.zeros((0, SIDE, SIDE), bool), jnp.zeros(0, jnp.int32), jnp.zeros(1), KEY,
                removed=jax.tree.map(lambda a, i=i: a[i], left),
            )  # fmt: skip
            known = METRICS["specificity"].of_image(inputs)
            found.append([METRICS[name].columns(inputs._replace(of_image=known)) for name in names])
        return found, left

    found, left = run(IMAGE)
    jax.effects_barrier()
    # 11 percentages and 4 moved of two first maps, 4 and 4 of one second, and twice 8 with random pixels
    assert len(passes) == 2 * 15 + 8 + 2 * 8
    assert list(left["mean"][1]) == list(PERCENTS)
    for (fidelity, specificity), pair in zip(found, maps, strict=True):
        expected = deletion(IMAGE, pair)
        np.testing.assert_allclose(specificity["specificity"], expected.specificity.mean(), atol=1e-4)
        np.testing.assert_allclose(specificity["necessity_10"], expected.necessity[2], atol=1e-4)
        view = MODEL.view(MODEL.params, jnp.asarray(IMAGE))
        np.testing.assert_allclose(
            fidelity["p_removed_30"], removed_probabilities(view, pair[0], PAIR[0])[3], atol=1e-5
        )
    assert found[1][1]["specificity"] == 0


def test_a_metric_that_declares_nothing_asks_for_itself():
    """Another fill, or another percentage, than those that others had asked for."""
    maps, columns = random_maps(), METRICS["fidelity"].columns

    @jax.jit
    def run(image):
        view = MODEL.view(MODEL.params, image)
        wanted = merged([METRICS["fidelity"].removal(percents=(10.0,))])
        left = removed(view, maps[None], (False,), wanted, black=jnp.zeros(1), key=KEY)
        alone = MetricInputs(
            maps, jnp.zeros(2, bool), view, PAIR, jnp.ones(2), jnp.zeros((0, SIDE, SIDE), bool), jnp.zeros(0, jnp.int32), jnp.zeros(1), KEY
        )  # fmt: skip
        beside = alone._replace(removed=jax.tree.map(lambda a: a[0], left))
        asked = ({"fill": "blur", "percents": (10.0,)}, {"percents": (10.0, 30.0)})
        return [[columns(inputs, **options) for options in asked] for inputs in (alone, beside)]

    alone, beside = run(IMAGE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), beside, alone)
    assert float(alone[0]["p_removed_10"]) != float(alone[1]["p_removed_10"])


def test_without_a_key_there_is_nothing_to_hold_necessity_against():
    found = deletion(IMAGE, random_maps(), None)
    assert np.isnan([found.necessity, found.necessity_random]).all()
    np.testing.assert_allclose(found.specificity, deletion(IMAGE, random_maps()).specificity, atol=1e-5)
    assert np.isnan(insertion(IMAGE, random_maps(), None).sufficiency).all()


@pytest.mark.parametrize("shape", [(40,), (7, 12), (1, 9, 1), (2, 3, 4)])
def test_a_shift_is_a_quarter_of_each_side_at_least_and_loses_no_pixel(shape):
    draw = jax.jit(jax.vmap(lambda key: shift_of(key, shape)))
    offsets = np.asarray(draw(jax.random.split(KEY, 300)))
    for axis, side in enumerate(shape):
        quarter = -(-side // 4) if side > 1 else 0
        assert offsets[:, axis].min() == quarter
        assert offsets[:, axis].max() == side - quarter * (side > 1) - (side == 1)
    mask = jnp.asarray(RNG.random((3, *shape)) > 0.5)
    there = jax.jit(shifted)(mask, jnp.asarray(offsets[0]))
    np.testing.assert_array_equal(there, np.roll(np.asarray(mask), offsets[0], tuple(range(1, len(shape) + 1))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maps": random_maps(shape=(3, SIDE, SIDE))}, r"maps: got shape \(3, 10, 10\); accepted: two finished maps"),
        ({"targets": jnp.asarray([1, 1])}, "targets: got 1 twice; accepted: two different classes"),
        ({"targets": jnp.asarray([1, 9])}, r"targets: got \[9\]; accepted: class indices from 0 to 3"),
        ({"targets": jnp.asarray([1])}, "targets: got shape"),
        ({"percents": (0.5,)}, "percent: got 0.5% of 10×10 pixels; accepted: at least one pixel"),
        ({"fill": "grey"}, "fill: 'grey' is unknown"),
        ({"fill": "noise", "key": None}, "key: the fill 'noise' needs"),
    ],
)
@pytest.mark.parametrize("function", [class_specific_deletion, class_specific_insertion])
def test_what_cannot_be_compared_is_refused(function, change, words):
    view = MODEL.view(MODEL.params, jnp.asarray(IMAGE))
    given = {"maps": random_maps(), "targets": PAIR, "key": KEY} | change
    with pytest.raises(CaseJaxError, match=words):
        function(view, given.pop("maps"), given.pop("targets"), **given)


def test_a_traced_class_that_does_not_exist_has_no_scores():
    def run(targets):
        view = MODEL.view(MODEL.params, jnp.asarray(IMAGE))
        return class_specific_deletion(view, random_maps(), targets, key=KEY)

    for value in jax.jit(run)(jnp.asarray([1, CLASSES])):
        assert np.isnan(value).all()


def test_a_chunk_bounds_the_copies_in_memory_and_changes_nothing():
    def run(chunk):
        view = replace(MODEL.view(MODEL.params, jnp.asarray(IMAGE)), chunk=chunk)
        return class_specific_deletion(view, random_maps(), PAIR, key=KEY)

    for few, many in zip(jax.jit(run, static_argnums=0)(3), deletion(IMAGE, random_maps()), strict=True):
        np.testing.assert_allclose(few, many, atol=1e-4)

"""Statistics of images that are not independent: by hand, against all pairs, and by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from case_jax import stats
from case_jax._checks import CaseJaxError
from case_jax.metric_column import MetricColumn
from case_jax.stats.intervals import standard_error
from case_jax.stats.sharing import independent
from case_jax.stats.verdict import with_verdicts

FIVE = np.array([[0, 7], [0, 8], [1, 7], [2, -1], [-1, -1]])
"""Image 0 shares 0 with image 1 and 7 with image 2; images 3 and 4 stand alone."""


def pairs_that_share(clusters):
    """The n × n matrix that the fast sums never form."""
    shared = [
        [i == j or bool(set(a[a >= 0]) & set(b[b >= 0])) for j, b in enumerate(clusters)]
        for i, a in enumerate(clusters)
    ]
    return np.array(shared, float)


def test_a_standard_error_by_hand():
    errors = np.array([1.0, 2.0, -1.0, 3.0, -5.0])
    # squares 1 + 4 + 1 + 9 + 25 = 40; pairs (0, 1) and (0, 2), both ways: 2 · 2 − 2 · 1 = 2, so 42 in all. Clusters: the first
    # column has 0, 1, 2 and one image without, the second 7, 8 and two without: 4.
    sharing = stats.sharing_of(FIVE)
    assert sharing.pair_sum(errors) == 42
    assert sharing.number() == 4
    assert standard_error(errors, sharing) == pytest.approx(np.sqrt(42 / 25 * 4 / 3))
    values = 10 + errors
    half = scipy_stats.t.ppf(0.975, 3) * np.sqrt(42 / 25 * 4 / 3)
    assert stats.mean_interval(values, FIVE) == pytest.approx((10, 10 - half, 10 + half))


def test_where_nearly_all_pairs_share_something_a_jackknife_leaves_out_one_thing_at_a_time():
    """Two by two of three photographs: images 0 to 2 are (0, 1), (0, 2), (1, 2), and every pair shares one."""
    sharing, errors = stats.sharing_of(np.array([[0, 1], [0, 2], [1, 2]])), np.array([1.0, 2.0, -3.0])
    assert sharing.pair_sum(np.ones(3)) == 9
    without = np.array([-3.0, 2.0, 1.0])  # the one image that lacks photograph 0, 1, 2
    assert standard_error(errors, sharing) == pytest.approx(np.sqrt(2 / 3 * (without**2).sum()))
    assert np.isnan(
        standard_error(errors, stats.sharing_of(np.array([[0, 1], [0, 2], [0, 1]])))
    )  # all have photograph 0


def test_the_jackknife_covers_where_mosaics_share_five_photographs():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(200):
        mosaics = np.stack([rng.permutation(5)[:4] for _ in range(100)])
        values = rng.normal(size=5)[mosaics].mean(1) + 0.5 * rng.normal(size=100)
        low, high = stats.mean_interval(values, mosaics)[1:]
        hits.append(low < 0 < high)
    assert 0.88 <= np.mean(hits) <= 1


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 12])
def test_sums_over_groups_are_sums_over_pairs(columns):
    """Ids in any column count, one that an image has twice counts once, and pairs that share several count once."""
    rng = np.random.default_rng(columns)
    for _ in range(20):
        clusters = rng.integers(-1, 9 if columns < 12 else 90, (30, columns))
        errors, sharing = rng.normal(size=30), stats.sharing_of(clusters)
        assert sharing.pair_sum(errors) == pytest.approx(errors @ pairs_that_share(clusters) @ errors)
        some = rng.permutation(30)[:12]
        expected = errors[some] @ pairs_that_share(clusters[some]) @ errors[some]
        assert sharing.take(some).pair_sum(errors[some]) == pytest.approx(expected)
        assert sharing.take(some).number() == stats.sharing_of(clusters[some]).number()


def test_without_sharing_it_is_the_usual_standard_error():
    values = np.random.default_rng(0).normal(size=40)
    for clusters in (np.full((40, 2), -1), np.arange(40)[:, None], independent(40)):
        found = stats.mean_interval(values, clusters)
        expected = scipy_stats.t.interval(0.95, 39, values.mean(), scipy_stats.sem(values))
        assert found[1:] == pytest.approx(expected)


def test_opposite_values_in_a_cluster_never_count_for_more_than_independent_ones():
    values, clusters = np.tile([0.0, 1.0], 20), np.repeat(np.arange(20), 2)[:, None]
    half = scipy_stats.t.ppf(0.975, 19) * np.sqrt(values.var() / 40 * 20 / 19)
    assert stats.mean_interval(values, clusters) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def scenes(rng, count=400, strokes=24, spread=1.0):
    """Skewed values of scenes of three strokes each; the two markers are of one pool."""
    body, markers = rng.integers(0, strokes, count), np.array([rng.permutation(strokes)[:2] for _ in range(count)])
    ids = np.column_stack([body, strokes + markers])
    effects = rng.normal(0, spread, 2 * strokes)
    return effects[ids].sum(1) + rng.normal(size=count), ids


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_intervals_by_cluster_cover_where_those_by_image_do_not(statistic):
    rng, runs, truth = np.random.default_rng(1), 300, 0.0
    interval = {"mean": stats.mean_interval, "median": stats.median_interval}[statistic]
    by_cluster = by_image = 0
    for _ in range(runs):
        values, ids = scenes(rng)
        found = interval(values, ids)
        by_cluster += found.low <= truth <= found.high
        found = interval(values, None, resamples=200)
        by_image += found.low <= truth <= found.high
    assert 0.90 < by_cluster / runs < 0.98
    assert by_image / runs < 0.6


def test_the_sign_test_by_cluster_keeps_its_level_where_the_exact_one_does_not():
    rng, runs = np.random.default_rng(2), 400
    tests = [
        (stats.sign_test(v, 0.0, ids).p, stats.sign_test(v, 0.0).p) for v, ids in (scenes(rng) for _ in range(runs))
    ]
    by_cluster, exact = (np.array(tests) < 0.05).mean(0)
    assert by_cluster < 0.08
    assert exact > 0.2


def test_the_exact_sign_test():
    values = np.array([0.1, 0.2, 0.5, 0.5, 0.6, 0.3, 0.4])
    assert stats.sign_test(values, 0.5) == (pytest.approx(6 / 32), 4, 1, 2)  # at most 1 of 5 above: (1 + 5) / 2⁵
    assert stats.sign_test(np.full(4, 0.5), 0.5) == (1.0, 0, 0, 4)
    assert np.isnan(stats.sign_test(np.array([]), 0.5).p)


def test_the_sign_test_by_cluster_by_hand():
    # all below: deviations from ½ are −½, so Σ = (5 + 4 pairs) / 4, SE² = 9 / 100 · 4 / 3, t = −½ / SE with 3 degrees of freedom
    found = stats.sign_test(np.zeros(5), 0.5, FIVE)
    assert found == (pytest.approx(scipy_stats.t.cdf(-0.5 / np.sqrt(0.12), 3)), 5, 0, 0)
    # the value at the threshold is dropped with its pairs: Σ = 4 / 4
    found = stats.sign_test(np.array([0.5, 0, 0, 0, 0]), 0.5, FIVE)
    assert found == (pytest.approx(scipy_stats.t.cdf(-0.5 / np.sqrt(1 / 16 * 4 / 3), 3)), 4, 0, 1)


def test_one_cluster_says_nothing():
    values, one = np.array([0.1, 0.2, 0.3]), np.zeros((3, 1), int)
    assert np.isnan(stats.sign_test(values, 0.5, one).p)
    for interval in (stats.mean_interval, stats.median_interval):
        assert np.isnan(interval(values, one)[1:]).all()
        assert interval(np.full(3, 0.25), one) == (0.25, 0.25, 0.25)
        assert np.isnan(interval(np.array([]), np.zeros((0, 1), int))).all()


def test_ties_do_not_narrow_the_interval_of_a_median():
    """60 of 100 zeros: that more than half of the population is zero is not shown, so the upper limit is no zero."""
    values = np.r_[np.zeros(52), np.linspace(0.1, 1, 48)]
    found = stats.median_interval(values, np.arange(100)[:, None])
    assert (found.value, found.low) == (0, 0)
    assert found.high > 0
    assert stats.median_interval(np.r_[np.zeros(90), np.ones(10)], np.arange(100)[:, None]) == (0, 0, 0)


def test_the_median_s_interval_without_sharing_is_that_of_order_statistics():
    values = np.arange(100.0)
    found = stats.median_interval(values, np.arange(100)[:, None])
    assert found == (49.5, 39, 60)  # Conover: the 40th and the 61st of 100


def test_many_images_need_no_matrix_of_pairs():
    """50,000 images with 400 strokes share 90 million pairs."""
    rng = np.random.default_rng(0)
    ids = np.column_stack([rng.integers(0, 200, 50_000), 200 + rng.integers(0, 200, (50_000, 2))])
    sharing = stats.sharing_of(ids)
    assert sharing.members.nnz < 7 * 50_000
    assert stats.mean_interval(rng.normal(size=50_000), sharing).high < 0.1


def test_bad_clusters_are_refused():
    with pytest.raises(CaseJaxError, match=r"clusters: got shape \(3,\)"):
        stats.mean_interval(np.arange(3.0), np.arange(3))
    with pytest.raises(CaseJaxError, match=r"clusters: got 11 ids an image, up to 550,000,000 pairs that share one"):
        stats.sharing_of(np.repeat(np.arange(11)[None], 10_000, 0))


def test_a_ratio_of_means_by_hand():
    """y = (2, 4), x = (1, 3): R = 6 / 4, and e = ((2 − 1.5) / 2, (4 − 4.5) / 2) = ±¼, whose mean has the error √(2 · (1/16) / 4 · 2)."""
    ratio = stats.ratio_of_means(np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    assert np.isnan(ratio.value)  # x has the mean 2 ± 12.7: it may be 0
    x = np.array([2.9, 3.1, 3.0, 3.0])
    y = 2 * x + np.array([0.1, -0.1, 0.1, -0.1])
    found = stats.ratio_of_means(y, x)
    e = (y - 2 * x) / 3
    half = scipy_stats.t.ppf(0.975, 3) * np.sqrt((e**2).sum() / 16 * 4 / 3)
    assert found == pytest.approx((2, 2 - half, 2 + half))
    twice = stats.ratio_of_means(np.tile(y, 2), np.tile(x, 2), np.tile(np.arange(4), 2)[:, None])
    assert twice == pytest.approx(found)  # each image twice, as one cluster, is no more knowledge
    assert stats.ratio_of_means(3 * x, x) == pytest.approx((3, 3, 3))
    for nothing in (np.array([1.0, -1.0, 0.5, -0.5]), np.zeros(4), -x, np.array([])):
        assert np.isnan(stats.ratio_of_means(nothing.copy(), nothing)).all()


def test_a_ratio_s_interval_covers_by_cluster():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        shared, ids = rng.normal(0, 0.3, 20), rng.integers(0, 20, 200)
        x = 2 + shared[ids] + 0.2 * rng.normal(size=200)
        y = 0.5 * x + rng.normal(0, 0.2, 20)[ids] + 0.2 * rng.normal(size=200)
        _, low, high = stats.ratio_of_means(y, x, ids[:, None])
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_shares_of_the_true_parts_are_given_where_these_are_above_nothing():
    column = MetricColumn("specificity", "specificity", "a note", maps="both", percent=False)
    data = rows()
    rng = np.random.default_rng(0)
    oracle = pd.Series(4 + rng.normal(size=data["image_id"].nunique()), index=data["image_id"].unique())
    data = data.assign(specificity_oracle=data["image_id"].map(oracle))
    data = data.assign(specificity=0.5 * data["specificity_oracle"])
    found = stats.summarise(data, columns=[column])
    assert found.oracles["specificity"].value == pytest.approx(oracle.mean())
    assert tuple(
        found.table.loc["case", [f"specificity_share_{n}" for n in ("ratio", "low", "high")]]
    ) == pytest.approx((0.5,) * 3)
    around_nothing = data.assign(specificity_oracle=data["image_id"].map(oracle - oracle.mean()))
    undivided = stats.summarise(around_nothing, columns=[column])
    assert undivided.oracles["specificity"].low < 0 < undivided.oracles["specificity"].high
    assert "specificity_share_ratio" not in undivided.table


# --- a run's rows -----------------------------------------------------------------------------------------------------------

METHODS = ("grad_cam", "case", "twin", "random")


def rows(count=60, strokes=6):
    rng = np.random.default_rng(3)
    stroke = rng.integers(0, strokes, count)
    agreement = {
        "grad_cam": 0.45 + 0.3 * (stroke / strokes - 0.45),
        "case": 0.1 + 0 * stroke,
        "random": 0.05 + 0 * stroke,
    }
    agreement["case"] = agreement["case"] + rng.uniform(0, 0.2, count)
    agreement["twin"] = agreement["case"]
    frames = []
    for method in METHODS:
        frame = pd.DataFrame({"image_id": np.arange(count), "label": 1, "method": method, "top1": 1, "p1": 0.8})
        frame["degenerate_1"] = frame["degenerate_2"] = False
        frame["F"] = frame["F_plus"] = agreement[method].astype(np.float32)
        frame["zeros_in_top"] = False
        frame["p_removed_50"] = 0.8 * (
            0.5 + 0.05 * (stroke / strokes) * (method == "case") + rng.normal(0, 0.01, count)
        )
        frames.append(frame.assign(cluster_1=stroke))
    return pd.concat(frames, ignore_index=True)


def test_a_run_s_intervals_are_by_cluster_where_rows_name_them():
    data = rows()
    shared = stats.summarise(data)
    alone = stats.summarise(data.drop(columns="cluster_1"), resamples=300)
    assert (shared.clusters, alone.clusters) == (6, 0)
    one = data[data["method"] == "case"]
    assert tuple(shared.table.loc["case", ["drop_mean", "drop_low", "drop_high"]]) == pytest.approx(
        stats.mean_interval(stats.drops(one, 50).to_numpy(), one[["cluster_1"]].to_numpy())
    )
    assert tuple(shared.table.loc["grad_cam", ["F_median", "F_low", "F_high"]]) == pytest.approx(
        stats.median_interval(
            data.loc[data["method"] == "grad_cam", "F"].to_numpy(float), one[["cluster_1"]].to_numpy()
        ),
        abs=1e-6,
    )
    assert shared.table.loc["grad_cam", "p_0.5"] > alone.table.loc["grad_cam", "p_0.5"]


def test_order_of_rows_does_not_matter():
    data = rows()
    shuffled = data.sample(frac=1, random_state=0).sort_values(
        "method", kind="stable", key=lambda m: m.map(METHODS.index)
    )
    pd.testing.assert_frame_equal(stats.summarise(data).table, stats.summarise(shuffled).table)


def test_paired_differences_are_by_cluster():
    data = rows()
    pairs = stats.paired_tests(data, "case").set_index("method")
    by_image = stats.paired_tests(data.drop(columns="cluster_1"), "case").set_index("method")
    drop = {m: stats.drops(data[data["method"] == m], 50).to_numpy() for m in METHODS}
    difference = drop["grad_cam"] - drop["case"]
    ids = data.loc[data["method"] == "case", ["cluster_1"]].to_numpy()
    found = tuple(pairs.loc["grad_cam", ["mean_difference", "low", "high"]])
    assert found == pytest.approx(stats.mean_interval(difference, ids))
    assert abs(pairs.loc["grad_cam", "t"]) < abs(by_image.loc["grad_cam", "t"])
    usual = scipy_stats.ttest_rel(drop["grad_cam"], drop["case"])
    assert tuple(by_image.loc["grad_cam", ["t", "p_t"]]) == pytest.approx(tuple(usual))
    interval = usual.confidence_interval()
    assert tuple(by_image.loc["grad_cam", ["low", "high"]]) == pytest.approx((interval.low, interval.high))


def test_the_family_leaves_out_controls_and_counts_equal_maps_once():
    table = stats.summarise(rows(strokes=12), controls=["random"]).table
    assert table["same_as"].tolist() == ["", "", "case", ""]
    for name in ("p", "wilcoxon"):
        p, holm = table[f"{name}_0.5"], table[f"{name}_holm_0.5"]
        assert holm[["grad_cam", "case"]].tolist() == stats.holm(p[["grad_cam", "case"]].tolist()).tolist()
        assert holm["twin"] == holm["case"]
        assert np.isnan(holm["random"])
    assert table["sensitive_0.5"].tolist() == [False, True, True, True]  # a control is judged by its own p


def test_a_verdict_needs_the_interval_below_the_threshold_too():
    data = rows().drop(columns="cluster_1").assign(F=np.float32(0.49))
    table = stats.summarise(data, resamples=50).table
    assert table["sensitive_0.5"].all()
    raised = table.assign(F_high=0.51)
    assert not with_verdicts(raised, data, [], [0.5])["sensitive_0.5"].any()


def test_the_median_is_tested_not_the_pseudo_median():
    """A skewed sample with a median of 51%: Wilcoxon calls it below 50%, the sign test does not."""
    F = np.r_[np.full(52, 0.51), np.linspace(0.0, 0.3, 48)]
    assert stats.below(F, 0.5).p < 0.001
    assert stats.sign_test(F, 0.5).p > 0.5

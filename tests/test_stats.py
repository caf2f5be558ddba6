import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from case_jax import CaseJaxError, stats
from case_jax.metric_column import MetricColumn
from case_jax.stats.tests import signed_rank


def test_wilcoxon_equals_the_reference(golden):
    metrics = golden("metrics")
    for scores in ("scores", "scores_ties"):
        for theta in (50, 70):
            test = stats.below(metrics[scores], theta)
            assert (test.statistic, test.p) == tuple(metrics[f"{scores}_wilcoxon{theta}"])


def test_percent_and_fraction_scores_give_the_same_verdict(golden):
    scores = golden("metrics")["scores"]
    assert stats.below(scores / 100, 0.5).p == pytest.approx(stats.below(scores, 50).p, rel=1e-12)


def test_effect_size_by_hand():
    # differences −3, −2, 1: negative ranks 3 + 2, positive rank 1, so (1 − 5) / 6
    assert stats.below(np.array([-3.0, -2.0, 1.0]), 0.0).effect == pytest.approx(-4 / 6)
    assert stats.below(np.full(9, 0.1), 0.5).effect == -1
    assert stats.below(np.full(9, 0.9), 0.5).effect == 1


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
@pytest.mark.parametrize(
    "differences", [[-2, -2, 1, 3], [0, -1, 2, 2, -4], [1, 1, 1], [-1, 0], [3, -1, 2, -5], [0, 2, -1]]
)
def test_few_differences_have_scipy_s_numbers(differences, alternative):
    found = signed_rank(np.array(differences, float), alternative)
    assert found == tuple(wilcoxon(np.array(differences, float), alternative=alternative))


def test_few_tied_differences_by_hand():
    # ranks 1.5, 1.5, 3 of |−1|, |1|, |−2|: of the 8 sums 0, 1.5, 1.5, 3, 3, 4.5, 4.5, 6 three are at most 1.5
    assert signed_rank(np.array([-1.0, 1.0, -2.0, 0.0]), "less") == (1.5, 3 / 8)


def test_degenerate_samples_of_the_signed_rank_test():
    assert np.isnan(stats.below(np.array([]), 0.5)).all()
    assert stats.below(np.full(4, 0.5), 0.5) == (0.0, 1.0, 0.0)


def test_holm_by_hand():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(stats.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    np.testing.assert_allclose(
        stats.holm([0.6, 0.5, 0.02, 0.02]), [1, 1, 0.08, 0.08]
    )  # never above 1, equal ones alike
    assert stats.holm([]).shape == (0,)


def test_bootstrap_interval_covers_and_degenerates():
    sample = np.random.default_rng(0).normal(2.0, 1.0, 400)
    interval = stats.bootstrap(sample, "mean")
    assert interval.low < sample.mean() < interval.high
    # the normal-theory half-width is 1.96 / √400
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * sample.std() / 20, rel=0.1)
    assert stats.bootstrap(np.full(5, 3.0), "median") == (3.0, 3.0, 3.0)
    assert np.isnan(stats.bootstrap(np.array([]), "mean")).all()


def rows(count: int = 40, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frames = []
    for method, drop in (("grad_cam", 0.3), ("case", 0.6)):
        frame = pd.DataFrame(
            {"image_id": np.arange(count), "name": "x", "label": 1, "method": method, "top1": 1, "top2": 2}
        )
        frame["p1"], frame["p2"] = 0.8, 0.2
        frame["degenerate_1"] = frame["degenerate_2"] = False
        frame["F"] = frame["F_plus"] = rng.uniform(0.0, 0.3, count)
        frame["zeros_in_top"] = False
        frame["p_removed_50"] = 0.8 * (1 - drop) + rng.normal(0, 0.01, count)
        frame["p_removed_10"] = 0.8
        frames.append(frame.assign(**columns))
    return pd.concat(frames, ignore_index=True)


def test_summary_of_known_rows():
    summary = stats.summarise(rows(), resamples=200)
    assert list(summary.table.index) == ["grad_cam", "case"]
    assert summary.table.loc["case", "drop_mean"] == pytest.approx(0.6, abs=0.01)
    assert summary.table.loc["case", "sweep_mean"] == pytest.approx(0.3, abs=0.01)
    assert summary.table["sensitive_0.5"].all()
    assert summary.pairs.loc[0, "method"] == "grad_cam"
    assert summary.pairs.loc[0, "mean_difference"] == pytest.approx(-0.3, abs=0.01)
    assert summary.pairs.loc[0, "p_t_holm"] < 1e-10


def test_pairs_are_joined_by_image_id_not_by_position():
    data = rows()
    shuffled = pd.concat([data[data.method == "grad_cam"].sample(frac=1, random_state=0), data[data.method == "case"]])
    pd.testing.assert_frame_equal(stats.paired_tests(data, "case"), stats.paired_tests(shuffled, "case"))


def test_degenerate_maps_are_counted_and_left_out():
    data = rows()
    data.loc[(data.method == "case") & (data.image_id < 10), ["degenerate_2", "F"]] = [True, 1.0]
    table = stats.summarise(data, resamples=50).table
    assert table.loc["case", "degenerate"] == 10
    assert table.loc["case", "n_F"] == 30
    assert table.loc["case", "F_mean"] < 0.3
    assert table.loc["case", "n_drop"] == 40  # the top-1 maps are fine


def test_wrong_predictions_are_left_out_of_fidelity_and_unlabelled_ones_are_not():
    data = rows()
    data.loc[data.image_id < 5, "label"] = 3
    data.loc[data.image_id >= 35, "label"] = -1
    summary = stats.summarise(data, resamples=50)
    assert (summary.table["n_drop"] == 35).all()
    assert [n for text, n in summary.counts.items() if "wrongly" in text] == [5]
    assert [n for text, n in summary.counts.items() if "without a label" in text] == [5]


def test_a_method_with_only_degenerate_maps_has_no_verdict():
    data = rows()
    data.loc[data.method == "case", ["degenerate_1", "degenerate_2"]] = True
    summary = stats.summarise(data, resamples=50)
    assert np.isnan(summary.table.loc["case", "p_0.5"])
    assert not summary.table.loc["case", "sensitive_0.5"]
    assert summary.table.loc["grad_cam", "p_holm_0.5"] == summary.table.loc["grad_cam", "p_0.5"]
    assert summary.pairs.empty


def test_one_sided_threshold_is_not_rejected_above_it():
    summary = stats.summarise(rows().assign(F=0.9 - 0.01 * np.arange(80)[::-1] / 80), resamples=50)
    assert not summary.table["sensitive_0.7"].any()
    assert (summary.table["effect_0.7"] == 1).all()


def test_clipped_and_signed_drops():
    data = rows(4).assign(p1=0.5, p_removed_50=0.75)
    assert (stats.drops(data, 50) == 0).all()
    assert (stats.drops(data, 50, clipped=False) == -0.5).all()


def test_scores_at_the_threshold_are_neither_below_nor_above_in_float32_either():
    data = rows().assign(F=np.float32(0.7))
    assert (stats.summarise(data, resamples=20).table["p_0.7"] == 1).all()


def test_equal_distances_from_the_threshold_tie():
    # 0.65 and 0.75 are equally far from 0.7, though not in binary
    assert stats.below(np.array([0.65, 0.75]), 0.7).effect == 0


def test_an_image_id_that_occurs_twice_is_refused():
    with pytest.raises(CaseJaxError, match="image id 0 occurs more than once"):
        stats.summarise(pd.concat([rows(3), rows(3)]))


def test_a_constant_difference_has_a_signed_rank_test():
    data = rows(20)
    data["p_removed_50"] = np.where(data["method"] == "case", 0.2, 0.4)
    pairs = stats.paired_tests(data, "case")
    assert np.isnan(pairs.loc[0, "p_t"])
    assert pairs.loc[0, "p_w"] < 1e-4


# --- columns and ranks -----------------------------------------------------------------------------------------------------


def with_scores(count: int = 20) -> pd.DataFrame:
    """Rows with a further column: 0, 1, 2, … for grad_cam and twice that for case; one of each unusable, one wrong image."""
    found = rows(count)
    found["extra"] = found["image_id"] * np.where(found["method"] == "case", 2.0, 1.0)
    found["degenerate_random"] = found["image_id"] == 3
    found.loc[found["image_id"] == 0, "degenerate_1"] = True
    found.loc[found["image_id"] == 1, "degenerate_2"] = True
    found.loc[found["image_id"] == 2, "label"] = 7
    found.loc[found["image_id"] == 4, "extra"] = np.nan
    return found


@pytest.mark.parametrize(
    ("maps", "correct", "left_out"),
    [
        ("any", False, {4}),
        ("first", False, {0, 4}),
        ("both", False, {0, 1, 4}),
        ("first and random", False, {0, 3, 4}),
        ("first", True, {0, 2, 4}),
    ],
)
def test_a_measure_counts_the_rows_it_is_about(maps, correct, left_out):
    column = MetricColumn("extra", "Extra", "a number", maps=maps, correct=correct)
    table = stats.summarise(with_scores(), columns=[column, column._replace(name="absent")]).table
    kept = [i for i in range(20) if i not in left_out]
    assert table["n_extra"].tolist() == [len(kept)] * 2
    assert table.loc["grad_cam", "extra_mean"] == pytest.approx(np.mean(kept))
    assert table.loc["case", "extra_mean"] == pytest.approx(2 * np.mean(kept))
    assert table.loc["case", "extra_low"] < table.loc["case", "extra_mean"] < table.loc["case", "extra_high"]
    assert not any("absent" in column for column in table)


def test_a_measure_may_be_a_median():
    found = with_scores()
    found.loc[found["image_id"] == 19, "extra"] = 1e6
    column = MetricColumn("extra", "Extra", "a number", statistic="median", maps="any")
    assert stats.summarise(found, columns=[column]).table.loc["grad_cam", "extra_median"] == 10


def test_ranks_by_hand():
    table = pd.DataFrame({"a": [0.1, 0.3, 0.3 + 1e-7, np.nan], "b": [5.0, 9.0, 1.0, 7.0]}, index=list("wxyz"))
    ranks = stats.ranked(table, {"a": "low", "b": "high"})
    assert ranks.loc[list("wxyz"), "a"].tolist() == [1, 2.5, 2.5, 4]  # ties share, undefined comes last
    assert ranks.loc[list("wxyz"), "b"].tolist() == [3, 1, 4, 2]
    assert ranks.index.tolist() == ["x", "w", "z", "y"]
    assert ranks["mean_rank"].tolist() == [1.75, 2, 3, 3.25]

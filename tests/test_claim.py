"""Verdicts by hand: each rule, its correction, and the estimates that it is given."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.claim import Estimate, Finding, judged, p_of_interval, percent, place, weighed, written
from experiments.estimates import difference, distinct, exchanged, mean_of, orders, paired, spearman, unpaired, widened


def estimate(low, high, *, margin=0.0, label="a", **facts):
    return Estimate(label, (low + high) / 2, low, high, 5, "networks", margin, **facts)


AHEAD, BEHIND, OPEN = estimate(0.1, 0.3), estimate(-0.3, -0.1), estimate(-0.1, 0.3)
ALONE = Estimate("alone", 0.2)
"""Far enough from 0 to survive a correction for a few comparisons: the interval ends at 1.96 standard errors, 0 is 3.92 away."""


def test_a_claim_about_all():
    assert judged([AHEAD, AHEAD]) == "reproduced"
    assert judged([AHEAD, OPEN]) == judged([AHEAD, ALONE]) == "in part"
    assert judged([AHEAD, BEHIND]) == judged([AHEAD, BEHIND, OPEN]) == "not reproduced"
    assert judged([BEHIND]) == judged([BEHIND, OPEN]) == "contradicted"
    assert judged([OPEN]) == judged([ALONE]) == judged([]) == "undecided"
    assert judged([BEHIND], side="below") == "reproduced"
    assert judged([AHEAD], side="below") == "contradicted"
    assert judged([BEHIND._replace(margin=-0.6)]) == "reproduced"  # no worse by 0.6
    assert judged([AHEAD._replace(margin=0.15)]) == "undecided"


def test_a_claim_that_there_is_one():
    assert judged([BEHIND, OPEN, AHEAD], "existential") == "reproduced"
    assert judged([BEHIND, BEHIND], "existential") == "contradicted"
    assert judged([BEHIND, OPEN], "existential") == judged([], "existential") == "undecided"


def test_a_claim_that_nothing_differs():
    within, beyond = estimate(-0.01, 0.012, margin=0.02), estimate(0.05, 0.07, margin=0.02)
    wide, edge = estimate(-0.03, 0.03, margin=0.02), estimate(0.01, 0.05, margin=0.02)
    assert judged([within, within], "equivalence") == "reproduced"
    assert judged([within, wide], "equivalence") == judged([within, edge], "equivalence") == "in part"
    assert judged([within, beyond], "equivalence") == "not reproduced"
    assert judged([beyond, wide], "equivalence") == "contradicted"
    assert judged([wide], "equivalence") == "undecided"  # not different is not the same
    assert judged([beyond._replace(value=-0.06, low=-0.07, high=-0.05)], "equivalence") == "contradicted"
    with pytest.raises(ValueError, match="margin: got 0"):
        judged([OPEN], "equivalence")


def test_two_one_sided_tests():
    """p of an equivalence is twice the larger of the two one-sided p, those of Student's t against each end of the margin."""
    values = np.array([0.001, 0.012, -0.004, 0.006, 0.009])
    one = mean_of("a", values, unit="seeds", margin=0.02)
    sides = [
        stats.ttest_1samp(values, end, alternative=way).pvalue for end, way in ((-0.02, "greater"), (0.02, "less"))
    ]
    (found,) = weighed([one], "equivalence")
    assert found.p == pytest.approx(2 * max(sides))
    assert found.status == ("holds" if found.p < 0.05 else "open") == "holds"


def test_comparisons_are_corrected_together():
    """Each alone lies above 0 with p = 0.03; Holm over two asks for 0.025 first."""
    q = stats.norm.ppf(0.975)
    one = estimate(0.0, 0.0)._replace(value=1.0, low=1 - q / stats.norm.isf(0.015), high=2.0)
    assert p_of_interval(one, 0) == pytest.approx(0.03)
    assert judged([one]) == "reproduced"
    assert [round(t.p_holm, 9) for t in weighed([one, one], "universal")] == [0.06, 0.06]
    assert judged([one, one]) == "undecided"
    assert judged([one, AHEAD]) == "reproduced"  # the smaller p survives the 2, then 0.03 stands alone
    assert weighed([AHEAD, ALONE], "universal")[0].p_holm == weighed([AHEAD], "universal")[0].p_holm


def test_a_given_p_counts_and_the_interval_as_well():
    assert judged([AHEAD._replace(p=0.2)]) == "undecided"
    assert judged([OPEN._replace(p=0.001)]) == "undecided"


@pytest.mark.parametrize("value", [0.0, 0.4, -2.5])
def test_p_and_student_s_interval_say_the_same(value):
    sample = np.array([0.1, 0.5, 0.2, 0.8, -0.1])
    one = mean_of("a", sample, unit="seeds")
    assert p_of_interval(one, value) == pytest.approx(stats.ttest_1samp(sample, value).pvalue)
    assert p_of_interval(one, one.low) == pytest.approx(0.05)
    assert p_of_interval(estimate(0.0, 0.0), 0.5) == 0  # all images alike
    assert p_of_interval(estimate(0.5, 0.5), 0.5) == 1
    assert math.isnan(p_of_interval(ALONE, 0))


def test_words_say_where_and_come_from_the_numbers():
    found = Finding(
        "All.",
        place("digit_scenes:test", "small networks"),
        [AHEAD, BEHIND._replace(label="b")],
        "universal",
        shown="points",
    )
    assert found.where == "on digit scenes, small networks"
    assert found.words == "Holds in 1 of 2 (a +20.0 [+10.0, +30.0]); reversed in 1 of 2 (b -20.0 [-30.0, -10.0])."
    many = Finding("All.", "here", [AHEAD] * 6, "universal", shown="points", note="Note.")
    assert many.words == "Holds in 6 of 6 (+20.0 to +20.0). Note."
    nothing = Finding("None.", "here", [estimate(-0.01, 0.01, margin=0.02)], "equivalence")
    assert nothing.words.startswith("Within the margin in 1 of 1")
    assert Finding("What?", "here", [ALONE]).verdict == "answered"
    record = found.record()
    assert record["units"] == "5 networks"
    assert [c["status"] for c in record["comparisons"]] == ["holds", "reversed"]
    assert (
        json.loads(json.dumps(Finding("What?", "here", [ALONE]).record(), allow_nan=False))["comparisons"][0]["low"]
        is None
    )


def test_only_what_no_rule_gives_is_stated():
    found = Finding("All.", "here", [AHEAD], "universal", stated="withdrawn", note="One seed.")
    assert (found.verdict, found.words) == ("withdrawn", "One seed.")
    with pytest.raises(ValueError, match="stated: got reproduced"):
        Finding("All.", "here", stated="reproduced", note="Because.")
    with pytest.raises(ValueError, match="note: got nothing"):
        Finding("All.", "here", stated="withdrawn")


def test_numbers_in_words():
    assert percent(0.25, 0.2, 0.31) == "25% [20, 31]"
    assert percent(0.0, 0.0, 0.0) == "0%"
    assert percent(np.nan) == written(Estimate("a", np.nan), "points") == "–"
    assert written(estimate(0.1, 0.3), "number") == "0.20 [0.10, 0.30]"


def test_estimates_have_student_s_intervals():
    found = paired(
        "a", [0.5, 0.7, 0.9], [0.4, 0.5, 0.6], unit="seeds"
    )  # 0.1, 0.2, 0.3: standard error 0.1/√3, t = 4.303
    assert found[1:4] == pytest.approx((0.2, 0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)
    assert (found.n, found.df) == (3, 2)
    assert np.isnan(paired("a", [1.0], [0.5], unit="seeds")[2:4]).all()
    test = stats.ttest_ind([1, 2, 4], [0, 1, 1, 0], equal_var=False)
    welch = unpaired("a", [1, 2, 4], [0, 1, 1, 0], unit="seeds")
    assert welch[1:4] == pytest.approx((7 / 3 - 0.5, *test.confidence_interval()))
    assert p_of_interval(welch, 0) == pytest.approx(test.pvalue)


def test_differences_and_wider_intervals():
    both = difference("a", estimate(0.5, 1.1), estimate(0.0, 0.8))
    assert both[1:4] == pytest.approx((0.4, -0.1, 0.9))  # 0.3² + 0.4² = 0.5²
    assert widened(estimate(0.1, 0.3), 2.5, within=(0, 1))[1:4] == pytest.approx((0.2, 0.0, 0.45))


def test_orders_of_methods():
    """Of all 24 orders of four, one has no pair exchanged, three have one, … and the law with `q = 1` is chance."""
    counts = np.bincount(
        [sum(a > b for a, b in itertools.combinations(o, 2)) for o in itertools.permutations(range(4))]
    )
    np.testing.assert_allclose(exchanged(4, 0.0), counts / 24)
    np.testing.assert_allclose(
        exchanged(4, math.log(0.5)), counts * 0.5 ** np.arange(7) / (counts * 0.5 ** np.arange(7)).sum()
    )
    same = orders("a", range(6), range(6))
    assert same.value == pytest.approx(1)
    assert same.high == 1
    laws = {q: exchanged(6, math.log(q)) for q in np.linspace(0.2, 0.99, 400)}
    near = min(laws, key=lambda q: abs(laws[q][0] - 0.025))  # the law in which the same order has 2.5%
    assert same.low == pytest.approx(1 - 2 * (laws[near] * np.arange(16)).sum() / 15, abs=0.01)
    turned = orders("a", range(6), range(6)[::-1])
    assert (turned.low, turned.high) == pytest.approx((-1, -same.low))
    assert np.isnan(orders("a", [1, 2], [2, 1]).low)
    assert np.isnan(spearman("a", 1.0, 10).low)
    assert spearman("a", 0.5, 25)[2:4] == pytest.approx((0.1057, 0.7588), abs=0.001)


def test_methods_that_draw_one_map_count_once():
    table = pd.DataFrame({"F": [0.5, 0.500004, 0.2], "own": [0.1, 0.1, 0.1]}, index=["grad_cam", "hires_cam", "case"])
    assert list(distinct(table, 4).index) == ["grad_cam", "case"]

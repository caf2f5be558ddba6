"""Tests of a median against a threshold, of many at once, and of equivalence (no JAX here)."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from case_jax.stats.intervals import standard_error
from case_jax.stats.sharing import Clusters, ready

DECIMALS = 9
"""Values this near to a threshold, or distances from it this near to each other, are equal: 0.65 and 0.75 are equally far from 0.7."""
FEW = 13
"""Up to so many differences SciPy's test is exact with ties, too."""


class SignTest(NamedTuple):
    """A one-sided sign test against a threshold."""

    p: float
    below: int
    above: int
    equal: int
    """Values that equal the threshold: they are left out."""


class SignedRank(NamedTuple):
    """A one-sided Wilcoxon signed-rank test against a threshold."""

    statistic: float
    p: float
    effect: float
    """Rank-biserial correlation: −1 when every value lies below the threshold, 1 when every value lies above."""


def sign_test(values: Float[np.ndarray, " n"], theta: float, clusters: Clusters = None) -> SignTest:
    """Test H0 "the median is at least θ" against "it is smaller", by the signs of the differences.

    Without clusters the exact binomial `P(X ≤ above), X ~ B(below + above, ½)`. With them `t = (above / m − ½) / SE` over the m values
    that differ from θ, with the standard error by cluster of deviations from ½ (as H0 has it, so that no sample is too uniform to be
    tested) and Student's t with G − 1 degrees of freedom.

    Args:
        values: scores of images, without NaN.
        theta: the threshold.
        clusters: what the images share; None takes them as independent.

    Returns:
        p and the counts. p is NaN for an empty sample and for fewer than two clusters, 1 where every value equals θ.
    """
    differences = np.round(np.asarray(values, np.float64) - theta, DECIMALS)
    below, above = int((differences < 0).sum()), int((differences > 0).sum())
    counts = below, above, len(differences) - below - above
    if len(differences) == 0:
        return SignTest(np.nan, *counts)
    if below + above == 0:
        return SignTest(1.0, *counts)
    sharing = ready(clusters)
    if sharing is None:
        return SignTest(float(stats.binom.cdf(above, below + above, 0.5)), *counts)
    untied = sharing.take(np.flatnonzero(differences))
    signs = 0.5 * np.sign(differences[differences != 0])
    error = standard_error(signs, untied)
    return SignTest(float(stats.t.cdf(signs.mean() / error, max(1, untied.number() - 1))), *counts)


def below(values: Float[np.ndarray, " n"], theta: float) -> SignedRank:
    """Test H0 "the pseudo-median is at least θ" against "it is smaller", by Wilcoxon's signed-rank test, as the paper does.

    It is a test of the median where differences from θ are symmetric. Values equal to θ are dropped (Wilcoxon's treatment of zeros).

    Args:
        values: scores of independent images, without NaN.
        theta: the threshold.

    Returns:
        The sum of the positive ranks, p, and the rank-biserial effect size. All NaN for an empty sample; p = 1 and effect 0 when
        every value equals θ.
    """
    differences = np.round(np.asarray(values, np.float64) - theta, DECIMALS)
    if len(differences) == 0:
        return SignedRank(np.nan, np.nan, np.nan)
    count = int((differences != 0).sum())
    if count == 0:
        return SignedRank(0.0, 1.0, 0.0)
    statistic, p = signed_rank(differences, "less")
    return SignedRank(statistic, p, 4 * statistic / (count * (count + 1)) - 1)


def signed_rank(differences: Float[np.ndarray, " n"], alternative: Literal["less", "two-sided"]) -> tuple[float, float]:
    """Wilcoxon's signed-rank test as `scipy.stats.wilcoxon` has it: statistic and p.

    For few differences with ties or zeros SciPy calls a Python function for each of 2ⁿ samples of signs, which takes a second; here
    all rank sums are one array. The numbers are the same.

    Args:
        differences: not all 0; zeros are dropped.
        alternative: of the median: below 0, or other than 0.
    """
    untied = differences[differences != 0]
    ranks = stats.rankdata(np.abs(untied))
    if len(differences) > FEW or len(np.unique(ranks)) == len(differences) or np.isnan(ranks).any():
        found: Any = stats.wilcoxon(differences, alternative=alternative)
        return float(found.statistic), float(found.pvalue)
    sums = np.zeros(1)
    for rank in ranks:
        sums = np.concatenate([sums, sums + rank])
    positive, negative = ranks[untied > 0].sum(), ranks[untied < 0].sum()
    less, greater = (sums <= positive).mean(), (sums >= positive).mean()
    if alternative == "less":
        return float(positive), float(less)
    return float(min(positive, negative)), float(min(1, 2 * min(less, greater)))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction over the tests of one family; NaN (an untestable method) stays NaN and does not count.

    `p'_(i) = min(1, max_{j ≤ i} (m − j + 1) · p_(j))` over the m known values in rising order.

    Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p, np.float64)
    rising = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN is sorted to the end
    out = np.full(values.shape, np.nan)
    out[rising] = np.minimum(1, np.maximum.accumulate(values[rising] * np.arange(len(rising), 0, -1)))
    return out

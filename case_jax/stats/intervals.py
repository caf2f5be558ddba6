"""Estimates with intervals: over independent images by the bootstrap, else by cluster (no JAX here)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from case_jax.stats.sharing import Clusters, Sharing, ready


class Interval(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(np.nan, np.nan, np.nan)
LEVEL = 0.95
"""Coverage of every interval."""


def bootstrap(values: Float[np.ndarray, " n"], statistic: str, *, resamples: int = 2000) -> Interval:
    """A median or mean with its percentile bootstrap interval, whose resampling is always the same.

    Args:
        values: the sample, without NaN.
        statistic: `median` or `mean`.
        resamples: bootstrap samples.

    Returns:
        The estimate and its interval; all NaN for an empty sample, and the value itself twice for a constant one.
    """
    function = {"median": np.median, "mean": np.mean}[statistic]
    if len(values) == 0:
        return UNKNOWN
    value = float(function(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(value, value, value)
    found = stats.bootstrap(
        (values,), function, n_resamples=resamples, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(0), batch=max(1, 2_000_000 // len(values)), vectorized=True,
    ).confidence_interval  # fmt: skip
    return Interval(value, float(found.low), float(found.high))


CROWDED = 0.5
"""Share of dependent pairs above which their sum says nothing: over all pairs it is `(Σ e)² = 0`, whatever the errors."""


def standard_error(errors: Float[np.ndarray, " n"], sharing: Sharing) -> float:
    """Standard error of a mean whose summands' deviations are these: `SE² = G / (G − 1) · (1/n²) Σ e_i e_j` over the pairs that share an id.

    G is the number of clusters. Where no images share one this is the usual standard error. The sum is at least that of the squares:
    images that share something never count for more than independent ones. Where more than half of all pairs share an id, as mosaics of
    few photographs do, it is that of the jackknife which leaves out one id with all its images at a time:
    `SE² = (J − 1) / J · Σ_g m_g²` over J ids, m_g the mean of e over the images without g.

    Cameron, Gelbach, Miller, Journal of Business & Economic Statistics 29 (2011), equations 2.9 to 2.14; the jackknife: Efron, The Jackknife,
    the Bootstrap and Other Resampling Plans (1982).

    Returns:
        The standard error; NaN for fewer than two clusters, and where every image has some id.
    """
    count, n = sharing.number() if len(errors) else 0, len(errors)
    if count < 2:
        return np.nan
    if sharing.pair_sum(np.ones(n)) > CROWDED * n**2:
        means = [errors[kept].mean() if (kept := ~(sharing.ids == g).any(1)).any() else np.nan for g in sharing.known()]
        return float(np.sqrt((len(means) - 1) / len(means) * np.square(means).sum()))
    variance = max(sharing.pair_sum(errors), float((errors**2).sum())) / n**2
    return float(np.sqrt(variance * count / (count - 1)))


def mean_interval(
    values: Float[np.ndarray, " n"],
    clusters: Clusters = None,
    *,
    resamples: int = 2000,
) -> Interval:
    """A mean with its interval: `mean ± t · SE` by cluster (`standard_error`; Student's t with G − 1 degrees of freedom), else the bootstrap.

    Args:
        values: the sample, without NaN.
        clusters: what the images share; None takes them as independent.
        resamples: bootstrap samples, without clusters.

    Returns:
        The estimate and its interval; all NaN for an empty sample, the value itself twice for a constant one, no limits for one cluster.
    """
    sharing = ready(clusters)
    if sharing is None:
        return bootstrap(values, "mean", resamples=resamples)
    if len(values) == 0:
        return UNKNOWN
    value = float(np.mean(values))
    if np.ptp(values) == 0:
        return Interval(value, value, value)
    half = quantile(sharing) * standard_error(values - value, sharing)
    return Interval(value, value - half, value + half)


def median_interval(
    values: Float[np.ndarray, " n"],
    clusters: Clusters = None,
    *,
    resamples: int = 2000,
) -> Interval:
    """A median with its interval: the quantiles at `½ ± t · SE` of the share of values below it, by cluster, else the bootstrap.

    The upper limit uses the share of values at or below the median, the lower one the share below, so that ties do not narrow it; both are
    values of the sample. Woodruff, Journal of the American Statistical Association 47 (1952). Arguments and degenerate samples as
    `mean_interval`.
    """
    sharing = ready(clusters)
    if sharing is None:
        return bootstrap(values, "median", resamples=resamples)
    if len(values) == 0:
        return UNKNOWN
    value, n = float(np.median(values)), len(values)
    if np.ptp(values) == 0:
        return Interval(value, value, value)
    at_most, below = (values <= value).astype(np.float64), (values < value).astype(np.float64)
    t = quantile(sharing)
    up, down = (t * standard_error(share - share.mean(), sharing) for share in (at_most, below))
    if np.isnan(up):
        return Interval(value, np.nan, np.nan)
    ordered = np.sort(values)
    low = ordered[max(0, int(np.floor(n * (0.5 - down))) - 1)]
    high = ordered[min(n - 1, n - int(np.floor(n * (0.5 - up))))]
    return Interval(value, float(low), float(high))


INTERVALS = {"mean": mean_interval, "median": median_interval}


def quantile(sharing: Sharing) -> float:
    """Student's t that an interval reaches to; NaN for fewer than two clusters."""
    count = sharing.number()
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) if count > 1 else np.nan

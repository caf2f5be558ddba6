"""Estimates with Student's intervals, of numbers that are independent: networks, trainings, seeds; and of orders of methods."""

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats

from case_jax.stats import Estimates
from case_jax.stats.intervals import INTERVALS
from experiments.claim import Estimate

TOO_NARROW = 2.5
"""Digit scenes share strokes: intervals over images as if these were independent were found 2 to 2.5 times too narrow."""


BY_CLUSTER = "images, by what they share"


def mean_of(label: str, values: ArrayLike, *, unit: str, margin: float = 0.0) -> Estimate:
    """A mean of independent numbers; no interval for fewer than two."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        return Estimate(label, float(values.mean()) if n else math.nan, n=n, unit=unit, margin=margin)
    mean, half = float(values.mean()), float(stats.sem(values) * stats.t.ppf(0.975, n - 1))
    return Estimate(label, mean, mean - half, mean + half, n, unit, margin, df=n - 1)


def paired(label: str, first: ArrayLike, second: ArrayLike, *, unit: str, margin: float = 0.0) -> Estimate:
    """How much larger `first` is than `second`, which belong together one by one (the same seeds)."""
    return mean_of(label, np.asarray(first, float) - np.asarray(second, float), unit=unit, margin=margin)


def unpaired(label: str, first: ArrayLike, second: ArrayLike, *, unit: str, margin: float = 0.0) -> Estimate:
    """How much larger the mean of `first` is than that of `second`, independent samples (Welch)."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    n, value = min(len(first), len(second)), float(first.mean() - second.mean())
    if n < 2:
        return Estimate(label, value, n=n, unit=unit, margin=margin)
    found: Any = stats.ttest_ind(first, second, equal_var=False)
    low, high = map(float, found.confidence_interval())
    return Estimate(label, value, low, high, n, unit, margin, df=float(found.df))


def difference(label: str, first: Estimate, second: Estimate, *, margin: float = 0.0) -> Estimate:
    """`first − second` of two estimates that are taken as independent: the sides of the interval add up as squares."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(label, value, low, high, min(first.n, second.n), first.unit, margin)


def widened(
    one: Estimate, factor: float = TOO_NARROW, *, within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The same with an interval so many times as wide about its value, as far as there are such values."""
    low, high = one.value - factor * (one.value - one.low), one.value + factor * (one.high - one.value)
    return one._replace(low=max(low, within[0]), high=min(high, within[1]))


def of_images(
    label: str,
    values: pd.Series,
    among: Estimates,
    *,
    statistic: Literal["mean", "median"] = "mean",
    margin: float = 0.0,
) -> Estimate:
    """A mean or median over images, by cluster where they share something.

    Args:
        label: of the comparison.
        values: by image id, without NaN; differences of two methods are paired so.
        among: what the images share, `case_jax.stats.estimates_of(rows)`.
        statistic: `mean` or `median`.
        margin: what the value is compared with.
    """
    sharing = among.among(values.index)
    low_high = INTERVALS[statistic](values.to_numpy(float), sharing)
    if sharing is None:
        return Estimate(label, *low_high, len(values), "images", margin)
    return Estimate(label, *low_high, len(values), BY_CLUSTER, margin, df=max(1, sharing.number() - 1))


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's τ of two orders, without what either lacks."""
    found: Any = stats.kendalltau(np.asarray(first, float), np.asarray(second, float), nan_policy="omit")
    return float(found.statistic)


def orders(label: str, first: ArrayLike, second: ArrayLike, *, unit: str = "methods", margin: float = 0.0) -> Estimate:
    """Kendall's τ of two orders of methods, with the 95% interval that speaks of other methods.

    The interval holds each mean τ under which as large a τ, and as small a one, has a probability of 2.5% and more by Mallows' law of
    orders, in which an order with d pairs exchanged has a probability in proportion to `q^d`. Exact without ties.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    n = int((~np.isnan(first) & ~np.isnan(second)).sum())
    value = kendall(first, second)
    if n < 3 or math.isnan(value):
        return Estimate(label, value, n=n, unit=unit, margin=margin)
    pairs = n * (n - 1) // 2
    seen = pairs * (1 - value) / 2
    low = _limit(n, slice(0, math.floor(seen + 1e-9) + 1), -1.0)
    high = _limit(n, slice(math.ceil(seen - 1e-9), None), 1.0)
    return Estimate(label, value, low, high, n, unit, margin)


def exchanged(n: int, log_q: float) -> np.ndarray:
    """Probabilities of 0, 1, … exchanged pairs in an order of n by Mallows' law; `log_q` of 0 is chance."""
    law = np.ones(1)
    for size in range(2, n + 1):
        step = np.exp(log_q * np.arange(size) - (log_q * (size - 1) if log_q > 0 else 0))
        law = np.convolve(law, step / step.sum())
    return law


def _limit(n: int, tail: slice, otherwise: float) -> float:
    """The mean τ of the law whose tail has 2.5%."""

    def excess(log_q: float) -> float:
        return float(exchanged(n, log_q)[tail].sum()) - 0.025

    if excess(-30.0) * excess(30.0) > 0:  # every law has more
        return otherwise
    law = exchanged(n, float(optimize.brentq(excess, -30.0, 30.0)))  # type: ignore[arg-type]
    return float(1 - 2 * (law * np.arange(len(law))).sum() / (len(law) - 1))


def spearman(label: str, value: float, n: int, *, unit: str = "methods") -> Estimate:
    """Spearman's ρ over so many methods with the interval by Fisher's z (Bonett and Wright 2000); none for fewer than five or ±1."""
    if n < 5 or abs(value) >= 1 or math.isnan(value):
        return Estimate(label, value, n=n, unit=unit)
    half = 1.96 * math.sqrt((1 + value**2 / 2) / (n - 3))
    return Estimate(label, value, math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half), n, unit)


def distinct(numbers: Any, decimals: int) -> Any:
    """The rows of a table that are not, to so many decimals, an earlier row again: methods that draw one map count once."""
    return numbers[~numbers.round(decimals).duplicated()]

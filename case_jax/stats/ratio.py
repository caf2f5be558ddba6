"""A ratio of two means over the same images, with its interval (no JAX here)."""

import numpy as np
from jaxtyping import Float

from case_jax.stats.intervals import UNKNOWN, Interval, mean_interval, quantile, standard_error
from case_jax.stats.sharing import Clusters, independent, ready


def ratio_of_means(values: Float[np.ndarray, " n"], of: Float[np.ndarray, " n"], clusters: Clusters = None) -> Interval:
    """`R = mean(y) / mean(x)` with the interval `R ± t · SE` of the linearised ratio, by cluster where there are any.

    `SE` is that of the mean of `e_i = (y_i − R x_i) / mean(x)` (`standard_error`), so that what makes numerator and denominator rise and
    fall together does not widen it. Not the mean of ratios, which one image with a small x would rule.

    Args:
        values: y, of each image, without NaN.
        of: x, of the same images, without NaN.
        clusters: what the images share; None takes them as independent.

    Returns:
        The ratio and its interval. All NaN for fewer than two clusters, and where x is not shown to be above 0: where the interval of its mean
        reaches 0, a ratio says nothing.

    The delta method; Cochran, Sampling Techniques (1977), equation 6.13.
    """
    sharing = ready(clusters) or independent(len(values))
    if len(values) == 0 or sharing.number() < 2 or not mean_interval(of, sharing).low > 0:
        return UNKNOWN
    ratio = float(values.mean() / of.mean())
    half = quantile(sharing) * standard_error((values - ratio * of) / of.mean(), sharing)
    return Interval(ratio, ratio - half, ratio + half)

"""Paired tests of fidelity (no JAX here)."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from case_jax.stats.estimates import estimates_of
from case_jax.stats.intervals import quantile, standard_error
from case_jax.stats.sharing import Sharing, independent
from case_jax.stats.tests import holm, signed_rank
from case_jax.stats.usable import DROP_PERCENT, correct_rows, drops, watched_rows

COLUMNS = ["method", "reference", "n", "mean_difference", "low", "high", "t", "p_t", "w", "p_w"]


def paired_tests(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Fidelity of every method against the reference on the same images, paired by image id.

    Per method: number of common images, mean difference of the drop (method − reference) with its 95% interval, paired t-test, both by
    cluster where rows name clusters, and Wilcoxon's signed-rank test, which takes images as independent; both tests two-sided and
    Holm-corrected over the methods. Tests are NaN where no image differs, and t where all differ by the same.

    Args:
        rows: rows with the fidelity columns.
        reference: the method to compare with.

    Returns:
        One row per other method; empty when the reference was not run.
    """
    estimates = estimates_of(rows)
    usable = rows[correct_rows(rows) & watched_rows(rows)].assign(drop=lambda r: drops(r, DROP_PERCENT))
    drop = {
        name: group.set_index("image_id")["drop"] for name, group in usable.groupby("method", sort=False, observed=True)
    }
    out = []
    for name in drop if reference in drop else ():
        if name == reference:
            continue
        both = pd.concat([drop[name], drop[reference]], axis=1, join="inner")
        difference = both.iloc[:, 0].to_numpy() - both.iloc[:, 1].to_numpy()
        sharing = estimates.among(both.index) or independent(len(both))
        w = signed_rank(difference, "two-sided") if difference.any() else (np.nan, np.nan)
        out.append([name, reference, len(both), *_paired_t(difference, sharing), *w])
    table = pd.DataFrame(out, columns=COLUMNS)
    return table.assign(p_t_holm=holm(table["p_t"].to_numpy(float)), p_w_holm=holm(table["p_w"].to_numpy(float)))


def _paired_t(difference: Float[np.ndarray, " n"], sharing: Sharing) -> tuple[float, float, float, float, float]:
    """Mean and its 95% interval, t and p."""
    if len(difference) == 0:
        return np.nan, np.nan, np.nan, np.nan, np.nan
    mean = float(difference.mean())
    if np.ptp(difference) == 0:
        return mean, mean, mean, np.nan, np.nan
    error = standard_error(difference - mean, sharing)
    half = quantile(sharing) * error
    t = mean / error
    return mean, mean - half, mean + half, t, float(2 * stats.t.sf(abs(t), max(1, sharing.number() - 1)))

"""Paired tests of fidelity (no JAX here)."""

import numpy as np
import pandas as pd
from scipy import stats

from case_jax.stats.tests import holm
from case_jax.stats.usable import DROP_PERCENT, correct_rows, drops, watched_rows


def paired_tests(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Fidelity of every method against the reference on the same images, paired by image id.

    Per method: number of common images, mean and median difference of the drop (method − reference), paired t-test and
    Wilcoxon's signed-rank test, both two-sided and Holm-corrected over the methods. Tests are NaN where no image
    differs, and t where all differ by the same.

    Args:
        rows: rows with the fidelity columns.
        reference: the method to compare with.

    Returns:
        One row per other method; empty when the reference was not run.
    """
    usable = rows[correct_rows(rows) & watched_rows(rows)].assign(drop=lambda r: drops(r, DROP_PERCENT))
    drop = {
        name: group.set_index("image_id")["drop"] for name, group in usable.groupby("method", sort=False, observed=True)
    }
    out = []
    for name in drop if reference in drop else ():
        if name == reference:
            continue
        both = pd.concat([drop[name], drop[reference]], axis=1, join="inner").to_numpy()
        difference = both[:, 0] - both[:, 1]
        t = w = (np.nan, np.nan)
        if len(both) > 1 and np.ptp(difference) > 0:
            t = stats.ttest_rel(both[:, 0], both[:, 1])
        if difference.any():
            w = stats.wilcoxon(difference)
        out.append(
            [name, reference, len(both), difference.mean() if len(both) else np.nan, *map(float, t), *map(float, w)]
        )
    table = pd.DataFrame(out, columns=["method", "reference", "n", "mean_difference", "t", "p_t", "w", "p_w"])
    return table.assign(p_t_holm=holm(table["p_t"].to_numpy(float)), p_w_holm=holm(table["p_w"].to_numpy(float)))

"""Which methods are class-sensitive: the test of the median of F, and the family that it is corrected over (no JAX here)."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from case_jax.stats.sharing import Sharing
from case_jax.stats.tests import below, holm, sign_test
from case_jax.stats.usable import both_usable

THETAS = (0.5, 0.7)
ALPHA = 0.05


def agreements_in(rows: pd.DataFrame) -> Float[np.ndarray, " n"]:
    """F of these rows; they are kept as float32, in which 0.7 is not 0.7."""
    return np.round(rows["F"].to_numpy(np.float64), 6)


def threshold_tests(F: Float[np.ndarray, " n"], sharing: Sharing | None, thetas: Sequence[float]) -> dict[str, float]:
    """For each threshold the sign test (`p_<θ>`, `equal_<θ>`) and, as in the paper, Wilcoxon's (`wilcoxon_<θ>`, `effect_<θ>`)."""
    out: dict[str, float] = {}
    for theta in thetas:
        sign, ranks = sign_test(F, theta, sharing), below(F, theta)
        out |= {f"p_{theta:g}": sign.p, f"equal_{theta:g}": sign.equal}
        out |= {f"wilcoxon_{theta:g}": ranks.p, f"effect_{theta:g}": ranks.effect}
    return out


def same_as(rows: pd.DataFrame, methods: Sequence[str]) -> dict[str, str]:
    """For each method the first of them that has the same F in every image, where that is another; else empty."""
    usable = rows[both_usable(rows)]
    found = {
        str(name): group.set_index("image_id")["F"].sort_index()
        for name, group in usable.groupby("method", sort=False, observed=True)
    }
    firsts: dict[bytes, str] = {}
    out = {}
    for name in methods:
        if name not in found:  # no usable pair of maps: nothing is known of it
            out[name] = ""
            continue
        F = found[name]
        first = firsts.setdefault(F.index.to_numpy(np.int64).tobytes() + F.to_numpy(np.float64).tobytes(), name)
        out[name] = "" if first == name else first
    return out


def with_verdicts(
    table: pd.DataFrame, rows: pd.DataFrame, controls: Collection[str], thetas: Sequence[float]
) -> pd.DataFrame:
    """The table with Holm's correction over one family of methods, and with the verdicts.

    The family are the methods that are no controls; those with the same F in every image count once, and share its corrected p
    (`same_as`). A method is `sensitive_<θ>` when H0 "the median of F is at least θ" is rejected at 5% and its interval lies below θ.
    Controls stand outside the family: they have no corrected p and are judged by their own.
    """
    judged = [str(name) for name in table.index if name not in controls]
    same = same_as(rows, judged)
    family = [name for name in judged if not same[name]]
    table = table.assign(same_as=[same.get(str(name), "") for name in table.index])
    for theta in thetas:
        for test in ("p", "wilcoxon"):
            corrected = dict(zip(family, holm(table.loc[family, f"{test}_{theta:g}"].to_numpy(float)), strict=True))
            values = [corrected.get(same.get(str(name)) or str(name), np.nan) for name in table.index]
            table[f"{test}_holm_{theta:g}"] = values
        p = table[f"p_holm_{theta:g}"].where(~table.index.isin(list(controls)), table[f"p_{theta:g}"])
        table[f"sensitive_{theta:g}"] = (p < ALPHA) & (table["F_high"] < theta)
    return table

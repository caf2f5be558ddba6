"""Which rows count for which statistic, and the confidence drop (no JAX here)."""

import numpy as np
import pandas as pd

from case_jax.metric_column import MetricColumn

DROP_PERCENT = 50
"""Removed in the fidelity test that is compared between methods, as in the paper."""


def correct_rows(rows: pd.DataFrame) -> pd.Series:
    """Which rows enter the fidelity test: classified correctly, or without a label, and with a usable top-1 map."""
    return ((rows["label"] == rows["top1"]) | (rows["label"] < 0)) & ~rows["degenerate_1"]


def watched_rows(rows: pd.DataFrame) -> pd.Series:
    """Which of these have a probability after every removal: it is NaN where the classifier's logits for an altered image are not finite."""
    return rows[[f"p_removed_{percent:g}" for percent in removed_percents(rows)]].notna().all(axis=1)


def both_usable(rows: pd.DataFrame) -> pd.Series:
    """Which rows enter scores of both maps: those where neither is degenerate."""
    return ~(rows["degenerate_1"] | rows["degenerate_2"])


def removed_percents(rows: pd.DataFrame) -> list[float]:
    """The percentages of the deletion sweep, ascending, from the column names."""
    return sorted(float(c.removeprefix("p_removed_")) for c in rows.columns if c.startswith("p_removed_"))


def drops(rows: pd.DataFrame, percent: float, *, clipped: bool = True) -> pd.Series:
    """Relative confidence drop `(p − p')/p` after removing this percentage, clipped at 0 as in the paper unless told otherwise."""
    left = rows[f"p_removed_{percent:g}"].astype(np.float64)
    drop = (rows["p1"].astype(np.float64) - left) / rows["p1"].astype(np.float64)
    return drop.clip(lower=0.0) if clipped else drop


def mean_drop(rows: pd.DataFrame) -> pd.Series:
    """Each row's clipped drop, averaged over the sweep; NaN where any is."""
    return pd.concat([drops(rows, percent) for percent in removed_percents(rows)], axis=1).mean(axis=1, skipna=False)


def usable_rows(rows: pd.DataFrame, column: MetricColumn) -> pd.Series:
    """Which rows enter a column: those whose maps it needs are usable, of the images that it is about, and whose number is known."""
    usable = rows[column.name].notna()
    if column.correct:
        usable &= correct_rows(rows)
    if column.maps == "both":
        usable &= both_usable(rows)
    if column.maps in ("first", "first and random"):
        usable &= ~rows["degenerate_1"]
    if column.maps == "first and random":
        usable &= ~rows["degenerate_random"]
    return usable

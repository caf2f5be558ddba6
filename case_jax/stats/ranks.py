"""Ranks of methods in several criteria (no JAX here)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

RANK_DECIMALS = 5


def ranked(table: pd.DataFrame, better: Mapping[str, str]) -> pd.DataFrame:
    """Rank of every method in every criterion, 1 = best, and the mean of its ranks, by which the rows are sorted.

    Values equal to `RANK_DECIMALS` decimals share the mean of their ranks, so that rounding ranks nothing; where a number is undefined (no usable map) the method comes last.

    Args:
        table: numbers, one row per method to be ranked.
        better: by column of the table, whether `high` or `low` is good.
    """
    rounded = table[list(better)].astype(np.float64).round(RANK_DECIMALS)
    ranks = pd.DataFrame({c: rounded[c].rank(ascending=b == "low", na_option="bottom") for c, b in better.items()})
    return ranks.assign(mean_rank=ranks.mean(axis=1)).sort_values("mean_rank", kind="stable")

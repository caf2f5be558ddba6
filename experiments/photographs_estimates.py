"""Numbers by photograph: several views of each are one measure, and mosaics share theirs."""

from typing import Literal

import numpy as np
import pandas as pd

from case_jax import METHODS
from case_jax.stats import both_usable, drops, estimates_of
from case_jax.stats.intervals import INTERVALS
from experiments.claim import Estimate
from experiments.fidelity import of_protocol
from experiments.photographs_rows import titled
from experiments.photographs_views import VIEWS
from experiments.specificity import CONTROLS, UNTRAINED

UNIT = "photographs"
YARDSTICKS = [*titled(*CONTROLS), UNTRAINED]
NO_METHODS = [*YARDSTICKS, METHODS["sobel"].title]


def short(network: str) -> str:
    """A network's name in labels."""
    return network.removeprefix("efficientnet_").capitalize()


def by_photograph(
    label: str, values: pd.Series, *, statistic: Literal["mean", "median"] = "mean", margin: float = 0.0
) -> Estimate:
    """A mean or median over views, the views of one photograph being one cluster.

    Args:
        label: of the comparison.
        values: by id of the view; NaN is left out.
        statistic: `mean` or `median`.
        margin: what the value is compared with.
    """
    known = values.dropna()
    photographs = known.index.to_numpy(np.int64)[:, None] // len(VIEWS)
    count = len(np.unique(photographs))
    found = INTERVALS[statistic](known.to_numpy(float), photographs)
    return Estimate(label, *found, count, UNIT, margin, df=max(1, count - 1))


def wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A value by photograph and method, mean over views, then over networks; without degenerate maps; the index is that of the first view."""
    known = rows[both_usable(rows)]
    first = known["image_id"] // len(VIEWS) * len(VIEWS)
    of_network = known.groupby([first, "method", "network"], sort=False, observed=True)[column].mean()
    return of_network.groupby(level=[0, 1], sort=False).mean().unstack()


def as_photographs(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a photograph and method in place of its views: the median F of those with usable maps, degenerate where there is none.

    A sign test over photographs is then exact: ten of ten on one side have p = 0.001, which the test by cluster, an approximation for many
    clusters, puts at 0.0075 at best, and never below 5% after Holm's correction over twenty methods.
    """
    photograph = (rows["image_id"] // len(VIEWS)).rename("image_id")
    known = rows.assign(zeros_in_top=rows["zeros_in_top"].where(both_usable(rows)))
    found = known.groupby([photograph, "method"], sort=False, observed=True)[["F", "F_plus", "zeros_in_top"]].median()
    flat = found["F"].isna()
    return found.assign(label=-1, top1=0, p1=1.0, degenerate_1=flat, degenerate_2=flat).reset_index()


def last_maps(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the default layer."""
    return rows[rows["layer"] == "relu"]


def less(label: str, table: pd.DataFrame, method: str, other: str) -> Estimate:
    """How much larger a method's value is than another's on the same views."""
    return by_photograph(label, table[method] - table[other])


def dropped(rows: pd.DataFrame, share: float, protocol: str = "mean") -> pd.DataFrame:
    """Drops by view and method, of the predicted class, right or wrong: a label says nothing about what a map claims to show."""
    usable = rows[~rows["degenerate_1"]]
    table = usable.assign(drop=drops(of_protocol(usable, protocol), share))
    return table.pivot_table(index="image_id", columns="method", values="drop", sort=False, observed=True)


def proper_of(table: pd.DataFrame) -> list[str]:
    """Its methods that are no controls."""
    return [name for name in map(str, table) if name not in NO_METHODS]


def shares_of(cells: pd.DataFrame, column: str = "share") -> pd.DataFrame:
    """A value by mosaic and method, mean over its cells and networks."""
    return cells.groupby(["image_id", "method"], sort=False, observed=True)[column].mean().unstack()


def over_photographs(label: str, values: pd.Series, cells: pd.DataFrame, *, margin: float = 0.0) -> Estimate:
    """A mean over mosaics by the photographs in them: most pairs of mosaics share some, so that the interval is by leaving out one at a time."""
    known = values.dropna()
    among = estimates_of(cells)
    found = INTERVALS["mean"](known.to_numpy(float), among.among(known.index))
    return Estimate(label, *found, among.clusters, UNIT, margin, df=max(1, among.clusters - 1))

"""From a run's rows to the numbers of its report (no JAX here)."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from case_jax._checks import CaseJaxError
from case_jax.metric_column import MetricColumn
from case_jax.stats.counts import left_out
from case_jax.stats.estimates import Estimates, estimates_of
from case_jax.stats.intervals import Interval
from case_jax.stats.paired import paired_tests
from case_jax.stats.ratio import ratio_of_means
from case_jax.stats.usable import DROP_PERCENT, both_usable, correct_rows, drops, mean_drop, usable_rows, watched_rows
from case_jax.stats.verdict import THETAS, agreements_in, threshold_tests, with_verdicts


class Summary(NamedTuple):
    """What a report is made of."""

    table: pd.DataFrame
    """One row per method."""
    pairs: pd.DataFrame
    """Paired fidelity tests of every method against the reference."""
    counts: dict[str, int]
    """How many images or maps were left out of which statistic, and why."""
    clusters: int = 0
    """How many things the images share, by which intervals and tests are; 0 where images are independent."""
    oracles: Mapping[str, Interval] = MappingProxyType({})
    """Of each column that the rows know of the true parts, too (`NAME_oracle`): the mean of that."""


def _named(prefix: str, interval: Interval, value_name: str) -> dict[str, float]:
    return {f"{prefix}_{value_name}": interval.value, f"{prefix}_low": interval.low, f"{prefix}_high": interval.high}


def _sensitivity(rows: pd.DataFrame, thetas: Sequence[float], estimates: Estimates) -> dict[str, float]:
    usable = rows[both_usable(rows)]
    F = agreements_in(usable)
    out = {"n_F": len(F), **_named("F", estimates.interval(usable, F, "median"), "median")}
    out |= {"F_mean": F.mean() if len(F) else np.nan, "F_sd": F.std(ddof=1) if len(F) > 1 else np.nan}
    out |= {f"F_plus_{name}": usable["F_plus"].astype(np.float64).agg(name) for name in ("median", "mean")}
    out["zeros_share"] = usable["zeros_in_top"].mean() if len(F) else np.nan
    return out | threshold_tests(F, estimates.among(usable["image_id"]), thetas)


def _fidelity(rows: pd.DataFrame, estimates: Estimates) -> dict[str, float]:
    usable = rows[correct_rows(rows) & watched_rows(rows)]
    drop = drops(usable, DROP_PERCENT).to_numpy()
    out = {"n_drop": len(drop), **_named("drop", estimates.interval(usable, drop), "mean")}
    out["drop_sd"] = drop.std(ddof=1) if len(drop) > 1 else np.nan
    out["drop_signed_mean"] = drops(usable, DROP_PERCENT, clipped=False).mean()
    return out | _named("sweep", estimates.interval(usable, mean_drop(usable).to_numpy()), "mean")


def _evidence(rows: pd.DataFrame, estimates: Estimates) -> dict[str, float]:
    first = rows[~rows["degenerate_1"] & rows["mass_own"].notna()]
    own = first["mass_own"].to_numpy(np.float64)
    out = {"n_evidence": len(own), **_named("own", estimates.interval(first, own), "mean")}
    out |= {f"{kind}_mean": first[f"mass_{kind}"].mean() for kind in ("shared", "other")}
    out |= {f"top_{kind}_mean": first[f"top_{kind}"].mean() for kind in ("shared", "own", "other")}
    out |= _named("points_1", estimates.interval(first, first["points_1"].to_numpy(np.float64)), "mean")
    both = rows[both_usable(rows) & rows["points_1"].notna() & rows["points_2"].notna()]
    if both.empty:  # omitted where no image has evidence for both classes
        return out
    points = (both[["points_1", "points_2"]] == 1).all(axis=1).to_numpy(np.float64)
    return out | {"n_pointing": len(points), **_named("pointing", estimates.interval(both, points), "mean")}


def _measured(rows: pd.DataFrame, column: MetricColumn, estimates: Estimates) -> dict[str, float]:
    usable = rows[usable_rows(rows, column)]
    found = estimates.interval(usable, usable[column.name].to_numpy(np.float64), column.statistic)
    return {f"n_{column.name}": len(usable), **_named(column.name, found, column.statistic)}


def _oracle(rows: pd.DataFrame, column: MetricColumn, estimates: Estimates) -> Interval:
    """The mean over images of what the true parts have."""
    images = rows.drop_duplicates("image_id")
    known = images[images[f"{column.name}_oracle"].notna()]
    return estimates.interval(known, known[f"{column.name}_oracle"].to_numpy(np.float64))


def _of_oracle(rows: pd.DataFrame, column: MetricColumn, estimates: Estimates) -> dict[str, float]:
    """The share of what the true parts have that a method reaches, over images of which both are known."""
    usable = rows[usable_rows(rows, column) & rows[f"{column.name}_oracle"].notna()]
    own, true = (usable[name].to_numpy(np.float64) for name in (column.name, f"{column.name}_oracle"))
    return _named(f"{column.name}_share", ratio_of_means(own, true, estimates.among(usable["image_id"])), "ratio")


def summarise(
    rows: pd.DataFrame,
    *,
    controls: Collection[str] = (),
    thetas: Sequence[float] = THETAS,
    columns: Sequence[MetricColumn] = (),
    resamples: int = 2000,
) -> Summary:
    """All statistics of a run.

    Degenerate maps are counted and left out of every statistic; fidelity uses correctly classified images (all, where there
    are no labels); evidence uses images in which it is known. Where rows name what images share (`cluster_1`, …), intervals and tests
    are by cluster, else by image.

    Args:
        rows: a run's rows, see `RunFolder.rows`.
        controls: methods that are yardsticks: they stand outside the family of tests.
        thetas: thresholds of the class-sensitivity test.
        columns: further columns of the rows, as the run's metrics describe them; those that the rows lack are passed over.
        resamples: bootstrap samples per interval.

    Returns:
        The table (a group of columns per metric that was run), the paired tests, the counts and the oracles. A column `NAME` whose oracle
        is known to be above 0 also has `NAME_share_ratio`, the ratio of the two means, with its interval. For `sensitive_<θ>` see
        `stats.verdict.with_verdicts`.

    Raises:
        CaseJaxError: when an image id occurs twice.
    """
    if rows.duplicated(["image_id", "method"]).any():
        twice = rows.loc[rows.duplicated(["image_id", "method"]), "image_id"].iloc[0]
        raise CaseJaxError(
            f"rows: image id {twice} occurs more than once per method; a source must give every image its own id."
        )
    estimates = estimates_of(rows, resamples=resamples)
    known = [column for column in columns if column.name in rows]
    beside = [c for c in known if c.statistic == "mean" and f"{c.name}_oracle" in rows]
    oracles = {column.name: _oracle(rows, column, estimates) for column in beside}
    table = {}
    for name, group in rows.groupby("method", sort=False, observed=True):
        entry: dict[str, float] = {"images": len(group), "degenerate": int((~both_usable(group)).sum())}
        if "F" in rows:
            entry |= _sensitivity(group, thetas, estimates)
        if f"p_removed_{DROP_PERCENT}" in rows:
            entry |= _fidelity(group, estimates)
        if "mass_own" in rows:
            entry |= _evidence(group, estimates)
        for column in known:
            entry |= _measured(group, column, estimates)
        for column in beside:
            if oracles[column.name].low > 0:
                entry |= _of_oracle(group, column, estimates)
        table[name] = entry
    frame = pd.DataFrame.from_dict(table, orient="index").rename_axis("method")
    if "F" in rows:
        frame = with_verdicts(frame, rows, controls, thetas)
    pairs = paired_tests(rows, "case") if f"p_removed_{DROP_PERCENT}" in rows else pd.DataFrame()
    return Summary(frame, pairs, left_out(rows), estimates.clusters, oracles)

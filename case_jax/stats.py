"""From rows to answers: tests, intervals and counts per method (no JAX here)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from case_jax._checks import CaseJaxError
from case_jax.metric_column import MetricColumn

THETAS = (0.5, 0.7)
ALPHA = 0.05
DROP_PERCENT = 50
RANK_DECIMALS = 5
UNLABELLED = "images without a label (fidelity uses them all the same)"
WRONG = "images classified wrongly (left out of fidelity)"


class Interval(NamedTuple):
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float


class SignedRank(NamedTuple):
    """A one-sided Wilcoxon signed-rank test against a threshold."""

    statistic: float
    p: float
    effect: float
    """Rank-biserial correlation: −1 when every value lies below the threshold, 1 when every value lies above."""


class Summary(NamedTuple):
    """What a report is made of."""

    table: pd.DataFrame
    """One row per method."""
    pairs: pd.DataFrame
    """Paired fidelity tests of every method against the reference."""
    counts: dict[str, int]
    """How many images or maps were left out of which statistic, and why."""


def bootstrap(
    values: Float[np.ndarray, " n"], statistic: str, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """A median or mean with its percentile bootstrap interval.

    Args:
        values: the sample, without NaN.
        statistic: `median` or `mean`.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: coverage.

    Returns:
        The estimate and its interval; all NaN for an empty sample, and the value itself twice for a constant one.
    """
    function = {"median": np.median, "mean": np.mean}[statistic]
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    value = float(function(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(value, value, value)
    found = stats.bootstrap(
        (values,), function, n_resamples=resamples, confidence_level=level, method="percentile",
        rng=np.random.default_rng(seed), batch=max(1, 2_000_000 // len(values)), vectorized=True,
    ).confidence_interval  # fmt: skip
    return Interval(value, float(found.low), float(found.high))


def below(values: Float[np.ndarray, " n"], theta: float) -> SignedRank:
    """Test H0 "the median is at least θ" against "it is smaller", by Wilcoxon's signed-rank test.

    Values equal to θ are dropped (Wilcoxon's treatment of zeros).

    Args:
        values: scores of independent images, without NaN.
        theta: the threshold.

    Returns:
        The sum of the positive ranks, p, and the rank-biserial effect size. All NaN for an empty sample; p = 1 and effect 0 when
        every value equals θ.
    """
    differences = np.round(np.asarray(values, np.float64) - theta, 9)  # equal distances from θ must tie exactly
    if len(differences) == 0:
        return SignedRank(np.nan, np.nan, np.nan)
    count = int((differences != 0).sum())
    if count == 0:
        return SignedRank(0.0, 1.0, 0.0)
    found: Any = stats.wilcoxon(differences, alternative="less")
    statistic = float(found.statistic)
    return SignedRank(statistic, float(found.pvalue), 4 * statistic / (count * (count + 1)) - 1)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction over the tests of one family; NaN (an untestable method) stays NaN and does not count.

    `p'_(i) = min(1, max_{j ≤ i} (m − j + 1) · p_(j))` over the m known values in rising order.

    Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p, np.float64)
    rising = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN is sorted to the end
    out = np.full(values.shape, np.nan)
    out[rising] = np.minimum(1, np.maximum.accumulate(values[rising] * np.arange(len(rising), 0, -1)))
    return out


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


def _named(prefix: str, interval: Interval, value_name: str) -> dict[str, float]:
    return {f"{prefix}_{value_name}": interval.value, f"{prefix}_low": interval.low, f"{prefix}_high": interval.high}


def _sensitivity(rows: pd.DataFrame, thetas: Sequence[float], resamples: int, seed: int) -> dict[str, float]:
    usable = rows[both_usable(rows)]
    F = np.round(usable["F"].to_numpy(np.float64), 6)  # stored as float32, in which 0.7 is not 0.7
    out = {"n_F": len(F), **_named("F", bootstrap(F, "median", resamples=resamples, seed=seed), "median")}
    out |= {"F_mean": F.mean() if len(F) else np.nan, "F_sd": F.std(ddof=1) if len(F) > 1 else np.nan}
    out |= {f"F_plus_{name}": usable["F_plus"].astype(np.float64).agg(name) for name in ("median", "mean")}
    out["zeros_share"] = usable["zeros_in_top"].mean() if len(F) else np.nan
    for theta in thetas:
        test = below(F, theta)
        out |= {f"p_{theta:g}": test.p, f"effect_{theta:g}": test.effect}
    return out


def _fidelity(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    usable = rows[correct_rows(rows) & watched_rows(rows)]
    drop = drops(usable, DROP_PERCENT).to_numpy()
    out = {"n_drop": len(drop), **_named("drop", bootstrap(drop, "mean", resamples=resamples, seed=seed), "mean")}
    out["drop_sd"] = drop.std(ddof=1) if len(drop) > 1 else np.nan
    out["drop_signed_mean"] = drops(usable, DROP_PERCENT, clipped=False).mean()
    return out | _named(
        "sweep", bootstrap(mean_drop(usable).to_numpy(), "mean", resamples=resamples, seed=seed), "mean"
    )


def _evidence(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    first = rows[~rows["degenerate_1"] & rows["mass_own"].notna()]
    own = first["mass_own"].to_numpy(np.float64)
    out = {"n_evidence": len(own), **_named("own", bootstrap(own, "mean", resamples=resamples, seed=seed), "mean")}
    out |= {f"{kind}_mean": first[f"mass_{kind}"].mean() for kind in ("shared", "other")}
    out |= {f"top_{kind}_mean": first[f"top_{kind}"].mean() for kind in ("shared", "own", "other")}
    peaks = first["points_1"].to_numpy(np.float64)
    out |= _named("points_1", bootstrap(peaks, "mean", resamples=resamples, seed=seed), "mean")
    both = rows[both_usable(rows) & rows["points_1"].notna() & rows["points_2"].notna()]
    if both.empty:  # as where only one class of an image has evidence: a criterion that nobody can meet is none
        return out
    points = (both[["points_1", "points_2"]] == 1).all(axis=1).to_numpy(np.float64)
    named = _named("pointing", bootstrap(points, "mean", resamples=resamples, seed=seed), "mean")
    return out | {"n_pointing": len(points), **named}


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


def _measured(rows: pd.DataFrame, column: MetricColumn, resamples: int, seed: int) -> dict[str, float]:
    values = rows.loc[usable_rows(rows, column), column.name].to_numpy(np.float64)
    found = bootstrap(values, column.statistic, resamples=resamples, seed=seed)
    return {f"n_{column.name}": len(values), **_named(column.name, found, column.statistic)}


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


def summarise(
    rows: pd.DataFrame,
    *,
    thetas: Sequence[float] = THETAS,
    columns: Sequence[MetricColumn] = (),
    reference: str = "case",
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """All statistics of a run.

    Degenerate maps are counted and left out of every statistic; fidelity uses correctly classified images (all, where there
    are no labels); evidence uses images in which it is known.

    Args:
        rows: a run's rows, see `RunFolder.rows`.
        thetas: thresholds of the class-sensitivity test.
        columns: further columns of the rows, as the run's metrics describe them; those that the rows lack are passed over.
        reference: the method that fidelity is compared with.
        resamples: bootstrap samples per interval.
        seed: of the resampling.

    Returns:
        The table (a group of columns per metric that was run), the paired tests and the counts. A method is
        `sensitive_<θ>` when its Holm-corrected p is below 0.05 over the methods of the run.

    Raises:
        CaseJaxError: when an image id occurs twice.
    """
    if rows.duplicated(["image_id", "method"]).any():
        twice = rows.loc[rows.duplicated(["image_id", "method"]), "image_id"].iloc[0]
        raise CaseJaxError(
            f"rows: image id {twice} occurs more than once per method; a source must give every image its own id."
        )
    table = {}
    for name, group in rows.groupby("method", sort=False, observed=True):
        entry: dict[str, float] = {
            "images": len(group),
            "degenerate": int((~both_usable(group)).sum()),
        }
        if "F" in rows:
            entry |= _sensitivity(group, thetas, resamples, seed)
        if f"p_removed_{DROP_PERCENT}" in rows:
            entry |= _fidelity(group, resamples, seed)
        if "mass_own" in rows:
            entry |= _evidence(group, resamples, seed)
        for column in columns:
            if column.name in rows:
                entry |= _measured(group, column, resamples, seed)
        table[name] = entry
    frame = pd.DataFrame.from_dict(table, orient="index")
    frame.index.name = "method"
    for theta in thetas if "F" in rows else ():
        frame[f"p_holm_{theta:g}"] = holm(frame[f"p_{theta:g}"].to_numpy(float))
        frame[f"sensitive_{theta:g}"] = frame[f"p_holm_{theta:g}"] < ALPHA
    pairs = paired_tests(rows, reference) if f"p_removed_{DROP_PERCENT}" in rows else pd.DataFrame()
    return Summary(frame, pairs, _counts(rows))


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    images = rows.drop_duplicates("image_id")
    labelled = images["label"] >= 0
    out = {
        "images evaluated": len(images),
        "images with logits that are not finite (left out of every score)": int((~np.isfinite(images["p1"])).sum()),
        UNLABELLED: int((~labelled).sum()),
        WRONG: int((labelled & (images["label"] != images["top1"])).sum()),
        "degenerate maps of the top-1 or top-2 class, over all methods (left out of every score)": int(
            rows["degenerate_1"].sum() + rows["degenerate_2"].sum()
        ),
    }
    if "degenerate_random" in rows:
        out["degenerate maps of the random class, over all methods (left out of the scores that use them)"] = int(
            rows["degenerate_random"].sum()
        )
    if "mass_own" in rows:
        # whether evidence is known depends on the image alone, but an all-zero map has no mass: any method's row will do
        known = rows.groupby("image_id")[["points_1", "points_2"]].first().notna()
        out["images whose top-1 class has no evidence region (left out of the evidence shares)"] = int(
            (~known["points_1"]).sum()
        )
        out["images whose two likeliest classes do not both have one (left out of class pointing)"] = int(
            (~known.all(axis=1)).sum()
        )
    return out

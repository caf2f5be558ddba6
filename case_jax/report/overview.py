"""What a reader of an evaluation sees first: the picture and the table at the top."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from case_jax import stats
from case_jax.report.figures import plain_style, rendered
from case_jax.report.formatting import percent, signed
from case_jax.report.loading import Method, Numbers
from case_jax.report.page import Drawing
from case_jax.report.scores import Scored, two_scores
from case_jax.report.tables import MainTable, plain_table
from case_jax.stats import Interval

PAIR = ("specificity_mean", "necessity_mean")
"""The pair of scores by intervention: does a map hold its own class, and does the network need what it marks?"""
PAIR_FORM = "z.2f"
"""Two decimals, and no minus before what rounds to 0."""
SENSITIVE = f"at {'/'.join(f'{theta:g}' for theta in stats.THETAS)}"
NOTES = {
    SENSITIVE: "Class-sensitive at θ = 0.5 and at θ = 0.7: whether the maps of the two likeliest classes share less than this part of their top "
    "pixels, by a test (no: the median is not below; open: it is, but that is not shown). See “The paper's diagnostic”.",
    "F": "Share of the top pixels that the maps of the two likeliest classes have in common, median: low = the map depends on the class.",
    "specificity": "By how much removing the top pixels of the map of class B rather than of A raises z_A − z_B, in logits: high = each map holds "
    "its own class; 0 = neither does, or both maps are one; below 0 = each holds the other.",
    "necessity": "By how much more the log-odds of the two classes against the rest fall on removing the top pixels than on removing as many "
    "beside them: high = the network needs what is marked.",
    "drop": "Relative loss of the class's probability when the map's top pixels are removed, averaged over all percentages: high = faithful.",
    "own mass": "Relevance mass accuracy: share of the map's mass on its own class's evidence.",
    "rank": "Mean rank over the scores of this run. Controls are not ranked.",
}


def has_pair(numbers: Numbers) -> bool:
    """Whether this run measured specificity and necessity."""
    return bool(numbers) and all(column in row for row in numbers.values() for column in PAIR)


def interval_in(row: Mapping[str, float], prefix: str, value: str, *, less: bool = False) -> Interval:
    """An estimate in a table's row, or one less it."""
    found = [row.get(f"{prefix}_{part}", math.nan) for part in (value, "low", "high")]
    return Interval(1 - found[0], 1 - found[2], 1 - found[1]) if less else Interval(*found)


def picture(numbers: Numbers, methods: Sequence[Method]) -> Drawing | None:
    """Specificity against necessity where both were measured, else class sensitivity against faithfulness, where those were."""
    rows = [(m, numbers[m.name]) for m in methods if m.name in numbers]
    if has_pair(numbers):
        return _by_intervention(
            [Scored(m, interval_in(r, "specificity", "mean"), interval_in(r, "necessity", "mean")) for m, r in rows]
        )
    if not all("F_median" in row and "sweep_mean" in row for _, row in rows):
        return None
    return _by_overlap(
        [Scored(m, interval_in(r, "F", "median", less=True), interval_in(r, "sweep", "mean")) for m, r in rows]
    )


def _by_intervention(scored: Sequence[Scored]) -> Drawing:
    with plain_style():
        figure = two_scores(
            scored,
            x="specificity: z_A − z_B with B's top pixels removed, less with A's (logits)",
            y="necessity: log-odds of A and B lost, beyond a shifted mask",
            corner="each map holds its own class, and what the network needs",
            shares=False,
        )
        words = ", ".join(
            f"{s.method.title} {signed(s.x.value, PAIR_FORM)} and {signed(s.y.value, PAIR_FORM)}" for s in scored
        )
        caption = (
            "A and B are the two likeliest classes; what is removed are the top pixels of the map of A or of B. A map that does not depend "
            "on the class has specificity 0, noise 0 on average, and maps of the other's class have less. Lines: 95% intervals. Grey diamonds: controls."
        )
        alt = f"Specificity and necessity: {words}."
        return Drawing("overview", "The methods at a glance", caption, alt, *rendered(figure))


def _by_overlap(scored: Sequence[Scored]) -> Drawing:
    with plain_style():
        figure = two_scores(
            scored,
            x="class-sensitive: 1 − F, pixels that only one of the two maps marks",
            y="faithful: probability lost, averaged over all percentages removed",
            corner="depends on the class, and on what the network uses",
        )
        words = ", ".join(f"{s.method.title} {percent(s.x.value)} and {percent(s.y.value)}" for s in scored)
        caption = (
            "Lines: 95% intervals. Grey diamonds: controls, which know no class, no network, nothing learnt or the wrong class. A random map is "
            "class-sensitive, too: only both scores together say something."
        )
        alt = f"Class sensitivity and faithfulness: {words}."
        return Drawing("overview", "The methods at a glance", caption, alt, *rendered(figure))


def first_table(numbers: Numbers, methods: Sequence[Method], ranks: pd.Series) -> MainTable:
    """A number for every question, and no intervals: it fits a terminal of 100 columns.

    Args:
        numbers: statistics by method.
        methods: its rows, in order.
        ranks: mean rank by method; those without have none.
    """
    cells: dict[str, dict[str, str]] = {}
    for m in methods:
        row = numbers.get(m.name)
        if row is None:
            continue
        entry: dict[str, str] = {}
        if "F_median" in row:
            entry = {
                SENSITIVE: "/".join(_verdict(row, t) for t in stats.THETAS),
                "F": percent(row["F_median"], digits=0),
            }
        if has_pair(numbers):
            entry |= {
                name: signed(row[column], PAIR_FORM)
                for name, column in zip(("specificity", "necessity"), PAIR, strict=True)
            }
        if "sweep_mean" in row:
            entry["drop"] = percent(row["sweep_mean"], digits=0)
        if "own_mean" in row:
            entry["own mass"] = percent(row["own_mean"], digits=0)
        entry["rank"] = f"{ranks[m.name]:.1f}" if m.name in ranks.index else ""
        cells[m.name] = entry
    return plain_table(methods, cells, NOTES)


def _verdict(row: Mapping[str, float], theta: float) -> str:
    if math.isnan(row[f"p_{theta:g}"]):
        return "–"
    if row[f"sensitive_{theta:g}"]:
        return "yes"
    return "no" if row["F_median"] >= theta else "open"

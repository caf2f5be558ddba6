"""The tables of the report: every column is declared once, for the page and for Markdown."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from case_jax.metric_column import MetricColumn
from case_jax.report.formatting import interval, p_value, plain_interval, signed
from case_jax.report.loading import Method, Numbers

TERMINAL = 100
"""Columns that a printed table should fit."""

Row = Mapping[str, Any]
"""One method's numbers."""


class Column(NamedTuple):
    """A column of the main table."""

    group: str
    head: str
    needs: str
    """The number without which this column is not shown."""
    cell: Callable[[Row], str]
    note: str
    better: Literal["high", "low", ""] = ""
    """Which end of that number is good; empty where methods are not ranked by it."""


class MainTable(NamedTuple):
    """A table ready for the page: heads with a footnote number each, rows of cells."""

    groups: list[tuple[str, int]]
    heads: Sequence[tuple[str, int | str]]
    rows: list[tuple[Method, list[str]]]
    notes: list[str]


def _interval_of(prefix: str, value: str) -> Callable[[Row], str]:
    return lambda row: interval(row[f"{prefix}_{value}"], row[f"{prefix}_low"], row[f"{prefix}_high"])


def _share_of(column: str) -> Callable[[Row], str]:
    return lambda row: "–" if math.isnan(row[column]) else f"{100 * row[column]:.1f}"


def verdict(row: Row, theta: float) -> str:
    """Whether the method is class-sensitive at this threshold, with the corrected p of the test; of a control, its own."""
    p = row[f"p_holm_{theta:g}"]
    p = row[f"p_{theta:g}"] if math.isnan(p) else p
    if math.isnan(p):
        return "–\nno usable maps"
    if row[f"sensitive_{theta:g}"]:
        return f"✓ yes\n({p_value(p)})"
    return f"✗ no\n({p_value(p)})" if row["F_median"] >= theta else f"✗ not shown\n({p_value(p)})"


def _verdict_column(theta: float) -> Column:
    return Column(
        "Class sensitivity",
        f"sensitive at θ = {theta:g}?",
        f"p_holm_{theta:g}",
        lambda row: verdict(row, theta),
        f"Yes where a one-sided sign test rejects “median F ≥ {theta:.0%}” at 5%, Holm-corrected, and the interval lies below {theta:.0%}; "
        "“not shown” where the median is lower but one of the two fails.",
    )


def _paper_column(theta: float) -> Column:
    return Column(
        "As in the paper",
        f"Wilcoxon, θ = {theta:g}",
        f"wilcoxon_{theta:g}",
        lambda row: _wilcoxon(row, theta),
        f"One-sided Wilcoxon signed-rank test of “F ≥ {theta:.0%}”, Holm-corrected, and its rank-biserial effect r (−1: all below). It "
        "takes images as independent, and tests the median only where differences from θ are symmetric: no verdict hangs on it.",
    )


def _wilcoxon(row: Row, theta: float) -> str:
    p = row[f"wilcoxon_holm_{theta:g}"]
    p = row[f"wilcoxon_{theta:g}"] if math.isnan(p) else p
    return "–" if math.isnan(p) else f"{p_value(p)}\nr = {signed(row[f'effect_{theta:g}'], '.2f')}"


def diagnostic_columns(thetas: Sequence[float], percent_of_pixels: float) -> list[Column]:
    """The columns of the paper's diagnostic, F and its tests.

    Args:
        thetas: thresholds of the sensitivity test.
        percent_of_pixels: how many top pixels the agreement compares.
    """
    k, sensitivity = f"{percent_of_pixels:g}%", "Class sensitivity"
    return [
        Column(sensitivity, "F, median [95%]", "F_median", _interval_of("F", "median"),
               f"Percentage of the top {k} pixels that the maps of the two likeliest classes share: low = the map "
               "depends on the class. Median over images.", "low"),
        Column(sensitivity, "F⁺", "F_plus_median", _share_of("F_plus_median"),
               "The same counted on positive pixels only, median."),
        Column(sensitivity, "zeros in top", "zeros_share", _share_of("zeros_share"),
               f"Percentage of images in which a map has fewer than {k} positive pixels, so that ties among zeros "
               "enter F; trust F⁺ there."),
        *(_verdict_column(theta) for theta in thetas),
        *(_paper_column(theta) for theta in thetas),
    ]  # fmt: skip


def columns(removed: float) -> list[Column]:
    """The columns of fidelity and evidence.

    Args:
        removed: percentage of pixels removed in the fidelity test.
    """
    fidelity, evidence = "Fidelity", "Evidence"
    return [
        Column(fidelity, f"drop at {removed:g}% [95%]", "drop_mean", _interval_of("drop", "mean"),
               f"Relative loss of the predicted class's probability, in percent, when the map's top {removed:g}% "
               "pixels are removed; mean over correctly classified images: high = faithful."),
        Column(fidelity, "drop, sweep", "sweep_mean", _share_of("sweep_mean"),
               "The same averaged over all percentages removed.", "high"),
        Column(evidence, "own mass [95%]", "own_mean", _interval_of("own", "mean"),
               "Percentage of the top-1 map's mass on the evidence of its own class: high = specific.", "high"),
        Column(evidence, "shared", "shared_mean", _share_of("shared_mean"),
               "The same on evidence that all candidate classes share."),
        Column(evidence, "other", "other_mean", _share_of("other_mean"),
               "The same on another class's evidence."),
        Column(evidence, "pointing game [95%]", "points_1_mean", _interval_of("points_1", "mean"),
               "Percentage of images in which the top-1 map peaks on its own class's evidence."),
        Column(evidence, "class pointing [95%]", "pointing_mean", _interval_of("pointing", "mean"),
               "Percentage of images in which both maps peak on their own class's evidence.", "high"),
        Column("Maps", "degenerate", "degenerate", lambda row: f"{row['degenerate']:,}",
               "Number of images with a map that is all zero, constant or not finite; they enter no score."),
    ]  # fmt: skip


def metric_columns(described: Mapping[str, Sequence[MetricColumn]]) -> list[Column]:
    """A column for each number that a metric describes itself, grouped by metric; behind it its share of the true parts'."""
    return [
        column for group, found in described.items() for m in found for column in _described(group.replace("_", " "), m)
    ]


def _described(group: str, m: MetricColumn) -> list[Column]:
    note = f"{m.note[:1].upper()}{m.note[1:]}."
    return [
        Column(group, f"{m.title} [95%]", f"{m.name}_{m.statistic}", _metric_cell(m), note, m.better),
        Column(
            group, f"% of the true parts’ {m.title} [95%]", f"{m.name}_share_ratio", _interval_of(f"{m.name}_share", "ratio"),
            f"{m.title.capitalize()} in percent of that of the true parts: a ratio of means over images where both are known, with an interval "
            "by the delta method.",
        ),
    ]  # fmt: skip


def _metric_cell(column: MetricColumn) -> Callable[[Row], str]:
    if column.percent:
        return _interval_of(column.name, column.statistic)
    return lambda row: plain_interval(*(row[f"{column.name}_{part}"] for part in (column.statistic, "low", "high")))


def rank_table(ranks: pd.DataFrame, shown: Iterable[Column], methods: Sequence[Method]) -> MainTable:
    """Ranks per criterion and their mean, best first.

    Args:
        ranks: from `stats.ranked`.
        shown: the columns whose numbers were ranked.
        methods: those of the run.
    """
    kept = [column for column in shown if column.needs in ranks]
    known = {method.name: method for method in methods}
    rows = [
        (known[str(name)], [f"{row['mean_rank']:.1f}", *(f"{row[column.needs]:g}" for column in kept)])
        for name, row in ranks.iterrows()
    ]
    titles = [column.head.removesuffix(" [95%]") for column in kept]
    shorter = [title.split(",")[0] for title in titles]
    heads = [("mean rank", 1)]
    heads += [(short if shorter.count(short) == 1 else title, 2) for short, title in zip(shorter, titles, strict=True)]
    directions = ", ".join(f"{title}: {column.better}" for title, column in zip(titles, kept, strict=True))
    notes = [
        "Mean over the criteria shown, each counted once; no more than a way to sort: read the numbers, and remember that a map "
        "of pure noise is class-sensitive. Controls are not ranked; a method without usable maps comes last.",
        f"1 = best. What counts as good: {directions}.",
    ]
    return MainTable([("Rank", len(kept) + 1)], heads, rows, notes)


CONTROLS_NOTE = (
    "Controls know no class, no classifier, nothing that it has learnt, or the wrong class: they show what each column is worth without "
    "knowledge. A random map, a contrast of noise and maps that were exchanged pass the sensitivity test and say nothing, so sensitivity "
    "counts only together with specificity or evidence; a centre Gaussian shows how far the middle of the picture alone carries."
)


def main_table(numbers: Numbers, methods: Sequence[Method], shown: Iterable[Column]) -> MainTable:
    """The main table.

    Args:
        numbers: statistics by method.
        methods: those of the run, in its order.
        shown: columns; those whose numbers the run does not have are left out.
    """
    kept = [column for column in shown if any(column.needs in row for row in numbers.values())]
    groups: list[tuple[str, int]] = []
    for column in kept:
        same = groups and groups[-1][0] == column.group
        groups[-1:] = [(column.group, groups[-1][1] + 1)] if same else [*groups[-1:], (column.group, 1)]
    heads = [(column.head, number) for number, column in enumerate(kept, start=1)]
    rows = [(m, [column.cell(numbers[m.name]) for column in kept]) for m in methods if m.name in numbers]
    notes = [column.note for column in kept]
    if any(method.control for method in methods):
        notes.append(CONTROLS_NOTE)
    return MainTable(groups, heads, rows, notes)


def plain_table(
    methods: Sequence[Method], cells: Mapping[str, Mapping[str, str]], notes: Mapping[str, str], *further: str
) -> MainTable:
    """A table without groups.

    Args:
        methods: its rows, in order; those without cells are left out.
        cells: text by method and head.
        notes: what a head means, by head.
        further: notes about the whole.
    """
    rows = [m for m in methods if m.name in cells]
    heads = list(cells[rows[0].name]) if rows else []
    numbers = {head: number for number, head in enumerate((h for h in heads if h in notes), start=1)}
    lines = [(m, list(cells[m.name].values())) for m in rows]
    marked = [(head, numbers.get(head, "")) for head in heads]
    return MainTable([("", len(heads))], marked, lines, [*(notes[h] for h in heads if h in notes), *further])


def ranked_first(methods: Sequence[Method], order: Sequence[str]) -> list[Method]:
    """Methods in this order, controls last."""
    place = {name: number for number, name in enumerate(order)}
    return sorted(methods, key=lambda m: (m.control, place.get(m.name, len(place))))


def title_of(method: Method) -> str:
    """The method's title; controls, and methods whose map is the same for every class, are marked."""
    if method.control:
        return f"{method.title} (control)"
    return f"{method.title} (class-blind)" if method.class_blind else method.title


def markdown(found: MainTable) -> str:
    """The table as Markdown, to be printed or pasted; without the spaces beside its lines where only so it fits a terminal."""

    def safe(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    heads = ["method", *(head for head, _ in found.heads)]
    lines = [heads, *([safe(title_of(method)), *map(safe, cells)] for method, cells in found.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    least = sum(widths) + len(widths) + 1
    space = "" if least <= TERMINAL < least + 2 * len(widths) else " "
    lines.insert(1, ["-" * width for width in widths])

    def line(cells: Sequence[str]) -> str:
        padded = (f"{space}{cell:{width}}{space}" for cell, width in zip(cells, widths, strict=True))
        return f"|{'|'.join(padded)}|"

    return "\n".join(map(line, lines))


def pairs_table(pairs: pd.DataFrame, titles: dict[str, str]) -> list[list[str]]:
    """The paired fidelity tests as rows of cells: method, images, difference, t, its p, W, its p."""
    return [
        [
            titles.get(str(row["method"]), str(row["method"])),
            f"{row['n']:,}",
            f"{signed(100 * row['mean_difference'], '+.2f')} [{signed(100 * row['low'], '.2f')}, {signed(100 * row['high'], '.2f')}]",
            signed(row["t"], ".2f"),
            p_value(row["p_t_holm"]),
            signed(row["w"], ",.0f"),
            p_value(row["p_w_holm"]),
        ]
        for row in pairs.to_dict("records")
    ]  # fmt: skip

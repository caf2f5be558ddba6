"""The page of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from case_jax import stats
from case_jax.reasons import Reason
from case_jax.report.evaluate_figures import draw
from case_jax.report.figures import plain_style, rendered
from case_jax.report.formatting import percent
from case_jax.report.loading import Method, Numbers, Run, load_run, numbers_of
from case_jax.report.page import Drawing, Page, Section
from case_jax.report.scores import Scored, two_scores
from case_jax.report.sentence import answer
from case_jax.report.tables import (
    MainTable,
    columns,
    main_table,
    metric_columns,
    pairs_table,
    plain_table,
    rank_table,
    ranked_first,
)
from case_jax.stats import Interval, Summary

INTERVALS = "Shares in percent; intervals are 95% bootstrap intervals over images."


def page_of(path: Path) -> tuple[Run, Page]:
    """Read an evaluation's folder.

    Raises:
        CaseJaxError: when it has no rows yet, or one of its files is missing or damaged.
    """
    run = load_run(path)
    summary = stats.summarise(run.rows, columns=[m for described in run.metric_columns.values() for m in described])
    numbers, k = numbers_of(summary.table), run.config["metrics"].get("sensitivity", {}).get("percent", 5.0)
    shown, further = columns(stats.THETAS, k, stats.DROP_PERCENT), metric_columns(run.metric_columns)
    criteria = {c.needs: c.better for c in [*shown, *further] if c.better and c.needs in summary.table}
    judged = [m.name for m in run.methods if not m.control and m.name in summary.table.index]
    ranks = stats.ranked(summary.table.loc[judged], criteria)
    methods = ranked_first(run.methods, [str(name) for name in ranks.index])
    drawings = {drawing.name: drawing for drawing in draw(run, numbers)}
    gallery = [d for name, d in drawings.items() if name.startswith("gallery")]
    sections = [Section("All scores", main_table(numbers, methods, shown), words=[INTERVALS])]
    if further:
        sections.append(Section("Further scores", main_table(numbers, methods, further), words=[INTERVALS]))
    if criteria and len(judged) > 1:
        sections.append(Section("Ranks", rank_table(ranks, [*shown, *further], run.methods)))
    sections += [Section(d.title, drawings=[d]) for name, d in drawings.items() if not name.startswith("gallery")]
    sections += _paired(summary, run.methods)
    page = Page(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: class sensitivity",
        sentences=answer(numbers, run.methods, summary.counts, theta=stats.THETAS[0], percent_of_pixels=k),
        picture=_picture(numbers, run.methods),
        table=_first_table(numbers, methods, ranks["mean_rank"] if judged else pd.Series(dtype=float)),
        gallery=gallery,
        sections=sections,
        counts={
            "images that could not be read": len(run.excluded),
            **summary.counts,
            **_degenerate(numbers, run.rows, run.methods),
        },
        files={"summary.csv": _csv(summary, run.methods, ranks)},
    )
    return run, page


def _interval(row: Mapping[str, float], prefix: str, value: str, *, less: bool = False) -> Interval:
    found = [row.get(f"{prefix}_{part}", float("nan")) for part in (value, "low", "high")]
    return Interval(1 - found[0], 1 - found[2], 1 - found[1]) if less else Interval(*found)


def _picture(numbers: Numbers, methods: Sequence[Method]) -> Drawing | None:
    """Class sensitivity against faithfulness, where both were measured."""
    rows = [(m, numbers[m.name]) for m in methods if m.name in numbers]
    if not all("F_median" in row and "sweep_mean" in row for _, row in rows):
        return None
    scored = [Scored(m, _interval(row, "F", "median", less=True), _interval(row, "sweep", "mean")) for m, row in rows]
    with plain_style():
        figure = two_scores(
            scored,
            x="class-sensitive: 1 − F, pixels that only one of the two maps marks",
            y="faithful: probability lost, averaged over all percentages removed",
            corner="depends on the class, and on what the network uses",
        )
        words = ", ".join(
            f"{m.title} {percent(s.x.value)} and {percent(s.y.value)}"
            for m, s in zip([m for m, _ in rows], scored, strict=True)
        )
        caption = (
            "Lines: 95% intervals over images. Grey diamonds: controls, which know no class and no network. A random map is "
            "class-sensitive, too: only both scores together say something."
        )
        return Drawing(
            "overview",
            "The methods at a glance",
            caption,
            f"Class sensitivity and faithfulness: {words}.",
            *rendered(figure),
        )


def _first_table(numbers: Numbers, methods: Sequence[Method], ranks: pd.Series) -> MainTable:
    notes = {
        "sensitive at 0.5?": "Whether the maps of the two likeliest classes share less than half of their top pixels, by a test; see “All scores”.",
        "F": "Share of the top pixels that the maps of the two likeliest classes have in common, median: low = the map depends on the class.",
        "drop": "Relative loss of the class's probability when the map's top pixels are removed, averaged over all percentages: high = faithful.",
        "own mass": "Relevance mass accuracy: share of the map's mass on its own class's evidence.",
        "rank": "Mean rank over the scores of this run. Controls are not ranked.",
    }
    cells: dict[str, dict[str, str]] = {}
    for m in methods:
        row = numbers.get(m.name)
        if row is None:
            continue
        entry = {"n": f"{row['images'] - row['degenerate']:,}"}
        if f"p_holm_{stats.THETAS[0]:g}" in row:
            known = row[f"p_holm_{stats.THETAS[0]:g}"] == row[f"p_holm_{stats.THETAS[0]:g}"]
            yes = bool(row[f"sensitive_{stats.THETAS[0]:g}"])
            below = "no" if row["F_median"] >= stats.THETAS[0] else "not shown"
            entry |= {
                "sensitive at 0.5?": "–" if not known else "yes" if yes else below,
                "F": percent(row["F_median"], digits=0),
            }
        if "sweep_mean" in row:
            entry["drop"] = percent(row["sweep_mean"], digits=0)
        if "own_mean" in row:
            entry["own mass"] = percent(row["own_mean"], digits=0)
        entry["rank"] = f"{ranks[m.name]:.1f}" if m.name in ranks.index else ""
        cells[m.name] = entry
    notes["n"] = "Images with usable maps of both classes."
    return plain_table(methods, cells, notes)


def _degenerate(numbers: Numbers, rows: pd.DataFrame, methods: Sequence[Method]) -> dict[str, int]:
    """How many images have a degenerate map, by method, and how many maps for which reason."""
    counts: dict[str, int] = {}
    for m in methods:
        number = int(numbers[m.name]["degenerate"]) if m.name in numbers else 0
        if number:
            counts[f"images with a degenerate map of {m.title}"] = number
            given = [c for c in ("reason_1", "reason_2") if c in rows]
            codes = rows.loc[rows["method"] == m.name, given].to_numpy().ravel()
            known = {reason: int((codes == reason).sum()) for reason in Reason if reason != Reason.NONE}
            counts |= {f"maps of {m.title}: {reason.words}": count for reason, count in known.items() if count}
    return counts


def _paired(summary: Summary, methods: Sequence[Method]) -> list[Section]:
    if summary.pairs.empty:
        return []
    titles = {m.name: m.title for m in methods}
    reference = titles.get(summary.pairs["reference"].iloc[0], summary.pairs["reference"].iloc[0])
    heads: tuple[str, ...] = (
        "images",
        "mean difference of the drop, points",
        "t",
        "paired t-test",
        "W",
        "Wilcoxon signed-rank",
    )
    names = [str(name) for name in summary.pairs["method"]]
    rows = pairs_table(summary.pairs, titles)
    cells: dict[str, dict[str, str]] = {
        name: dict(zip(heads, row[1:], strict=True)) for name, row in zip(names, rows, strict=True)
    }
    words = (
        f"Difference is method − {reference}: above 0 means a larger drop, more faithful. Tests are two-sided, p Holm-corrected over the "
        "methods. The two tests ask different things (the mean, and the typical image) and may disagree."
    )
    return [
        Section(
            f"Fidelity against {reference} at 50% removed, paired by image",
            plain_table(methods, cells, {}),
            words=[words],
        )
    ]


def _csv(summary: Summary, methods: Sequence[Method], ranks: pd.DataFrame) -> bytes:
    titled = summary.table.copy()
    titled.insert(0, "title", titled.index.map({m.name: m.title for m in methods}))
    titled.insert(1, "control", titled.index.map({m.name: m.control for m in methods}))
    titled["mean_rank"] = ranks["mean_rank"]
    return titled.to_csv().encode()

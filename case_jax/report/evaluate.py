"""The page of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from case_jax import stats
from case_jax.metric_column import MetricColumn
from case_jax.reasons import Reason
from case_jax.report.evaluate_figures import draw
from case_jax.report.formatting import counted, listed, signed, unit_words
from case_jax.report.loading import Method, Numbers, Run, load_run, numbers_of
from case_jax.report.overview import first_table, picture
from case_jax.report.page import Page, Section
from case_jax.report.sentence import answer
from case_jax.report.tables import (
    columns,
    diagnostic_columns,
    main_table,
    metric_columns,
    pairs_table,
    plain_table,
    rank_table,
    ranked_first,
)
from case_jax.stats import Interval, Summary

DIAGNOSTIC = (
    "The maps of two classes may differ and yet hold neither class: noise passes these tests, and so do two maps that are exchanged. Read them "
    "beside what an intervention says."
)


def page_of(path: Path) -> tuple[Run, Page]:
    """Read an evaluation's folder.

    Raises:
        CaseJaxError: when it has no rows yet, or one of its files is missing or damaged.
    """
    run = load_run(path)
    described = [m for found in run.metric_columns.values() for m in found]
    controls = [m.name for m in run.methods if m.control]
    summary = stats.summarise(run.rows, controls=controls, columns=described)
    numbers, k = numbers_of(summary.table), run.config["metrics"].get("sensitivity", {}).get("percent", 5.0)
    diagnostic, shown = diagnostic_columns(stats.THETAS, k), columns(stats.DROP_PERCENT)
    further = metric_columns(run.metric_columns)
    unit = unit_words(run.config["data"].get("unit", "images"), run.done, summary.clusters)
    criteria = {c.needs: c.better for c in [*diagnostic, *shown, *further] if c.better and c.needs in summary.table}
    judged = [m.name for m in run.methods if not m.control and m.name in summary.table.index]
    ranks = stats.ranked(summary.table.loc[judged], criteria)
    methods = ranked_first(run.methods, [str(name) for name in ranks.index])
    drawings = {drawing.name: drawing for drawing in draw(run, numbers)}
    gallery = [d for name, d in drawings.items() if name.startswith("gallery")]
    words = [f"Shares in percent, intervals of 95%. {unit}"]
    sections = [Section("Fidelity and evidence", main_table(numbers, methods, shown), words=words)]
    if "F" in run.rows:
        told = [*words, *_family(summary, run.methods), DIAGNOSTIC]
        sections.append(Section("The paper's diagnostic", main_table(numbers, methods, diagnostic), words=told))
    if further:
        told = [*words, *true_parts(summary.oracles, run.metric_columns)]
        sections.append(Section("Further scores", main_table(numbers, methods, further), words=told))
    if criteria and len(judged) > 1:
        sections.append(Section("Ranks", rank_table(ranks, [*diagnostic, *shown, *further], run.methods)))
    sections += [Section(d.title, drawings=[d]) for name, d in drawings.items() if not name.startswith("gallery")]
    sections += _paired(summary, run.methods, unit)
    page = Page(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: class sensitivity",
        sentences=answer(numbers, run.methods, summary.counts, thetas=stats.THETAS, percent_of_pixels=k),
        picture=picture(numbers, run.methods),
        table=first_table(numbers, methods, ranks["mean_rank"] if judged else pd.Series(dtype=float)),
        unit=" ".join([unit, *true_parts(summary.oracles, run.metric_columns)]),
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


def true_parts(oracles: Mapping[str, Interval], described: Mapping[str, Sequence[MetricColumn]]) -> list[str]:
    """What removing the true parts gives, which no map need reach or stay below, and whether shares of it are given."""
    titles = {m.name: m.title for found in described.values() for m in found}
    known = {titles[name]: found for name, found in oracles.items() if found.value == found.value}
    if not known:
        return []
    each = [
        f"{title} {signed(found.value, '.2f')} [{signed(found.low, '.2f')}, {signed(found.high, '.2f')}]"
        for title, found in known.items()
    ]
    undivided = [title for title, found in known.items() if not found.low > 0]
    none = f" That {listed(undivided)} is not shown to be above 0: no share of it is given." if undivided else ""
    return [f"The true parts have {listed(each)}.{none}"]


def _family(summary: Summary, methods: Sequence[Method]) -> list[str]:
    """Which methods the tests are corrected over, and which of them count once."""
    titles = {m.name: m.title for m in methods if not m.control}
    same = {str(name): first for name, first in summary.table["same_as"].items() if first}
    number = sum(name in titles and name not in same for name in map(str, summary.table.index))
    once = [f"{titles[name]} and {titles[first]}" for name, first in same.items()]
    beside = f" The same F in every image, and so counted once: {listed(once, shown=30)}." if once else ""
    return [
        f"p is Holm-corrected over {counted(number, 'method')}: all that are no controls. Controls are judged by their own p.{beside}"
    ]


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


def _paired(summary: Summary, methods: Sequence[Method], unit: str) -> list[Section]:
    if summary.pairs.empty:
        return []
    titles = {m.name: m.title for m in methods}
    reference = titles.get(summary.pairs["reference"].iloc[0], summary.pairs["reference"].iloc[0])
    heads: tuple[str, ...] = (
        "images",
        "mean difference of the drop, points [95%]",
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
        "methods. The two tests ask different things (the mean, and the typical image) and may disagree; Wilcoxon's takes images as independent. "
        f"{unit}"
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

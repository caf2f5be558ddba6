"""The page of localisation (no JAX here but for reading sums)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from case_jax import stats
from case_jax.report.evaluate_figures import galleries
from case_jax.report.figures import plain_style, rendered
from case_jax.report.formatting import percent, signed, unit_words
from case_jax.report.loading import Method, Run, load_run
from case_jax.report.page import Drawing, Page, Section
from case_jax.report.scores import Scored, two_scores
from case_jax.report.tables import MainTable, plain_table, ranked_first
from case_jax.results import RunFolder
from case_jax.stats import Interval

WITH_INTERVAL = ("le", "om", "f1", "f1a", "sm")
PLAIN = ("sm_log_area", "sm_log_p", "iou", "mean", "sd", "entropy", "tv")
OVERALL = ("pxap", "max_box_acc", "max_box_acc_v2")
TITLES = {
    "whole_image": "whole image",
    "centre_box": "centre box",
    "truth_box": "true box",
    "truth_pixels": "true pixels",
}
"""Of the baselines."""
NOTES = {
    "LE [95%]": "Share of images in which the box around a map (above its mean, largest component) meets no true box with an IoU above 0.5: low = good.",
    "OM [95%]": "As LE, or the image is classified wrongly: low = good.",
    "F1 [95%]": "Of the map as a soft mask with the true box that it fits best.",
    "PxAP": "Area under the curve of pixel precision and recall, over the pixels of all images.",
    "MaxBoxAcc": "Share of images whose largest component meets a true box (IoU ≥ 0.5) at the best threshold for all; the threshold is chosen on the very images, for every method alike.",
    "F1a": "As F1, with all true boxes.",
    "SM [95%]": "Log of the box's share of the image (at least 0.05) minus log-probability of the class in the box's crop: low = good.",
    "MaxBoxAccV2": "As MaxBoxAcc, any component, mean over IoU ≥ 0.3, 0.5, 0.7.",
    "mean ± sd": "Of the map, over pixels.",
    "entropy": "Bits a pixel.",
    "TV × 100": "Total variation.",
    "degenerate": "Maps that are all zero, constant or not finite; they enter nothing.",
}
BASELINES_NOTE = "Baselines stand last, marked as controls: they know no network. The true box is the largest. The true pixels are treated as a map."


def summarise(rows: pd.DataFrame, overall: pd.DataFrame) -> pd.DataFrame:
    """Means over images, with 95% intervals, by cluster where rows name clusters, beside the scores of the data set as a whole, which have none.

    Args:
        rows: one per image and method, see `case_jax.evaluation.studies.localise`.
        overall: one row per method: `images`, `pxap`, `max_box_acc`, `max_box_acc_v2`.

    Returns:
        One row per method, in the order of the rows: `images` with a usable map and `degenerate` ones, which enter nothing; `le`, `om`,
        `f1`, `f1a`, `sm` with `_low` and `_high`; `mean_sd`, the deviation of the maps' means over images; means of the other columns.
        NaN where nothing is known.
    """
    table, estimates = [], stats.estimates_of(rows)
    for method, group in rows.groupby("method", sort=False, observed=True):
        entry: dict[str, object] = {"method": method, "images": int((~group["degenerate"]).sum())}
        entry["degenerate"] = int(group["degenerate"].sum())
        for name in WITH_INTERVAL:
            known = group[group[name].notna()]
            found = estimates.interval(known, known[name].to_numpy(np.float64))
            entry |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        entry |= {name: group[name].astype(np.float64).mean() for name in PLAIN}
        entry["mean_sd"] = group["mean"].std(ddof=1)
        table.append(entry | {name: overall.loc[str(method), name] for name in OVERALL})
    return pd.DataFrame(table)


def page_of(path: Path) -> tuple[Run, Page]:
    """Read the folder of a localisation.

    Raises:
        CaseJaxError: when nothing could be scored, or one of its files is missing or damaged.
    """
    from case_jax.evaluation.studies.localise import localisation  # JAX

    run, found = load_run(path), localisation(RunFolder(path))
    summary = summarise(found.rows, found.overall)
    baselines = [Method(name, title, True, False, {}) for name, title in TITLES.items()]
    kept = summary[(summary["images"] > 0) | ~summary["method"].isin(list(TITLES))]
    order = kept.sort_values("le", kind="stable")["method"]
    methods = ranked_first([*run.methods, *baselines], [str(name) for name in order])
    rows = {str(row["method"]): row for row in kept.to_dict("records")}
    scores = json.loads(summary.to_json(orient="records"))  # NaN becomes null
    settings = run.config["localise"]
    facts = {"settings": settings, "counts": found.counts, "excluded": found.excluded, "scores": scores}
    page = Page(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: do maps lie on the object?",
        sentences=_answer(rows, methods, settings),
        picture=_picture(rows, methods),
        table=_table(rows, methods),
        unit=unit_words(run.config["data"].get("unit", "images"), run.done, stats.estimates_of(found.rows).clusters),
        gallery=galleries(run),
        sections=[Section("What the maps are like", _further(rows, methods))],
        counts=found.counts,
        files={
            "summary.csv": summary.to_csv(index=False).encode(),
            "summary.json": (json.dumps(facts, indent=2) + "\n").encode(),
        },
    )
    return run, page


def _answer(rows: Mapping[str, Mapping[Any, Any]], methods: Sequence[Method], settings: Mapping[str, Any]) -> list[str]:
    known = [m for m in methods if not m.control and m.name in rows and not np.isnan(rows[m.name]["le"])]
    if not known:
        return ["No method has a usable map on any image with a known truth."]
    best = min(known, key=lambda m: rows[m.name]["le"])
    centre = rows.get("centre_box")
    beside = f", the centre box in {percent(1 - centre['le'])}" if centre and not np.isnan(centre["le"]) else ""
    first = (
        f"The box around {best.title} meets the true one in {percent(1 - rows[best.name]['le'])} of the images{beside}."
    )
    if settings["truth"] != "union":
        return [first]
    return [
        first,
        "Here the object is the whole scene of a class, also the part that its rivals share: methods that leave out what classes share are "
        "worse by this count. --truth marker asks about the part that tells the class from its rivals.",
    ]


def _picture(rows: Mapping[str, Mapping[Any, Any]], methods: Sequence[Method]) -> Drawing:
    scored = []
    for m in methods:
        if m.name in rows:
            le, f1 = ([rows[m.name][f"{name}{end}"] for end in ("", "_low", "_high")] for name in ("le", "f1"))
            scored.append(Scored(m, Interval(1 - le[0], 1 - le[2], 1 - le[1]), Interval(*f1)))
    with plain_style():
        figure = two_scores(
            scored, x="1 − LE: boxes that meet the true one", y="F1 with the true box", corner="lies on the object"
        )
        words = ", ".join(f"{s.method.title} {percent(s.x.value)} and {percent(s.y.value)}" for s in scored)
        caption = "Lines: 95% intervals. Grey diamonds: controls and baselines, which know no network."
        return Drawing("overview", "The methods at a glance", caption, f"1 − LE and F1: {words}.", *rendered(figure))


def _table(rows: Mapping[str, Mapping[Any, Any]], methods: Sequence[Method]) -> MainTable:
    cells = {
        name: {
            "LE [95%]": _shares(row, "le"),
            "F1 [95%]": _shares(row, "f1"),
            "PxAP": percent(row["pxap"]),
            "MaxBoxAcc": percent(row["max_box_acc"]),
        }
        for name, row in rows.items()
    }
    return plain_table(methods, cells, NOTES, BASELINES_NOTE)


def _further(rows: Mapping[str, Mapping[Any, Any]], methods: Sequence[Method]) -> MainTable:
    cells = {
        name: {
            "OM [95%]": _shares(row, "om"),
            "F1a": percent(row["f1a"]),
            "SM [95%]": _numbers(row, "sm"),
            "MaxBoxAccV2": percent(row["max_box_acc_v2"]),
            "mean ± sd": signed(row["mean"], ".3f") + " ± " + signed(row["sd"], ".3f"),
            "entropy": signed(row["entropy"], ".3f"),
            "TV × 100": signed(100 * row["tv"], ".2f"),
            "degenerate": f"{row['degenerate']:,}",
        }
        for name, row in rows.items()
    }
    return plain_table(methods, cells, NOTES)


def _shares(row: Mapping[Any, Any], name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    return f"{percent(row[name])} [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"


def _numbers(row: Mapping[Any, Any], name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    low, high = (signed(row[f"{name}_{end}"], ".2f") for end in ("low", "high"))
    return f"{signed(row[name], '.2f')} [{low}, {high}]"

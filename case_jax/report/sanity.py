"""The page of sanity checks (no JAX here)."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from case_jax import stats
from case_jax.report.figures import LEGEND_COLUMNS, LEGEND_LINE, lines_of, plain_style, rendered
from case_jax.report.formatting import unit_words
from case_jax.report.loading import Method, Run, load_run
from case_jax.report.page import Drawing, Page, Section
from case_jax.report.scores import Scored, two_scores
from case_jax.report.tables import plain_table, ranked_first
from case_jax.stats import Interval

SIMILARITIES = {
    "spearman": "Spearman ρ",
    "spearman_abs": "Spearman ρ of magnitudes",
    "ssim": "SSIM",
    "hog": "HOG correlation",
}
CURVES = {"cascading": "from the logits down to this layer", "independent": "this layer alone"}
LABELLED = 40
"""With more layers than this, not every one is named below the curves."""
RANKED_BY = "spearman_abs"


def layer_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean similarities of each method at each change.

    Args:
        rows: of the checks, see `Sanity.rows` of `evaluation.sanity`.

    Returns:
        One row per method, kind and step, in the order of the rows: `layer`; `images` whose two maps are usable; `degenerate` images whose
        trained, and `degenerate_changed` those whose changed classifier gives a map that is all zero, constant or not finite; of each
        similarity the mean and its standard error `…_se`, NaN where no image is usable; and `same_class`, the share of all images whose
        class the changed classifier still predicts.
    """
    table = []
    for (method, kind, step, layer), group in rows.groupby(["method", "kind", "step", "layer"], sort=False):
        entry: dict[str, Any] = {"method": method, "kind": kind, "step": step, "layer": layer}
        entry["images"] = int((~(group["degenerate"] | group["degenerate_changed"])).sum())
        entry |= {name: int(group[name].sum()) for name in ("degenerate", "degenerate_changed")}
        for name in SIMILARITIES:
            values = group[name].dropna().to_numpy(np.float64)
            entry[name] = values.mean() if len(values) else np.nan
            entry[f"{name}_se"] = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.nan
        entry["same_class"] = (group["top1"] == group["target"]).mean()
        table.append(entry)
    return pd.DataFrame(table)


def of_images(rows: pd.DataFrame, column: str) -> pd.Series:
    """Each image's mean over the changes at which its two maps are usable; images without any are left out."""
    return rows.groupby("image_id")[column].mean().dropna()


def parts_of(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The changes that are summed up together: all layers of a kind; and of the cascade its first and its last, where all are changed."""
    cascade = rows[rows["kind"] == "cascading"]
    parts = {
        "nothing": rows[rows["kind"] == "nothing"],
        "cascading": cascade,
        "first_layer": cascade[cascade["step"] == 1],
        "all_layers": cascade[cascade["step"] == cascade["step"].max()],
        "independent": rows[rows["kind"] == "independent"],
        "labels": rows[rows["kind"] == "labels"],
    }
    return {name: part for name, part in parts.items() if len(part)}


def summarise(rows: pd.DataFrame, *, resamples: int = 2000) -> pd.DataFrame:
    """One row per method, those whose maps hang most on what was learnt first.

    Of each part (see `parts_of`) and similarity the mean over images of their means over layers, `PART_SIMILARITY`, with a
    95% interval, by cluster where rows name clusters, `…_low` and `…_high`; and `PART_degenerate`, the share of comparisons left out because either map
    is degenerate. Methods are ranked by the magnitudes' Spearman correlation in the cascade, else in the first part that there is.

    Args:
        rows: of the checks.
        resamples: bootstrap samples, where images are independent.
    """
    table, estimates = [], stats.estimates_of(rows, resamples=resamples)
    for method, group in rows.groupby("method", sort=False):
        entry: dict[str, Any] = {"method": method}
        for part, chosen in parts_of(group).items():
            for name in SIMILARITIES:
                values = of_images(chosen, name).reset_index()
                found = estimates.interval(values, values[name].to_numpy(np.float64))
                column = f"{part}_{name}"
                entry |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
            entry[f"{part}_degenerate"] = (chosen["degenerate"] | chosen["degenerate_changed"]).mean()
        table.append(entry)
    frame = pd.DataFrame(table)
    first = next(part for part in ("cascading", "independent", "labels", "nothing") if f"{part}_{RANKED_BY}" in frame)
    return frame.sort_values(f"{first}_{RANKED_BY}", kind="stable", ignore_index=True)


def page_of(path: Path) -> tuple[Run, Page]:
    """Read the folder of sanity checks.

    Raises:
        CaseJaxError: when it has no rows yet, or one of its files is missing or damaged.
    """
    run = load_run(path)
    layers, summary = layer_table(run.rows), summarise(run.rows)
    methods = ranked_first(run.methods, [str(name) for name in summary["method"]])
    counts = {
        "images": int(run.rows["image_id"].nunique()),
        "images that could not be read": len(run.excluded),
        "layers": len(run.config["sanity"]["layers"]),
    }
    scores = json.loads(summary.to_json(orient="records"))  # NaN becomes null
    facts = {"counts": counts, "layers": run.config["sanity"]["layers"], "scores": scores, "excluded": run.excluded}
    files = {
        "layers.csv": layers.to_csv(index=False).encode(),
        "summary.csv": summary.to_csv(index=False).encode(),
        "summary.json": (json.dumps(facts, indent=2) + "\n").encode(),
    }
    rows = {str(row["method"]): row for row in summary.to_dict("records")}
    page = Page(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: do maps notice what the network forgets? (MPRT)",
        sentences=_answer(rows, methods),
        picture=_picture(rows, methods),
        table=plain_table(methods, {name: _correlations(row) for name, row in rows.items()}, {}, *_notes(layers)),
        sections=[
            *(Section(d.title, drawings=[d]) for d in curves(layers, methods)),
            Section(
                "Other similarities, and degenerate maps",
                plain_table(methods, {n: _others(row) for n, row in rows.items()}, {}),
            ),
        ],
        unit=unit_words(run.config["data"].get("unit", "images"), run.done, stats.estimates_of(run.rows).clusters),
        counts=counts,
        files=files,
    )
    return run, page


def _answer(rows: Mapping[str, Mapping[Any, Any]], methods: Sequence[Method]) -> list[str]:
    """Which maps change most and least."""
    part = next(
        p for p in ("cascading", "independent", "labels", "nothing") if f"{p}_{RANKED_BY}" in next(iter(rows.values()))
    )
    known = [
        m for m in methods if m.name in rows and not m.control and not math.isnan(rows[m.name][f"{part}_{RANKED_BY}"])
    ]
    if not known:
        return ["No method has usable maps before and after a change."]
    value = {m.name: rows[m.name][f"{part}_{RANKED_BY}"] for m in known}
    least, most = max(known, key=lambda m: value[m.name]), min(known, key=lambda m: value[m.name])
    words = {
        "cascading": "the network forgets layer by layer",
        "independent": "single layers forget",
        "labels": "its labels were shuffled",
    }
    first = f"When {words.get(part, 'nothing changes')}, {most.title} changes most (|ρ| {_number(value[most.name])} with the map before)"
    return [first + (f" and {least.title} least ({_number(value[least.name])})." if least is not most else ".")]


def _picture(rows: Mapping[str, Mapping[Any, Any]], methods: Sequence[Method]) -> Drawing | None:
    """How much maps change when the head alone, and when all layers forget."""
    parts = [p for p in ("first_layer", "all_layers") if f"{p}_{RANKED_BY}" in next(iter(rows.values()))]
    if len(parts) < 2:
        return None
    scored = []
    for m in methods:
        if m.name in rows:
            head, every = (1 - rows[m.name][f"{p}_{RANKED_BY}"] for p in parts)
            scored.append(Scored(m, Interval(head, head, head), Interval(every, every, every)))
    with plain_style():
        figure = two_scores(
            scored,
            x="1 − |ρ| when the head alone forgets",
            y="1 − |ρ| when all layers forget",
            corner="depends on what was learnt",
            shares=False,
        )
        words = ", ".join(f"{s.method.title} {s.x.value:.2f} and {s.y.value:.2f}" for s in scored)
        caption = "1 − |Spearman's ρ| between the maps before and after. Grey diamonds: controls; a random map changes always."
        return Drawing("overview", "The methods at a glance", caption, f"Change of maps: {words}.", *rendered(figure))


PARTS = {
    "nothing": "nothing changed",
    "cascading": "cascading",
    "first_layer": "head alone",
    "all_layers": "all layers",
    "independent": "independent",
    "labels": "shuffled labels",
}


def _correlations(row: Mapping[Any, Any]) -> dict[str, str]:
    """|ρ| of every part of the checks that was run."""
    cell = {}
    for part, head in PARTS.items():
        if f"{part}_{RANKED_BY}" in row:
            low, high = (row[f"{part}_{RANKED_BY}_{end}"] for end in ("low", "high"))
            bounds = f" [{_number(low)}, {_number(high)}]" if part == "cascading" and not math.isnan(low) else ""
            cell[f"{head} [95%]" if part == "cascading" else head] = _number(row[f"{part}_{RANKED_BY}"]) + bounds
    return cell


def _others(row: Mapping[Any, Any]) -> dict[str, str]:
    cell = {}
    for part in ("cascading", "independent", "labels"):
        if f"{part}_{RANKED_BY}" in row:
            for similarity in ("ssim", "hog"):
                cell[f"{PARTS[part]}, {SIMILARITIES[similarity].split()[0]}"] = _number(row[f"{part}_{similarity}"])
            cell[f"{PARTS[part]}, degenerate"] = f"{row[f'{part}_degenerate']:.1%}"
    return cell


def _notes(layers: pd.DataFrame) -> list[str]:
    notes = [
        "How alike a method's maps are before and after layers of the classifier lose what they have learnt, for the class that the trained "
        "classifier predicts: 1 = the map did not notice, 0 = nothing is left of it. Means over layers and images, and a 95% interval "
        "over images alone, for one draw of the layers. ρ: Spearman's rank correlation of magnitudes. Where nothing is changed, less than 1 is the method's own randomness. First layer: "
        "the one that gives the logits, so that only the classes are forgotten; all layers: the end of the cascade.",
        "Degenerate: the share of comparisons left out because a map is all zero, constant or not finite.",
    ]
    kept = layers.drop_duplicates(["kind", "step"])[["kind", "layer", "same_class"]]
    ends = [kept[kept["kind"] == "cascading"].iloc[[0, -1]]] if (kept["kind"] == "cascading").any() else []
    ends.append(kept[kept["kind"] == "labels"])
    shares = [
        f"{row['same_class']:.0%} ({row['kind']}, {row['layer']})" for part in ends for row in part.to_dict("records")
    ]
    if shares:
        notes.append(f"Images whose class the changed classifier still predicts: {', '.join(shares)}.")
    return notes


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")


def curves(layers: pd.DataFrame, methods: Sequence[Method]) -> list[Drawing]:
    """A figure for each kind of change that there is, a panel per similarity.

    Args:
        layers: from `layer_table`.
        methods: those to draw, in the order of the legend.
    """
    found = []
    with plain_style():
        for kind, words in CURVES.items():
            if (layers["kind"] == kind).any():
                figure = curves_figure(layers, kind, f"as before training: {words}", methods)
                caption = "Similarity to the map of the trained network at each layer, with a 95% band. Low = the map notices."
                alt = f"Similarity of maps by layer, {kind} changes."
                found.append(Drawing(kind, f"Layer by layer: {kind}", caption, alt, *rendered(figure)))
    return found


def curves_figure(layers: pd.DataFrame, kind: str, words: str, methods: Sequence[Method]) -> Figure:
    """Mean similarity at each layer, with a 95% band (normal approximation): single layers with thinner lines.

    Args:
        layers: from `layer_table`.
        kind: `cascading` or `independent`.
        words: what the horizontal axis shows.
        methods: those to draw.
    """
    names = layers[layers["kind"] == kind].drop_duplicates("step")["layer"].tolist()
    shown = [s for s in SIMILARITIES if s != "spearman" or _signed(layers)]
    width = min(12.0, max(3.0, 1.2 + 0.22 * len(names))) * len(shown)
    legend = LEGEND_LINE * math.ceil(len(methods) / (2 * LEGEND_COLUMNS))
    figure = Figure(figsize=(max(9.0, min(width, 24.0)), 4.2 + legend), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    of_kind = layers[layers["kind"].isin([kind, "nothing", *(["labels"] if kind == "cascading" else [])])]
    for axis, similarity in zip(axes, shown, strict=True):
        for name, line in lines_of(methods).items():
            _curve(axis, of_kind[of_kind["method"] == name], kind, similarity, len(names), line)
        axis.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        axis.set(title=SIMILARITIES[similarity], xlim=(-0.5, len(names) + (2.5 if _labels(of_kind) else 0.5)))
        every = max(1, math.ceil(len(names) / LABELLED))
        places = {0: "nothing", **{i: n for i, n in enumerate(names, start=1) if i % every == 0 or every == 1}}
        if _labels(of_kind):
            places[len(names) + 2] = "shuffled labels"
        axis.set_xticks(list(places), list(places.values()), rotation=90, fontsize=7, parse_math=False)
        axis.set_xlabel(words)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes[0].set_ylabel("similarity to the trained classifier's map")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * LEGEND_COLUMNS)
    return figure


def _curve(axis: Axes, rows: pd.DataFrame, kind: str, similarity: str, count: int, line: Mapping[str, Any]) -> None:
    along = rows[rows["kind"] != "labels"]
    steps, mean = along["step"].to_numpy(), along[similarity].to_numpy(np.float64)
    error = 1.96 * along[f"{similarity}_se"].fillna(0.0).to_numpy(np.float64)
    style = dict(line) if kind == "cascading" else {**line, "linewidth": 0.7}
    axis.plot(steps, mean, marker="o", markersize=2.5, **style)
    axis.fill_between(steps, mean - error, mean + error, color=line["color"], alpha=0.15, linewidth=0)
    labels = rows[rows["kind"] == "labels"]
    if len(labels):
        axis.plot([count + 2], labels[similarity], marker="D", markersize=3.5, linestyle="none", color=line["color"])


def _signed(layers: pd.DataFrame) -> bool:
    """Whether some method has negative values; else the two Spearman correlations are one."""
    both = layers[["spearman", "spearman_abs"]].to_numpy(np.float64)
    return bool(np.nanmax(np.abs(both[:, 0] - both[:, 1]), initial=0.0) > 1e-6)


def _labels(rows: pd.DataFrame) -> bool:
    return bool((rows["kind"] == "labels").any())

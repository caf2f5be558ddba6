"""The page of the grid pointing game (no JAX here)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from case_jax import stats
from case_jax.report.figures import plain_style, rendered
from case_jax.report.formatting import percent, unit_words
from case_jax.report.loading import Gallery, Method, Run, load_run
from case_jax.report.page import Drawing, Page, Section
from case_jax.report.scores import Scored, two_scores
from case_jax.report.tables import MainTable, plain_table, ranked_first
from case_jax.stats import Interval

METHODS_PER_FIGURE = 8
CELLS_SHOWN = 2


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean score per setting and method, with a 95% interval: by cluster where rows say what mosaics share, else by the bootstrap.

    The maps of one mosaic are not independent (of a class-blind method they add up to 1), so its scores are averaged first and
    mosaics are what is resampled.

    Args:
        rows: of the game, see `GridPointing.rows`.

    Returns:
        One row per setting and method, in the order of the rows: `mosaics` and `maps` that count, `degenerate` maps left out,
        `mean`, `low`, `high`, `se` (standard error of the mean over mosaics, by cluster), `median` over maps, and `mean_with_zeros`, the mean over
        all maps where degenerate ones score 0, as in the authors' code. NaN where every map is degenerate.
    """
    table, estimates = [], stats.estimates_of(rows)
    for (setting, method), group in rows.groupby(["setting", "method"], sort=False):
        score = group["score"].astype(np.float64)
        usable = score[~group["degenerate"]]
        means = usable.groupby(group["image_id"]).mean().reset_index()
        interval = estimates.interval(means, means["score"].to_numpy())
        table.append(
            {
                "setting": setting,
                "method": method,
                "mosaics": len(means),
                "maps": len(usable),
                "degenerate": int(group["degenerate"].sum()),
                "mean": interval.value,
                "low": interval.low,
                "high": interval.high,
                "se": estimates.mean(means["image_id"], means["score"].to_numpy())[1] if len(means) else np.nan,
                "median": usable.median(),
                "mean_with_zeros": score.fillna(0.0).mean(),
            }
        )
    return pd.DataFrame(table)


def page_of(path: Path) -> tuple[Run, Page]:
    """Read the folder of a grid pointing game.

    Raises:
        CaseJaxError: when it has no rows yet, or one of its files is missing or damaged.
    """
    run = load_run(path)
    settings, summary = run.config["grid_pointing"], summarise(run.rows)
    n, rows = settings["n"], {(str(r["setting"]), str(r["method"])): r for r in summary.to_dict("records")}
    of_game = summary[summary["setting"] == "GridPG"].sort_values("mean", ascending=False, kind="stable")
    methods = ranked_first(run.methods, [str(name) for name in of_game["method"]])
    counts = {**settings["counts"], "mosaics that could not be read again": len(run.excluded)}
    clusters = stats.estimates_of(run.rows).clusters
    unit = unit_words(run.config["data"].get("unit", "mosaics"), run.done, clusters, noun="mosaic")
    facts = {"settings": settings, "counts": counts, "scores": json.loads(summary.to_json(orient="records"))}
    files = {
        "grid_pointing.csv": run.rows.assign(class_name=[run.class_name(c) for c in run.rows["class"]])
        .to_csv(index=False)
        .encode(),
        "summary.csv": summary.to_csv(index=False).encode(),
        "summary.json": (json.dumps(facts, indent=2) + "\n").encode(),
    }
    page = Page(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: whose cell does the map mark?",
        sentences=_answer(rows, methods, run, n),
        picture=_picture(rows, methods, n),
        table=_table(rows, methods, n),
        unit=unit,
        gallery=_pictures(run, methods, n),
        sections=[_degenerate(rows, methods)],
        counts=counts,
        files=files,
    )
    return run, page


Rows = Mapping[tuple[str, str], Mapping[Any, Any]]


def _answer(rows: Rows, methods: Sequence[Method], run: Run, n: int) -> list[str]:
    known = [m for m in methods if not m.control and rows.get(("GridPG", m.name), {}).get("maps")]
    if not known:
        return ["No method has a usable map of any mosaic."]
    best = known[0]
    value = percent(rows["GridPG", best.name]["mean"], digits=0)
    sentences = [
        f"{best.title} puts {value} of its mass into its class's cell, most of {len(known)} methods; a map that is the same for every class has {percent(1 / n**2, digits=0)}."
    ]
    if run.config["contrast"]["name"] != "mosaic" and any(m.contrastive for m in known):
        sentences.append(
            f"Contrastive methods were asked against {run.config['contrast']['name']}, not against the classes of the other cells: --contrast mosaic does that."
        )
    if "digit_scenes" in run.config["data"]["name"]:
        sentences.append(SCENES_NOTE)
    return sentences


SCENES_NOTE = (
    "Digit scenes of different classes may show the same digit: mass on a 7 in another cell is evidence for every class with a 7, and "
    "no map that shows all of the evidence reaches 100% here."
)


def _interval(rows: Rows, setting: str, name: str) -> Interval:
    row = rows[setting, name]
    return Interval(row["mean"], row["low"], row["high"])


def _picture(rows: Rows, methods: Sequence[Method], n: int) -> Drawing | None:
    played = [m for m in methods if ("GridPG", m.name) in rows and ("DiFull", m.name) in rows]
    if not played:
        return None
    scored = [Scored(m, _interval(rows, "GridPG", m.name), _interval(rows, "DiFull", m.name)) for m in played]
    with plain_style():
        figure = two_scores(
            scored,
            x="GridPG: mass in the class's own cell",
            y="DiFull: the same where other cells cannot matter",
            corner="marks its own class, and nothing else",
        )
        words = ", ".join(f"{s.method.title} {percent(s.x.value)} and {percent(s.y.value)}" for s in scored)
        caption = f"Lines: 95% intervals. A map that is the same for every class has {percent(1 / n**2)}. Grey diamonds: controls."
        return Drawing(
            "overview", "The methods at a glance", caption, f"GridPG and DiFull: {words}.", *rendered(figure)
        )


def _table(rows: Rows, methods: Sequence[Method], n: int) -> MainTable:
    cells: dict[str, dict[str, str]] = {}
    for (setting, name), row in rows.items():
        bounds = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if row["maps"] else ""
        entry = {f"{setting} [95%]": percent(row["mean"]) + bounds, f"{setting} median": percent(row["median"])}
        cells.setdefault(name, {}).update(entry)
    notes = {
        "GridPG [95%]": f"Share of a map's positive mass that lies in the cell of its own class, in mosaics of {n}×{n} images of different "
        f"classes: high = specific. A map that is the same for every class has {percent(1 / n**2)} on average, an ideal map 100%. Mean over "
        "mosaics.",
        "DiFull [95%]": "Every cell is classified alone by a head of its own, so nothing outside it can matter. Maps that use the gradient at "
        "each place reach 100% by construction; less than that is mass where the class's head sees nothing, as methods place it that give "
        "each channel one weight for the whole map.",
    }
    return plain_table(methods, cells, notes)


def _degenerate(rows: Rows, methods: Sequence[Method]) -> Section:
    cells: dict[str, dict[str, str]] = {}
    for (setting, name), row in rows.items():
        entry = {
            f"{setting} degenerate": f"{row['degenerate']:,} of {row['degenerate'] + row['maps']:,}",
            f"{setting}, degenerate = 0": percent(row["mean_with_zeros"]),
        }
        cells.setdefault(name, {}).update(entry)
    words = "Degenerate maps (all zero, constant or not finite) are left out above, and count as 0 in the column that says so, as in the authors' code."
    return Section("Degenerate maps", plain_table(methods, cells, {}), words=[words])


def _pictures(run: Run, methods: Sequence[Method], n: int) -> list[Drawing]:
    """Mosaics with the maps of two of their classes, a few methods a figure."""
    gallery, found = run.gallery, []
    if gallery is None:
        return []
    names = gallery.methods.tolist()
    places = [names.index(m.name) for m in methods if m.name in names]
    titles = {m.name: m.title for m in methods}
    classes = [run.class_name(c) for c in range(int(gallery.targets.max()) + 1)]
    with plain_style():
        for start in range(0, len(places), METHODS_PER_FIGURE):
            chosen = places[start : start + METHODS_PER_FIGURE]
            heads = [titles[names[i]] for i in chosen]
            name = "mosaics" if start == 0 else f"mosaics_{len(found) + 1}"
            figure = mosaics_figure(gallery, chosen, heads, classes, n)
            caption = "Each mosaic with the maps of two of its classes; the class's own cell is outlined, the share of the map's mass in it below."
            found.append(
                Drawing(name, "Mosaics", caption, f"Mosaics with the maps of {', '.join(heads)}.", *rendered(figure))
            )
    return found


def mosaics_figure(
    shown: Gallery, methods: Sequence[int], titles: Sequence[str], class_names: Sequence[str], n: int
) -> Figure:
    """Each mosaic with the maps of two of its classes, the class's own cell outlined.

    Args:
        shown: mosaics and maps.
        methods: which of its methods.
        titles: of these.
        class_names: of all classes.
        n: rows and columns of the mosaics.
    """
    cells = [0, n * n - 1][:CELLS_SHOWN]
    rows, columns = len(shown.images) * len(cells), len(methods) + 1
    figure = Figure(figsize=(0.5 + 1.75 * columns, 0.5 + 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        mosaic, cell = row // len(cells), cells[row % len(cells)]
        image, name = shown.images[mosaic], class_names[shown.targets[mosaic, cell]]
        axes[row, 0].imshow(image)
        axes[row, 0].set_ylabel(name, fontsize=10, parse_math=False)
        _outline(axes[row, 0], cell, n, image.shape)
        for panel, method in zip(axes[row, 1:], methods, strict=True):
            panel.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
            if shown.degenerate[mosaic, method, cell]:
                panel.set_xlabel("degenerate", fontsize=8)
            else:
                panel.imshow(shown.maps[mosaic, method, cell], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
                panel.set_xlabel(percent(_share(shown.maps[mosaic, method, cell], cell, n)), fontsize=8)
            _outline(panel, cell, n, image.shape)
    for panel, title in zip(axes[0], ["mosaic", *titles], strict=True):
        panel.set_title(title, fontsize=10, parse_math=False)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure


def _share(saliency: np.ndarray, cell: int, n: int) -> float:
    """The share of a drawn map's mass in one cell; enlarged maps spill a little into their neighbours."""
    height, width = (side // n for side in saliency.shape)
    row, column = cell // n * height, cell % n * width
    mass = saliency.astype(np.float64)
    return float(mass[row : row + height, column : column + width].sum() / mass.sum())


def _outline(panel: Axes, cell: int, n: int, shape: tuple[int, ...]) -> None:
    """Thin lines between the cells, and a frame around one of them."""
    height, width = shape[0] / n, shape[1] / n
    for edge in range(1, n):
        panel.axhline(edge * height - 0.5, color="#777777", linewidth=0.5)
        panel.axvline(edge * width - 0.5, color="#777777", linewidth=0.5)
    corner = (cell % n * width - 0.5, cell // n * height - 0.5)
    panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="#56B4E9", linewidth=1.6))

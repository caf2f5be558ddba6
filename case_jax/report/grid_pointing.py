"""The grid pointing game's table and picture (no JAX here)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from case_jax import stats
from case_jax.report.figures import DPI, plain_style
from case_jax.report.words import percent

if TYPE_CHECKING:
    from case_jax.evaluation.studies.grid_pointing import GridPointing, Shown

METHODS_PER_FIGURE = 8
CELLS_SHOWN = 2


def summarise(rows: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean score per setting and method, with a bootstrap 95% interval over mosaics.

    The maps of one mosaic are not independent (of a class-blind method they add up to 1), so its scores are averaged first and
    mosaics are what is resampled.

    Args:
        rows: of the game, see `GridPointing.rows`.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        One row per setting and method, in the order of the rows: `mosaics` and `maps` that count, `degenerate` maps left out,
        `mean`, `low`, `high`, `se` (standard error of the mean over mosaics), `median` over maps, and `mean_with_zeros`, the mean over
        all maps where degenerate ones score 0, as in the authors' code. NaN where every map is degenerate.
    """
    table = []
    for (setting, method), group in rows.groupby(["setting", "method"], sort=False):
        score = group["score"].astype(np.float64)
        usable = score[~group["degenerate"]]
        means = usable.groupby(group["mosaic"]).mean().to_numpy()
        interval = stats.bootstrap(means, "mean", resamples=resamples, seed=seed)
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
                "se": means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan,
                "median": usable.median(),
                "mean_with_zeros": score.fillna(0.0).mean(),
            }
        )
    return pd.DataFrame(table)


def markdown(summary: pd.DataFrame, titles: Mapping[str, str], n: int) -> str:
    """The game's table with its notes, to be printed or pasted.

    Args:
        summary: from `summarise`.
        titles: of the methods, by name.
        n: rows and columns of the mosaics.
    """
    cells: dict[str, dict[str, str]] = {str(m): {"method": titles.get(str(m), str(m))} for m in summary["method"]}
    for row in summary.to_dict("records"):
        bounds = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if row["maps"] else ""
        cells[str(row["method"])] |= {
            f"{row['setting']} [95%]": percent(row["mean"]) + bounds,
            f"{row['setting']} median": percent(row["median"]),
            f"{row['setting']}, degenerate = 0": percent(row["mean_with_zeros"]),
            f"{row['setting']} degenerate": f"{row['degenerate']:,} of {row['degenerate'] + row['maps']:,}",
        }
    frame = pd.DataFrame(cells.values())
    notes = [
        f"Share of a map's positive mass that lies in the cell of its own class, in mosaics of {n}×{n} images of different "
        f"classes: high = specific. A map that is the same for every class has {percent(1 / n**2)} on average, an ideal map 100%. "
        "Mean over mosaics with a bootstrap interval; degenerate maps (all zero, constant or not finite) are left out, and count as 0 "
        "in the column that says so.",
    ]
    if (summary["setting"] == "DiFull").any():
        notes.append(
            "DiFull: every cell is classified alone by a head of its own, so nothing outside it can matter. Maps that use the "
            "gradient at each place reach 100% by construction; less than that is mass where the class's head sees nothing, as "
            "methods place it that give each channel one weight for the whole map."
        )
    return "\n\n".join([frame.to_markdown(index=False, disable_numparse=True), *notes]) + "\n"


def draw_pointing(
    found: "GridPointing", titles: Mapping[str, str], class_names: Sequence[str], folder: Path
) -> list[Path]:
    """Write `mosaics.png`, and `mosaics-2.png`, … where there are many methods.

    Args:
        found: the game, with mosaics to show.
        titles: of the methods, by name.
        class_names: of all classes.
        folder: where to write.

    Returns:
        The files; none when no mosaic is to be shown.
    """
    files: list[Path] = []
    if len(found.shown.images) == 0:
        return files
    with plain_style():
        for start in range(0, len(found.methods), METHODS_PER_FIGURE):
            chosen = range(start, min(start + METHODS_PER_FIGURE, len(found.methods)))
            heads = [titles.get(found.methods[i], found.methods[i]) for i in chosen]
            file = folder / ("mosaics.png" if start == 0 else f"mosaics-{len(files) + 1}.png")
            mosaics_figure(found.shown, chosen, heads, class_names, found.n).savefig(file, dpi=DPI)
            files.append(file)
    return files


def mosaics_figure(
    shown: "Shown", methods: Sequence[int], titles: Sequence[str], class_names: Sequence[str], n: int
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
                panel.set_xlabel(percent(shown.scores[mosaic, method, cell]), fontsize=8)
            _outline(panel, cell, n, image.shape)
    for panel, title in zip(axes[0], ["mosaic", *titles], strict=True):
        panel.set_title(title, fontsize=10, parse_math=False)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure


def _outline(panel: Axes, cell: int, n: int, shape: tuple[int, ...]) -> None:
    """Thin lines between the cells, and a frame around one of them."""
    height, width = shape[0] / n, shape[1] / n
    for edge in range(1, n):
        panel.axhline(edge * height - 0.5, color="#777777", linewidth=0.5)
        panel.axvline(edge * width - 0.5, color="#777777", linewidth=0.5)
    corner = (cell % n * width - 0.5, cell // n * height - 0.5)
    panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="#56B4E9", linewidth=1.6))

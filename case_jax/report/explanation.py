"""A grid of one image's maps: likeliest classes × methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from case_jax.reasons import Reason
from case_jax.report.figures import plain_style

if TYPE_CHECKING:
    from case_jax.evaluation.explain import Explanation


def draw_grid(found: "Explanation", titles: Sequence[str], class_names: Sequence[str], file: Path) -> Path:
    """Write `grid` as PNG; returns the file."""
    with plain_style():
        grid(found, titles, class_names).savefig(file, dpi=110)
    return file


def grid(found: "Explanation", titles: Sequence[str], class_names: Sequence[str]) -> Figure:
    """The image and every method's map of every target.

    Args:
        found: the maps of one image.
        titles: one per method.
        class_names: names of all classes.
    """
    rows, columns = len(found.targets), len(titles) + 1
    figure = Figure(figsize=(0.4 + 1.8 * columns, 0.6 + 1.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (target, probability) in enumerate(zip(found.targets, found.probabilities, strict=True)):
        axes[row, 0].imshow(found.example.image)
        axes[row, 0].set_ylabel(f"{class_names[target]}\np = {probability:.2f}", fontsize=11, parse_math=False)
        for column, panel in enumerate(axes[row, 1:]):
            panel.imshow(found.example.image.mean(-1), cmap="gray", vmin=0, vmax=255)
            if found.degenerate[column, row]:
                words = "degenerate:\n" + Reason(int(found.reasons[column, row])).words
                where = {"transform": panel.transAxes, "ha": "center", "va": "center"}
                panel.text(0.5, 0.5, words, color="w", fontsize=8, wrap=True, **where)
            else:
                panel.imshow(found.maps[column, row], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    for panel, title in zip(axes[0], [found.example.name, *titles], strict=True):
        panel.set_title(title, fontsize=11, parse_math=False)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure

"""A grid of one image's maps: methods × likeliest classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from case_jax.evaluation.explain import Explanation


def draw_grid(found: "Explanation", titles: Sequence[str], class_names: Sequence[str], file: Path) -> Path:
    """Draw the image beside every method's map of every target, and write a PNG.

    Args:
        found: the maps of one image.
        titles: one per method.
        class_names: names of all classes.
        file: the PNG to write.

    Returns:
        The file.
    """
    rows, columns = len(titles), len(found.targets)
    figure = Figure(figsize=(1.5 + 1.9 * (columns + 1), 0.6 + 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    figure.suptitle(found.example.name, fontsize=11)
    for row, title in enumerate(titles):
        if row == 0:
            axes[row, 0].imshow(found.example.image)
        else:
            axes[row, 0].spines[:].set_visible(False)
        axes[row, 0].set_ylabel(title, fontsize=10)
        for column, target in enumerate(found.targets):
            panel = axes[row, column + 1]
            panel.imshow(found.example.image.mean(-1), cmap="gray", vmin=0, vmax=255)
            if found.degenerate[row, column]:
                panel.text(0.5, 0.5, "degenerate", transform=panel.transAxes, ha="center", va="center", color="w", fontsize=9)
            else:
                panel.imshow(found.maps[row, column], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            if row == 0:
                panel.set_title(f"{class_names[target]}\np = {found.probabilities[column]:.2f}", fontsize=10)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    figure.savefig(file, dpi=110)
    return file

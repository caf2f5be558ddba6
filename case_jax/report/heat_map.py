"""Heat maps of the agreement of every pair of classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

LABELLED = 40
"""With more classes than this, single names would be unreadable and are left out."""


def draw_heat_maps(
    titles: Sequence[str], agreement: Float[np.ndarray, "M C C"], class_names: Sequence[str], folder: Path
) -> list[Path]:
    """One PNG per method: mean agreement of the maps of classes a (row) and b (column), 0 to 1.

    Args:
        titles: name of each method.
        agreement: NaN for pairs that never occurred, which are left grey.
        class_names: C names.
        folder: where to write `agreement-<method>.png`.

    Returns:
        The files.
    """
    files = []
    for title, matrix in zip(titles, agreement, strict=True):
        figure = Figure(figsize=(7.2, 6.4), layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor("0.85")
        off_diagonal = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
        image = axes.imshow(off_diagonal, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
        known = off_diagonal[np.isfinite(off_diagonal)]
        mean = f"mean {known.mean():.0%}" if len(known) else "no pair occurred"
        axes.set_title(f"{title}: top pixels shared by the maps of two classes ({mean})", fontsize=10)
        axes.set_xlabel("class")
        axes.set_ylabel("class")
        if len(class_names) <= LABELLED:
            axes.set_xticks(range(len(class_names)), class_names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(class_names)), class_names, fontsize=7)
        figure.colorbar(image, label="agreement")
        file = folder / f"agreement-{title.replace(' ', '_')}.png"
        figure.savefig(file, dpi=120)
        files.append(file)
    return files

"""Heat maps of the agreement of every pair of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from case_jax.report.figures import plain_style

LABELLED = 40
"""With more classes than this, single names would be unreadable and are left out."""


def heat_map(title: str, agreement: Float[np.ndarray, "C C"], class_names: Sequence[str]) -> Figure:
    """Mean agreement of the maps of classes a (row) and b (column), 0 to 1.

    Args:
        title: the method's.
        agreement: NaN for pairs that never occurred; these, and the diagonal, stay grey.
        class_names: C names.
    """
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    off_diagonal = np.where(np.eye(len(agreement), dtype=bool), np.nan, agreement)
    image = axes.imshow(off_diagonal, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    known = off_diagonal[np.isfinite(off_diagonal)]
    mean = f"mean {known.mean():.0%}" if len(known) else "no pair occurred"
    axes.set_title(f"{title}: top pixels shared by the maps of two classes ({mean})")
    axes.set_xlabel("class")
    axes.set_ylabel("class")
    if len(class_names) <= LABELLED:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(len(class_names)), class_names, fontsize=7, parse_math=False)
    figure.colorbar(image, label="agreement")
    return figure


def draw_heat_maps(
    titles: Mapping[str, str], agreement: Float[np.ndarray, "M C C"], class_names: Sequence[str], folder: Path
) -> list[Path]:
    """Write `agreement-<method>.png` for each method.

    Args:
        titles: method names, in the order of `agreement`, with their titles.
        agreement: see `heat_map`.
        class_names: C names.
        folder: where to write.

    Returns:
        The files.
    """
    files = []
    with plain_style():
        for (name, title), matrix in zip(titles.items(), agreement, strict=True):
            file = folder / f"agreement-{name}.png"
            heat_map(title, matrix, class_names).savefig(file, dpi=120)
            files.append(file)
    return files

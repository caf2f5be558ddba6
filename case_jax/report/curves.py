"""Curves of a training: every number of its log over the images seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from case_jax.report.figures import COLOURS, plain_style, rendered
from case_jax.results import write_atomically

AXES = ("step", "images", "seconds")
COLUMNS = 3


def draw_curves(rows: Sequence[Mapping[str, float]], file: Path) -> Path:
    """Draw a panel for each number of a log; `rows` as in `log.csv`."""
    names = [name for name in rows[0] if name not in AXES]
    height = -(-len(names) // COLUMNS)
    with plain_style():
        figure = Figure(figsize=(2.6 * COLUMNS, 1.9 * height), layout="constrained")
        axes = figure.subplots(height, COLUMNS, squeeze=False).ravel()
        for number, (axis, name) in enumerate(zip(axes, names, strict=False)):
            axis.plot(
                [r["images"] for r in rows], [r[name] for r in rows], color=COLOURS[number % len(COLOURS)], lw=1.2
            )
            axis.set_title(name.replace("_", " "))
            axis.set_xlabel("images")
        for axis in axes[len(names) :]:
            axis.remove()
        write_atomically(file, rendered(figure)[0])
    return file

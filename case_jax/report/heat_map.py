"""Heat maps of the agreement of every pair of classes, or of super-classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELLED = 40
"""With more classes than this, single names would be unreadable and are left out."""
NAMED = 60
"""A group is named where it has at least this part of the classes; names of smaller ones would overlap."""
CELLS = 500
"""With more classes than this, neighbours are averaged into one cell: finer ones would be smaller than the picture's own dots."""


class Groups(NamedTuple):
    """Classes brought together, group by group."""

    order: Int[np.ndarray, " C"]
    """The classes as they are drawn."""
    names: Sequence[str]
    sizes: Int[np.ndarray, " S"]


def heat_map(
    title: str, agreement: Float[np.ndarray, "C C"], class_names: Sequence[str], groups: Groups | None = None
) -> Figure:
    """Mean agreement of the maps of classes a (row) and b (column), 0 to 1.

    Args:
        title: the method's.
        agreement: NaN for pairs that never occurred; these, and the diagonal, stay grey.
        class_names: C names; shown where there are few.
        groups: draws the classes in this order, with lines between groups and, where there are few, the groups' names.
    """
    figure, axes = _empty(title, "top pixels shared by the maps of two classes")
    off_diagonal = np.where(np.eye(len(agreement), dtype=bool), np.nan, agreement)
    if groups is not None:
        off_diagonal = off_diagonal[np.ix_(groups.order, groups.order)]
        class_names = [class_names[int(c)] for c in groups.order]
    count, step = len(agreement), -(-len(agreement) // CELLS)
    _draw(figure, axes, averaged(off_diagonal, step), count)
    _write_mean(axes, off_diagonal)
    what = "class" if groups is None else "class, by super-class"
    axes.set_xlabel(what if step == 1 else f"{what} ({step} × {step} a cell)")
    axes.set_ylabel(what)
    if groups is not None:
        _outline(axes, groups)
    if count <= LABELLED:
        _name(axes, np.arange(count), class_names)
    return figure


def superclass_map(title: str, agreement: Float[np.ndarray, "S S"], names: Sequence[str]) -> Figure:
    """Mean agreement within (diagonal) and between super-classes, 0 to 1; grey where no pair was seen."""
    figure, axes = _empty(title, "top pixels shared within and between super-classes")
    _draw(figure, axes, agreement, len(agreement))
    axes.set_xlabel("super-class")
    axes.set_ylabel("super-class")
    if len(names) <= LABELLED:
        _name(axes, np.arange(len(names)), names)
    return figure


def averaged(matrix: Float[np.ndarray, "C C"], step: int) -> Float[np.ndarray, "n n"]:
    """Means over squares of `step` × `step` cells, of what is known in each; NaN where nothing is."""
    if step == 1:
        return matrix
    padded = np.pad(matrix, (0, -len(matrix) % step), constant_values=np.nan)
    squares = padded.reshape(len(padded) // step, step, -1, step)
    known = np.isfinite(squares).sum((1, 3))
    return np.where(known > 0, np.nansum(squares, (1, 3)) / np.maximum(known, 1), np.nan)


def _empty(title: str, what: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    axes.set_title(f"{title}: {what}")
    return figure, axes


def _draw(figure: Figure, axes: Axes, cells: Float[np.ndarray, "n n"], count: int) -> None:
    edge = count - 0.5
    shown = axes.imshow(cells, vmin=0, vmax=1, cmap="cividis", interpolation="nearest", extent=(-0.5, edge, edge, -0.5))
    figure.colorbar(shown, label="agreement")


def _write_mean(axes: Axes, cells: Float[np.ndarray, "C C"]) -> None:
    known = cells[np.isfinite(cells)]
    axes.set_title(f"{axes.get_title()} ({f'mean {known.mean():.0%}' if len(known) else 'no pair occurred'})")


def _name(axes: Axes, places: np.ndarray, names: Sequence[str]) -> None:
    axes.set_xticks(places, names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(places, names, fontsize=7, parse_math=False)


def _outline(axes: Axes, groups: Groups) -> None:
    """Names of all groups but narrow ones in their middles, and thin lines between them unless the lines would hide what they part."""
    ends = np.cumsum(groups.sizes)
    for end in ends[:-1] if len(ends) <= LABELLED else ():
        axes.axhline(end - 0.5, color="white", linewidth=0.4)
        axes.axvline(end - 0.5, color="white", linewidth=0.4)
    named = np.flatnonzero(groups.sizes * NAMED >= ends[-1])
    middles = ends - (groups.sizes + 1) / 2
    _name(axes, middles[named], [groups.names[int(i)] for i in named])

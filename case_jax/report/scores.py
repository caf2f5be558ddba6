"""The first picture of a page: two scores against each other, a labelled mark per method."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from case_jax.report.figures import CONTROL_COLOUR, PERCENT
from case_jax.report.loading import Method
from case_jax.stats import Interval

MARK, LINE = "#0072B2", "#8fb8d6"
SAME = 5.0
"""Pixels between marks that count as one place."""
PLACES = [
    (r * x, r * y)
    for r in (9, 20, 34, 50, 70)
    for x, y in ((1, 0.6), (1, -0.9), (-1, 0.6), (-1, -0.9), (0, 1.2), (0, -1.4))
]
"""Points from a mark to where its label may stand, nearest first."""


class Scored(NamedTuple):
    """A method and its two scores."""

    method: Method
    x: Interval
    y: Interval


def two_scores(scored: Sequence[Scored], *, x: str, y: str, corner: str, shares: bool = True) -> Figure:
    """Two scores with their 95% intervals; controls are grey.

    Args:
        scored: of each method; those without a number are not drawn.
        x: what the horizontal axis shows; higher is better.
        y: the vertical one.
        corner: what a method in the upper right corner is.
        shares: whether the scores are shares, shown in percent.
    """
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    known = [s for s in scored if s.x.value == s.x.value and s.y.value == s.y.value]
    for method, across, up in known:
        colour, line = (CONTROL_COLOUR, "#c4c4c4") if method.control else (MARK, LINE)
        axes.plot([across.low, across.high], [up.value] * 2, color=line, linewidth=1.2, zorder=1)
        axes.plot([across.value] * 2, [up.low, up.high], color=line, linewidth=1.2, zorder=1)
        axes.plot(across.value, up.value, "D" if method.control else "o", color=colour, markersize=5.5, zorder=2)
    axes.set(xlabel=f"{x} →", ylabel=f"{y} →")
    axes.margins(0.09)
    if shares:
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
    axes.set_title(f"↗ {corner}", loc="right", color="#5c5c5c", fontsize=8.5)
    axes.grid(color="#ececec", linewidth=0.6, zorder=0)
    _label(figure, axes, known)
    return figure


def _label(figure: Figure, axes: Axes, scored: Sequence[Scored]) -> None:
    """Write each method's name where it covers least; methods with one place share a label."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels shall not move what they were placed by
    renderer, frame = canvas.get_renderer(), axes.get_window_extent()
    groups: list[tuple[np.ndarray, list[Scored]]] = []
    for one in scored:
        place = axes.transData.transform((one.x.value, one.y.value))
        near = next((members for at, members in groups if np.abs(at - place).max() < SAME), None)
        if near is None:
            groups.append((place, [one]))
        else:
            near.append(one)
    marks, taken = [place for place, _ in groups], list[Bbox]()
    for _, members in groups:
        method, across, up = members[0]
        text = axes.annotate(
            ",\n".join(m.method.title for m in members), (across.value, up.value), xytext=PLACES[0], textcoords="offset points",
            fontsize=8, linespacing=1.05, color="#666666" if method.control else "#1a1a1a",
            arrowprops={"arrowstyle": "-", "color": "#c9c9c9", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip

        def cost(place: tuple[float, float], text: Annotation = text) -> float:
            box = _box(text, place, renderer)
            over = 10.0 * sum(box.overlaps(other) for other in taken)
            over += 6.0 * sum(box.x0 - 4 < x < box.x1 + 4 and box.y0 - 4 < y < box.y1 + 4 for x, y in marks)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            return over + 8.0 * (not inside) + 0.02 * (abs(place[0]) + abs(place[1]))

        taken.append(_box(text, min(PLACES, key=cost), renderer))


def _placed(text: Annotation, place: tuple[float, float]) -> Annotation:
    text.set_position(place)
    text.set_horizontalalignment("left" if place[0] > 0 else "right" if place[0] < 0 else "center")
    text.set_verticalalignment("bottom" if place[1] > 0 else "top")
    return text


def _box(text: Annotation, place: tuple[float, float], renderer: Any) -> Bbox:
    """Where the name would stand; without the line to its mark."""
    _placed(text, place).update_positions(renderer)
    return Text.get_window_extent(text, renderer)

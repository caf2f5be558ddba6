"""Pictures that several experiments draw: the comparisons of a claim as a forest plot, shares as a table of colours, the pair of scores."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from case_jax.report.figures import DPI, plain_style
from case_jax.report.scores import Scored, two_scores

COLOURS = {"holds": "#00684a", "reversed": "#a4262c", "open": "#777777"}
PLAIN = "#0072B2"
"""Of questions, whose comparisons are not tested."""
WIDTH, ROW = 7.4, 0.2
SCALES = {"percent": (100, "%"), "points": (100, " points"), "number": (1, "")}


def forest(finding: Mapping[str, Any]) -> Figure:
    """A line a comparison: estimate and 95% interval, the margin dashed, green where the claim holds, red where it is reversed, grey where open.

    Args:
        finding: a record of `findings.json`.
    """
    rows, judged = finding["comparisons"], finding["rule"] != "descriptive" and not finding["stated"]
    scale, unit = SCALES[finding["shown"]]
    with plain_style():
        figure = Figure(figsize=(WIDTH, 0.62 + ROW * len(rows)), layout="constrained")
        axis = figure.subplots()
        for place, row in enumerate(rows):
            colour = COLOURS[row["status"]] if judged else PLAIN
            value, low, high = (np.nan if row[key] is None else scale * row[key] for key in ("value", "low", "high"))
            axis.plot([low, high], [place, place], color=colour, linewidth=1.3, solid_capstyle="butt")
            axis.plot(value, place, "s", color=colour, markersize=4.2)
        if judged:
            for place, row in enumerate(rows):
                ends = (-row["margin"], row["margin"]) if finding["rule"] == "equivalence" else (row["margin"],)
                for end in ends:
                    axis.plot(
                        [scale * end] * 2, [place - 0.5, place + 0.5], color="#222222", linewidth=1, linestyle="--"
                    )
        elif finding["shown"] == "points":
            axis.axvline(0, color="#bbbbbb", linewidth=0.8)
        if not any(row["low"] is not None for row in rows) and all((row["value"] or 0) >= 0 for row in rows):
            axis.set_xlim(left=0)  # without intervals nothing else says how much a difference is
        axis.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{'%' if unit == '%' else ''}"))
        axis.set_xlabel(finding["measure"] + (", points" if unit == " points" else ""))
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
    return figure


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG with its text as text; equal figures are equal bytes."""
    buffer = io.BytesIO()
    with plain_style(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "case_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def heat(shares: pd.DataFrame, title: str, *, marks: pd.DataFrame | None = None) -> Figure:
    """Shares as a table of colours with their numbers.

    Args:
        shares: between 0 and 1; NaN is left white.
        title: of the figure.
        marks: of the same shape; where true the number is bold.
    """
    with plain_style():
        height, width = shares.shape
        figure = Figure(figsize=(2.2 + 0.85 * width, 1.3 + 0.24 * height), layout="constrained", dpi=DPI)
        axis = figure.subplots()
        axis.imshow(shares.to_numpy(float), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axis.set_xticks(range(width), [str(c) for c in shares.columns], rotation=30, ha="right")
        axis.set_yticks(range(height), [str(r) for r in shares.index])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        for (i, j), value in np.ndenumerate(shares.to_numpy(float)):
            if np.isfinite(value):
                bold = marks is not None and bool(marks.iloc[i, j])
                axis.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                    color="white" if value > 0.6 else "black", fontweight="bold" if bold else "normal",
                )  # fmt: skip
        axis.set_title(title)
    return figure


def pair_of_scores(marks: Sequence[Scored]) -> Figure:
    """Specificity against necessity, a mark with its intervals for each method."""
    with plain_style():
        return two_scores(
            marks,
            x="specificity: removing what a map marks hurts its own class, in logits",
            y="necessity: … and the pair of classes, more than elsewhere",
            corner="holds its class, and what the network needs",
            shares=False,
        )

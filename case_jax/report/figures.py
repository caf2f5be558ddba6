"""Figures over all images of a run: numbers in, `Figure` out; everything is aggregated before it is drawn."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from PIL import Image

from case_jax.report.loading import Method

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette without its yellow, which is too light for lines on white."""
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
CONTROL_COLOUR = "#777777"
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS")
"""The first that has a letter draws it; those that are not installed are skipped."""
DPI = 130
LEGEND_LINE, LEGEND_COLUMNS = 0.2, 4
"""Inches per line, and columns below a figure."""
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g}%")
"""For logarithmic axes, whose own labels need TeX."""


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib's own defaults with a restrained style on top, whatever the user's settings; undone at the end."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page has the same names as text
        mpl.rcdefaults()
        installed = set(fontManager.get_font_names())
        mpl.rcParams.update(
            {
                "font.family": [font for font in FONTS if font in installed],
                "font.size": 9,
                "axes.titlesize": 9,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "legend.frameon": False,
                "pdf.fonttype": 42,
                "text.parse_math": False,  # a class may be called $5
            }
        )
        yield


def rendered(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as PNG and as PDF, without dates, so that equal figures are equal bytes."""
    files = []
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        files.append(buffer.getvalue())
    return files[0], files[1]


def in_few_colours(png: bytes) -> bytes:
    """A picture in 256 colours of its own: of noisy spectrograms a quarter of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def lines_of(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """How each method is drawn in every figure: controls grey, all others told apart by colour, then by dashes."""
    style: dict[str, dict[str, Any]] = {}
    for control in (False, True):
        for place, method in enumerate(m for m in methods if m.control == control):
            dash = place + 1 if control else place // len(COLOURS)
            colour = CONTROL_COLOUR if control else COLOURS[place % len(COLOURS)]
            style[method.name] = {"color": colour, "linestyle": DASHES[dash % len(DASHES)], "label": method.title}
    return style


def agreement_histograms(
    values: Mapping[str, Float[np.ndarray, " n"]], methods: Sequence[Method], *, thetas: Sequence[float]
) -> Figure:
    """One histogram of F per method, with its median and the thresholds of the test.

    Args:
        values: F of the images whose two maps are usable, by method; may be empty.
        methods: in the order of the run.
        thetas: thresholds to mark.
    """
    columns = min(4, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(max(2.25 * columns, 4.5), 1.65 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for place, axis in enumerate(axes[len(methods) :], start=len(methods)):
        axis.set_axis_off()
        axes[place - columns].tick_params(labelbottom=True)
    style = lines_of(methods)
    for axis, method in zip(axes, methods, strict=False):
        found = values[method.name]
        for theta, dash in zip(thetas, DASHES[1:], strict=False):
            axis.axvline(theta, color="#444444", linestyle=dash, linewidth=1)
        if len(found):
            shares, edges = np.histogram(found, bins=25, range=(0, 1), weights=np.full(len(found), 1 / len(found)))
            axis.stairs(shares, edges, fill=True, color=style[method.name]["color"], alpha=0.75)
            axis.set_title(f"{method.title}\nmedian {np.median(found):.0%}")
        else:
            axis.set_title(f"{method.title}\nno usable pair of maps")
        axis.set(xlim=(0, 1), ylim=(0, None if len(found) else 1))
        axis.yaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_formatter(PERCENT)
        axis.xaxis.set_major_formatter(PERCENT)
    figure.supxlabel("agreement F of the two likeliest classes' maps", fontsize=9)
    figure.supylabel("share of images", fontsize=9)
    return figure


def cumulative(values: Float[np.ndarray, " n"], grid: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
    """Share of the values at or below each grid point."""
    return np.searchsorted(np.sort(values), grid, side="right") / len(values)


def drop_distribution(
    values: Mapping[str, Float[np.ndarray, " n"]], methods: Sequence[Method], *, removed: float
) -> Figure:
    """Empirical distribution of the confidence drop, on a linear axis and, as good maps crowd near 100%, a log axis.

    Args:
        values: clipped drops by method; a method without any is not drawn.
        methods: in the order of the run.
        removed: percentage of pixels removed.
    """
    height = 2.6 + LEGEND_LINE * math.ceil(len(methods) / LEGEND_COLUMNS)
    figure = Figure(figsize=(9, height), layout=ConstrainedLayoutEngine(wspace=0.06))
    linear, log = figure.subplots(1, 2, sharey=True)
    drops, left = np.linspace(0, 1, 401), np.geomspace(1, 1e-4, 401)
    for name, line in lines_of(methods).items():
        if len(values[name]):
            linear.plot(drops, cumulative(values[name], drops), **line)
            log.plot(left, cumulative(values[name], 1 - left), **line)
    linear.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=f"confidence drop at {removed:g}% removed",
        ylabel="share of images at or below",
    )
    log.set(xscale="log", xlim=(1, 1e-4), xlabel="1 − drop: the confidence left (same curves, log axis)")
    linear.xaxis.set_major_formatter(PERCENT)
    linear.yaxis.set_major_formatter(PERCENT)
    log.xaxis.set_major_formatter(PERCENT)
    log.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*linear.get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    return figure


class Sweep(NamedTuple):
    """How much confidence is left as more pixels are removed."""

    removed: Float[np.ndarray, " P"]
    """Percentages."""
    left: Float[np.ndarray, " P"]
    """Mean of 1 − clipped drop."""
    error: Float[np.ndarray, " P"]
    """Its standard error, 0 for a single image."""


def deletion_sweep(curves: Mapping[str, Sweep], methods: Sequence[Method]) -> Figure:
    """Mean confidence left against the share of pixels removed, with a 95% band (normal approximation).

    Args:
        curves: by method; a method without any is not drawn.
        methods: in the order of the run.
    """
    figure = Figure(figsize=(9, max(3.6, 0.4 + LEGEND_LINE * len(curves))), layout="constrained")
    axis, floor = figure.subplots(), 1e-6
    for name, line in lines_of(methods).items():
        if name in curves:
            removed, left, error = curves[name]
            axis.plot(removed, np.maximum(left, floor), marker="o", markersize=2.5, **line)
            low, high = (np.maximum(left + side * 1.96 * error, floor) for side in (-1, 1))
            axis.fill_between(removed, low, high, color=line["color"], alpha=0.15, linewidth=0)
    lowest = min((curve.left.min() for curve in curves.values()), default=floor)
    axis.set(yscale="log", xlim=(0, 100), ylim=(max(floor, 0.6 * lowest), 1.1))
    axis.set(xlabel="pixels removed, the map's highest first", ylabel="confidence left (mean, log axis)")
    axis.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))
    axis.yaxis.set_major_formatter(PERCENT)
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside right upper")
    return figure

"""A grid of one image's maps: classes × methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from case_jax.audio import Stft
from case_jax.imageops import as_pixels, picture, signed_colours
from case_jax.reasons import Reason
from case_jax.report.figures import plain_style
from case_jax.report.spectrogram import as_drawn, draw_ticks

if TYPE_CHECKING:
    from case_jax.evaluation.explain import Explanation

FORMATS: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""What pictures are written as, with their metadata: equal figures are equal files."""
PANEL = 1.8
"""Longer side of a panel in inches."""
SIGNED_WORDS = "red: evidence for the class; blue: against it"


class Original(NamedTuple):
    """The whole photograph, of which the classifier saw a part."""

    pixels: UInt8[np.ndarray, "H W 3"]
    box: tuple[float, float, float, float]
    """That part in these pixels: top, bottom, left, right."""


def draw_grid(found: "Explanation", titles: Sequence[str], class_names: Sequence[str], file: Path, **how: Any) -> Path:
    """Write `grid` in the format of the file's suffix, one of `FORMATS`; returns the file."""
    kind = file.suffix[1:]
    with plain_style(), mpl.rc_context({"svg.hashsalt": "case_jax"}):
        grid(found, titles, class_names, **how).savefig(file, format=kind, dpi=110, metadata=FORMATS[kind])
    return file


def grid(
    found: "Explanation",
    titles: Sequence[str],
    class_names: Sequence[str],
    *,
    original: Original | None = None,
    stft: Stft | None = None,
) -> Figure:
    """The image and every method's map of every target.

    Args:
        found: the maps of one image.
        titles: one per method.
        class_names: names of all classes.
        original: draws on the whole photograph, with the classifier's part outlined, instead of on that part.
        stft: of a spectrogram, which is then drawn with time to the right and frequency upwards, in seconds and hertz.
    """
    pixels = picture(as_pixels(found.example.image)) if original is None else original.pixels
    pixels, maps = as_drawn(pixels, found.maps, stft)
    extent = None if original is None else _extent(original.box)
    height, width = pixels.shape[:2]
    high, wide = PANEL * height / max(height, width), PANEL * width / max(height, width)
    rows, columns = len(found.targets), len(titles) + 1
    size = (0.4 + wide * columns, 0.6 + high * rows + 0.25 * found.signed)
    figure = Figure(figsize=(max(size[0], 3), max(size[1], 1.6)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (target, probability) in enumerate(zip(found.targets, found.probabilities, strict=True)):
        axes[row, 0].imshow(pixels)
        axes[row, 0].set_ylabel(f"{class_names[target]}\np = {probability:.2f}", fontsize=11, parse_math=False)
        for column, panel in enumerate(axes[row, 1:]):
            panel.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=255)
            if found.degenerate[column, row]:
                words = "degenerate:\n" + Reason(int(found.reasons[column, row])).words
                where = {"transform": panel.transAxes, "ha": "center", "va": "center"}
                panel.text(0.5, 0.5, words, color="w", fontsize=8, wrap=True, **where)
            elif found.signed:
                panel.imshow(signed_colours(maps[column, row]), extent=extent)
            else:
                panel.imshow(maps[column, row], cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=extent)
    for panel, title in zip(axes[0], [found.example.name, *titles], strict=True):
        panel.set_title(title, fontsize=11, parse_math=False)
    for panel in axes.flat:
        if original is not None:
            _outline(panel, original.box)
            panel.set_xlim(-0.5, width - 0.5)
            panel.set_ylim(height - 0.5, -0.5)
        panel.set_xticks([])
        panel.set_yticks([])
    if stft is not None:
        for row, panel in enumerate(axes[:, 0]):
            draw_ticks(panel, stft, pixels.shape[:2], across=row == rows - 1)
    if found.signed:
        figure.supxlabel(SIGNED_WORDS, fontsize=9)
    return figure


def _extent(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Of a picture in a box whose edges are those of pixels; matplotlib's lie half a pixel before."""
    top, bottom, left, right = (edge - 0.5 for edge in box)
    return left, right, bottom, top


def _outline(panel: Axes, box: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = _extent(box)
    frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1)
    frame.set_path_effects([Stroke(linewidth=2.4, foreground="black"), Normal()])
    panel.add_patch(frame)

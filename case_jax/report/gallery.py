"""The gallery: images with the maps of their two likeliest classes, the one above the other."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from case_jax.report.figures import DPI
from case_jax.report.loading import Gallery, Method, Run
from case_jax.report.spectrogram import ticks
from case_jax.source import SHARED

MAP_COLOURS = "inferno"
OUTLINES = {
    "own": ("evidence of the map's own class", "#56B4E9", "-"),
    "other": ("evidence of another class", "#FFFFFF", (0, (3, 1.5))),
    "shared": ("evidence shared by the classes", "#00D090", (0, (1, 1))),
}
"""Kind of evidence to its words, colour and dashes."""
TILE = 132
"""Longer side of a tile in pixels of the mosaic, which are those of the PNG."""
GAP, PAIR_GAP = 6, 14
HEAD, FOOT, MARGIN = 40, 50, 145
"""Room above, below and left of the mosaic for words, in its pixels."""


def evidence_masks(gallery: Gallery, image: int, target: int) -> dict[str, Bool[np.ndarray, "H W"]]:
    """Where the evidence of each kind lies, seen from one target class; all empty where none is known."""
    classes, regions = gallery.region_classes[image], gallery.regions[image]
    kinds = {
        "own": classes == target,
        "other": (classes >= 0) & (classes != target),
        "shared": classes == SHARED,
    }
    return {kind: regions[chosen].any(axis=0) for kind, chosen in kinds.items()}


def outlines(mask: Bool[np.ndarray, "H W"], scratch: Axes) -> list[Float[np.ndarray, "v 2"]]:
    """The closed outlines of a mask as (x, y) in pixels, with (0, 0) the outer corner of the first pixel.

    Args:
        mask: the region.
        scratch: axes on which contours are traced and which is never shown.
    """
    if not mask.any():
        return []
    contours = scratch.contour(np.pad(mask, 1).astype(float), levels=[0.5])
    polygons = [polygon for path in contours.get_paths() for polygon in path.to_polygons(closed_only=False)]
    contours.remove()
    return [np.asarray(polygon) - 0.5 for polygon in polygons]


def overlay(image: UInt8[np.ndarray, "H W 3"], saliency: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """A map laid over the greyed image: the higher its value, the less of the image shows."""
    grey = np.repeat(image.mean(axis=-1, keepdims=True) / 255, 3, axis=-1)
    values = np.nan_to_num(saliency.astype(np.float32))
    strength = (0.25 + 0.6 * values)[..., None]
    colour = mpl.colormaps[MAP_COLOURS](values)[..., :3]
    return (255 * ((1 - strength) * grey + strength * colour)).astype(np.uint8)


class Layout(NamedTuple):
    """Where tiles lie in the mosaic, in its pixels."""

    height: int
    width: int
    scale: float
    """Mosaic pixels per image pixel."""

    def left(self, column: int) -> int:
        """Left edge of a column."""
        return column * (self.width + GAP)

    def top(self, line: int) -> int:
        """Upper edge of a line; the two lines of an image stand close together."""
        return line * (self.height + GAP) + line // 2 * PAIR_GAP


def layout_of(gallery: Gallery) -> Layout:
    """Tiles of equal size on paper, whatever the images' size."""
    height, width = gallery.images.shape[1:3]
    scale = TILE / max(height, width)
    return Layout(max(1, round(height * scale)), max(1, round(width * scale)), scale)


def mosaic(gallery: Gallery, places: Sequence[int], layout: Layout) -> UInt8[np.ndarray, "h w 3"]:
    """All tiles on white: the image, then a column per method; a degenerate map leaves the image darkened.

    Args:
        gallery: images and maps.
        places: which of its methods to show, by index.
        layout: of the tiles.
    """
    lines = 2 * len(gallery.images)
    size = (layout.top(lines - 1) + layout.height, layout.left(len(places)) + layout.width, 3)
    pixels = np.full(size, 255, np.uint8)

    def put(column: int, line: int, tile: UInt8[np.ndarray, "H W 3"]) -> None:
        method = Image.Resampling.BOX if layout.scale < 1 else Image.Resampling.NEAREST
        scaled = Image.fromarray(tile).resize((layout.width, layout.height), method)
        top, left = layout.top(line), layout.left(column)
        pixels[top : top + layout.height, left : left + layout.width] = np.asarray(scaled)

    for i, image in enumerate(gallery.images):
        put(0, 2 * i, image)
        for column, place in enumerate(places, start=1):
            for rank in range(2):
                usable = not gallery.degenerate[i, place, rank]
                put(column, 2 * i + rank, overlay(image, gallery.maps[i, place, rank]) if usable else image // 3)
    return pixels


def gallery_figure(run: Run, gallery: Gallery, methods: Sequence[Method]) -> Figure:
    """Two lines per image: above the maps of its likeliest class, below those of the second; a column per method.

    Known evidence is outlined, by colour and by dashes. Degenerate maps are not drawn but named so.

    Args:
        run: for the names of classes.
        gallery: images and maps.
        methods: those to show, a subset of the gallery's.
    """
    names = gallery.methods.tolist()
    places, layout = [names.index(method.name) for method in methods], layout_of(gallery)
    pixels = mosaic(gallery, places, layout)
    height, width = pixels.shape[:2]
    page = (MARGIN + width + GAP, HEAD + height + FOOT)
    figure = Figure(figsize=(page[0] / DPI, page[1] / DPI))
    axis = figure.add_axes((MARGIN / page[0], FOOT / page[1], width / page[0], height / page[1]))
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="none")
    axis.set_axis_off()
    _write_words(axis, run, gallery, methods, places, layout)
    _write_axes(axis, gallery, layout)
    handles = _outline_evidence(axis, gallery, len(places), layout)
    if handles:
        figure.legend(
            handles=handles, loc="lower center", ncols=3, frameon=True, facecolor="#333333", labelcolor="white"
        )
    return figure


def _short(text: str, width: int) -> str:
    return textwrap.fill(text, width, max_lines=3, placeholder=" …")


def _share(probability: float) -> str:
    return "" if np.isnan(probability) else f"{probability:.0%}"


def _write_words(
    axis: Axes, run: Run, gallery: Gallery, methods: Sequence[Method], places: Sequence[int], layout: Layout
) -> None:
    for column, method in enumerate(methods, start=1):
        middle = layout.left(column) + layout.width / 2
        axis.text(middle, -GAP, _short(method.title, 14), fontsize=8, ha="center", va="bottom")
    for image, targets in enumerate(gallery.targets):
        for rank, target in enumerate(targets):
            middle = layout.top(2 * image + rank) + layout.height / 2
            rank_and_truth = f"top {rank + 1}{' ✓' if target in gallery.labels[image] else ''}"
            name, share = _short(run.class_name(int(target)), 18), _share(gallery.probabilities[image, rank])
            axis.text(-GAP, middle, f"{rank_and_truth}\n{name}\n{share}", fontsize=8, ha="right", va="center")
            for column, place in enumerate(places, start=1):
                if gallery.degenerate[image, place, rank]:
                    where = layout.left(column) + layout.width / 2
                    axis.text(where, middle, "degenerate", fontsize=8, color="white", ha="center", va="center")


def _write_axes(axis: Axes, gallery: Gallery, layout: Layout) -> None:
    """Seconds and hertz inside the first tile of every spectrogram."""
    if gallery.stft is None:
        return
    across, down = ticks(gallery.stft, gallery.images.shape[1:3])
    look = {"fontsize": 5.5, "color": "white"}
    for image in range(len(gallery.images)):
        top, bottom = layout.top(2 * image), layout.top(2 * image) + layout.height
        for place, words in list(down.items())[1:]:
            y = top + (place + 0.5) * layout.scale
            axis.plot([0, 3], [y, y], color="white", linewidth=0.6)
            axis.text(5, max(y, top + 5), words, ha="left", va="center", **look)
        for place, words in list(across.items())[1:]:
            x = (place + 0.5) * layout.scale
            axis.plot([x, x], [bottom - 3, bottom], color="white", linewidth=0.6)
            axis.text(min(x, layout.width - 9), bottom - 5, words, ha="center", va="bottom", **look)


def _outline_evidence(axis: Axes, gallery: Gallery, methods: int, layout: Layout) -> list[Line2D]:
    """Outline the evidence on every tile; returns the handles of the legend, none where nothing is known."""
    scratch = Figure().add_subplot()
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in OUTLINES}
    for image, targets in enumerate(gallery.targets):
        for rank, target in enumerate(targets):
            for kind, mask in evidence_masks(gallery, image, int(target)).items():
                for polygon in outlines(mask, scratch):
                    corners = [(layout.left(c), layout.top(2 * image + rank)) for c in range(1, methods + 1)]
                    found[kind] += [polygon * layout.scale + corner for corner in corners]
    handles = []
    for kind, (words, colour, dashes) in OUTLINES.items():
        if found[kind]:
            lines = LineCollection(found[kind], colors=colour, linestyles=[dashes], linewidths=1)
            lines.set_path_effects([Stroke(linewidth=1.8, foreground="black", alpha=0.6), Normal()])
            axis.add_collection(lines)
            handles.append(Line2D([], [], color=colour, linestyle=dashes, label=words))
    return handles

"""The gallery: images with the maps of their two likeliest classes, the one above the other."""

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from case_jax.report.loading import Gallery, Method, Run
from case_jax.source import SHARED

MAP_COLOURS = "inferno"
OUTLINES = {
    "own": ("evidence of the map's own class", "#56B4E9", "-"),
    "other": ("evidence of another class", "#FFFFFF", (0, (3, 1.5))),
    "shared": ("evidence shared by the classes", "#00E5A0", (0, (1, 1))),
}
"""Kind of evidence to its words, colour and dashes."""
LARGEST_TILE = 128
GAP = 0.06


def evidence_masks(gallery: Gallery, image: int, target: int) -> dict[str, Bool[np.ndarray, "H W"]]:
    """Where the evidence of each kind lies, seen from one target class; all empty where none is known."""
    classes, regions = gallery.region_classes[image], gallery.regions[image]
    kinds = {
        "own": classes == target,
        "other": (classes >= 0) & (classes != target),
        "shared": classes == SHARED,
    }
    return {kind: regions[chosen].any(axis=0) for kind, chosen in kinds.items()}


def outlines(mask: Bool[np.ndarray, "H W"]) -> list[Float[np.ndarray, "v 2"]]:
    """The closed outlines of a mask in pixel coordinates (x, y), the first pixel's corner being (0, 0)."""
    if not mask.any():
        return []
    padded = np.pad(mask, 1).astype(float)
    paths = Figure().add_subplot().contour(padded, levels=[0.5]).get_paths()
    return [polygon - 0.5 for path in paths for polygon in path.to_polygons(closed_only=False) if len(polygon) > 2]


def overlay(image: UInt8[np.ndarray, "H W 3"], saliency: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """A map laid over the greyed image: the higher its value, the less of the image shows."""
    grey = np.repeat(image.mean(axis=-1, keepdims=True) / 255, 3, axis=-1)
    values = np.nan_to_num(saliency.astype(np.float32))
    strength = (0.25 + 0.6 * values)[..., None]
    colour = mpl.colormaps[MAP_COLOURS](values)[..., :3]
    return np.uint8(255 * ((1 - strength) * grey + strength * colour))


def _shrunk(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = pixels.shape[:2]
    factor = min(1.0, LARGEST_TILE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)) if factor < 1 else pixels


def _short(text: str, width: int = 18) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder=" …")) or text


def gallery_figure(run: Run, gallery: Gallery, methods: Sequence[Method]) -> Figure:
    """One pair of lines per image: above the maps of its likeliest class, below those of the second; a column per method.

    Known evidence is outlined, by colour and by dashes. Degenerate maps are not drawn but named so.

    Args:
        run: for the names of classes.
        gallery: images and maps.
        methods: those to show, a subset of the gallery's.
    """
    count, lines, columns = len(gallery.images), 2 * len(gallery.images), len(methods) + 1
    height, width = gallery.images.shape[1:3]
    tile = 1.05
    figure = Figure(figsize=(tile * (columns + 1.1), tile * height / width * lines + 0.9), layout="constrained")
    axis = figure.subplots()
    canvas = _Canvas(axis, height, width)
    for place, method in enumerate(methods, start=1):
        canvas.text(place + 0.5, -0.06, _short(method.title, 14), ha="center", va="bottom")
    for image in range(count):
        _draw_image(canvas, run, gallery, image, methods)
    handles = canvas.draw_outlines()
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, facecolor="#333333", labelcolor="w", frameon=True)
    axis.set(xlim=(-1.15, columns), ylim=(canvas.bottom(lines), -0.1), aspect=height / width)
    axis.set_axis_off()
    return figure


def _draw_image(canvas: "_Canvas", run: Run, gallery: Gallery, image: int, methods: Sequence[Method]) -> None:
    places = {name: place for place, name in enumerate(gallery.methods.tolist())}
    for rank in range(2):
        line, target = 2 * image + rank, int(gallery.targets[image, rank])
        truth = " ✓" if gallery.labels[image] == target else ""
        words = f"top {rank + 1}:{truth}\n{_short(run.class_name(target))}\n{gallery.probabilities[image, rank]:.0%}"
        canvas.text(-0.06, canvas.top(line) + 0.5, words, ha="right", va="center")
        evidence = {kind: outlines(mask) for kind, mask in evidence_masks(gallery, image, target).items()}
        if rank == 0:
            canvas.picture(0, line, gallery.images[image])
        for column, method in enumerate(methods, start=1):
            found = (image, places[method.name], rank)
            if gallery.degenerate[found]:
                canvas.picture(column, line, overlay(gallery.images[image] // 3, np.zeros(gallery.images.shape[1:3])))
                canvas.text(column + 0.5, canvas.top(line) + 0.5, "degenerate", ha="center", va="center", color="white")
            else:
                canvas.picture(column, line, overlay(gallery.images[image], gallery.maps[found]))
            canvas.outline(column, line, evidence)


class _Canvas:
    """One axis on which tiles are laid out in columns and lines; a tile is one unit wide and one high."""

    def __init__(self, axis, height: int, width: int):
        self.axis, self.height, self.width = axis, height, width
        self.paths: dict[str, list[np.ndarray]] = {kind: [] for kind in OUTLINES}

    @staticmethod
    def top(line: int) -> float:
        """Lines of one image stand close together, images apart."""
        return line + 0.12 * (line // 2)

    def bottom(self, lines: int) -> float:
        return self.top(lines - 1) + 1

    def text(self, x: float, y: float, words: str, **options) -> None:
        self.axis.text(x, y, words, fontsize=7.5, **options)

    def picture(self, column: int, line: int, pixels: np.ndarray) -> None:
        top = self.top(line)
        box = (column + GAP / 2, column + 1 - GAP / 2, top + 1 - GAP / 2, top + GAP / 2)
        self.axis.imshow(_shrunk(pixels), extent=box, interpolation="nearest", aspect="auto")

    def outline(self, column: int, line: int, evidence: dict[str, list[np.ndarray]]) -> None:
        corner = np.array([column, self.top(line)]) + GAP / 2
        scale = (1 - GAP) / np.array([self.width, self.height])
        for kind, polygons in evidence.items():
            self.paths[kind] += [corner + polygon * scale for polygon in polygons]

    def draw_outlines(self) -> list[Line2D]:
        handles = []
        for kind, paths in self.paths.items():
            if paths:
                words, colour, dashes = OUTLINES[kind]
                lines = LineCollection(paths, colors=colour, linestyles=[dashes], linewidths=1)
                lines.set_path_effects([Stroke(linewidth=1.8, foreground="black", alpha=0.6), Normal()])
                self.axis.add_collection(lines)
                handles.append(Line2D([], [], color=colour, linestyle=dashes, label=words))
        return handles

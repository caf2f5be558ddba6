"""What the host makes of one image's maps for localisation: boxes, rows, and counts that add up over images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from case_jax._checks import require
from case_jax.metrics.localisation import box_area, box_of_map, box_scores, require_boxes
from case_jax.metrics.localisation_curves import (
    DELTAS,
    LEVELS,
    max_box_acc,
    max_box_acc_v2,
    pixel_average_precision,
    pixel_counts,
    threshold_hits,
)
from case_jax.metrics.mask_statistics import mask_statistics
from case_jax.source import Truth

WHOLE, CENTRE, TRUE_BOX, TRUE_PIXELS = BASELINES = ("whole_image", "centre_box", "truth_box", "truth_pixels")
CENTRE_SHARE = 0.5
SCORES = ("iou", "f1", "f1a", "le", "om", "mean", "sd", "entropy", "tv")
"""Columns of a row that need no second look of the classifier."""


class Shown(NamedTuple):
    """A map and the box that it stands for."""

    saliency: Float[np.ndarray, "H W"]
    box: Int[np.ndarray, "4"]


class Counts(NamedTuple):
    """Of K methods and baselines; sums over images."""

    pixels: Int[np.ndarray, "K 2 L"]
    """See `pixel_counts`."""
    hits: Int[np.ndarray, "K 2 T 3"]
    """See `threshold_hits`."""
    images: Int[np.ndarray, " K"]
    """Whose maps were usable."""

    @staticmethod
    def none(methods: int, thresholds: int) -> "Counts":
        """No image yet."""
        shapes = ((2, LEVELS + 1), (2, thresholds, len(DELTAS)), ())
        return Counts(*(np.zeros((methods, *shape), np.int64) for shape in shapes))

    def plus(self, other: "Counts") -> "Counts":
        """Of both."""
        return Counts(*(mine + others for mine, others in zip(self, other, strict=True)))


class ImageScores(NamedTuple):
    """One image's scores."""

    columns: dict[str, np.ndarray]
    """`degenerate` and `SCORES`, each (K,); NaN where there is no usable map."""
    boxes: Int[np.ndarray, "K 4"]
    """Zeros where there is none."""
    counts: Counts


def box_mask(box: Int[np.ndarray, "4"], shape: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """1 in the box, as much of it as lies in the image, and 0 elsewhere."""
    mask = np.zeros(shape, np.float32)
    top, bottom, left, right = np.clip(box, 0, [shape[0], shape[0], shape[1], shape[1]])
    mask[top:bottom, left:right] = 1.0
    return mask


def centre_box(height: int, width: int) -> Int[np.ndarray, "4"]:
    """The box of half the image's area and its shape, in its centre, rounded as the reference does (33 … 191 of 224)."""
    rows, columns = (round((1 - math.sqrt(CENTRE_SHARE)) / 2 * side) for side in (height, width))
    return np.array([rows, height - rows, columns, width - columns])


def baselines(truth: Truth, shape: tuple[int, int], *, reference_box: bool) -> list[Shown | None]:
    """What each of `BASELINES` shows: the whole image, the centre box, the largest true box, the object's pixels (where known).

    Their boxes are known, but for that of the pixels, which is found as for any map.
    """
    height, width = shape
    largest = truth.boxes[box_area(truth.boxes).argmax()]
    inside = np.clip(largest, 0, [height, height, width, width])
    shown: list[Shown | None] = [Shown(box_mask(b, shape), b) for b in (_whole(shape), centre_box(*shape), inside)]
    if truth.pixels is None:
        return [*shown, None]
    pixels = truth.pixels.astype(np.float32)
    return [*shown, Shown(pixels, box_of_map(pixels, reference_box=reference_box))]


def _whole(shape: tuple[int, int]) -> Int[np.ndarray, "4"]:
    return np.array([0, shape[0], 0, shape[1]])


def require_truth(truth: Truth, shape: tuple[int, int], name: str) -> None:
    """Raise unless a truth fits its image."""
    require_boxes(truth.boxes)
    pixels = truth.pixels
    proper = pixels is None or (pixels.shape == shape and pixels.dtype == bool)
    given = "" if pixels is None else f"pixels of shape {pixels.shape}, dtype {pixels.dtype}"
    require(proper, f"truth of image {name!r}", given, f"None, or a boolean mask of shape {shape}")


def score_image(
    maps: Float[np.ndarray, "M H W"],
    degenerate: Bool[np.ndarray, " M"],
    truth: Truth,
    *,
    correct: bool | None,
    finite: bool,
    thresholds: int,
    reference_box: bool,
) -> ImageScores:
    """Score all methods' maps of one image, and the baselines after them.

    Args:
        maps: finished maps.
        degenerate: which of them show nothing.
        truth: where the object is.
        correct: whether the image is classified correctly; None where its class is unknown.
        finite: whether its logits are finite; nothing is scored where they are not.
        thresholds: of MaxBoxAcc.
        reference_box: see `box_of_map`.
    """
    shape = (maps.shape[1], maps.shape[2])
    shown = [
        None if bad else Shown(m, box_of_map(m, reference_box=reference_box))
        for m, bad in zip(maps, degenerate, strict=True)
    ]
    shown += baselines(truth, shape, reference_box=reference_box) if finite else [None] * len(BASELINES)
    columns = {name: np.full(len(shown), np.nan) for name in SCORES}
    boxes, counts = np.zeros((len(shown), 4), np.int32), Counts.none(len(shown), thresholds)
    for place, found in enumerate(shown):
        if found is None:
            continue
        boxes[place] = found.box
        scores = box_scores(found.saliency, found.box, truth.boxes, correct=correct)
        for name, value in {**scores._asdict(), **mask_statistics(found.saliency)._asdict()}.items():
            columns[name][place] = value
        counts.images[place] = 1
        counts.hits[place] = threshold_hits(found.saliency, truth.boxes, thresholds=thresholds)
        if truth.pixels is not None:
            counts.pixels[place] = pixel_counts(found.saliency, truth.pixels)
    missing = np.array([found is None for found in shown])
    return ImageScores({"degenerate": missing, **columns}, boxes, counts)


def overall(counts: Counts, methods: Sequence[str]) -> pd.DataFrame:
    """The scores that belong to a data set as a whole, one row per method: `images`, `pxap`, `max_box_acc`, `max_box_acc_v2`."""
    rows = [
        {
            "images": int(images),
            "pxap": pixel_average_precision(pixels),
            "max_box_acc": max_box_acc(hits, int(images)),
            "max_box_acc_v2": max_box_acc_v2(hits, int(images)),
        }
        for pixels, hits, images in zip(*counts, strict=True)
    ]
    return pd.DataFrame(rows, index=pd.Index(methods, name="method"))


def columns_of(
    facts: Sequence[Mapping[str, Any]], scored: Sequence[ImageScores], methods: Sequence[str]
) -> dict[str, Any]:
    """The rows of some images as columns: what is known of each image, once for every method, then the scores."""
    count = len(methods)
    kinds = {
        "image_id": np.int64,
        "name": str,
        "label": np.int32,
        "target": np.int32,
        "top1": np.int32,
        "p": np.float32,
    }
    rows = {name: np.repeat(np.asarray([f[name] for f in facts], kind), count) for name, kind in kinds.items()}
    rows["method"] = np.tile(np.asarray(methods, str), len(facts))
    for name in ("degenerate", *SCORES):
        kind = bool if name == "degenerate" else np.float64
        rows[name] = np.asarray([s.columns[name] for s in scored], kind).reshape(-1)
    edges = np.asarray([s.boxes for s in scored], np.int32).reshape(-1, 4)
    return rows | {name: edges[:, side] for side, name in enumerate(("top", "bottom", "left", "right"))}

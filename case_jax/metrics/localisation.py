"""Localisation: does the box around a map meet the box around the object? On the host, with NumPy.

Boxes are half-open (top, bottom, left, right), in pixels: rows top … bottom − 1, columns left … right − 1. Boxes of a truth may leave
the image. All as in Phang, Park, Geras, *Investigating and Simplifying Masking-based Saliency Methods for Model Interpretability*
(arXiv 2010.09750), after Dabkowski and Gal, *Real Time Image Saliency for Black Box Classifiers* (NeurIPS 2017).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from case_jax._checks import require

IOU = 0.5
"""A box hits where its intersection over union with a true box is larger than this."""
EPSILON = 1e-6
"""In the denominators of F1, as the reference has it."""


def require_map(saliency: Float[np.ndarray, "H W"]) -> None:
    """Raise unless this is one finished map: two axes, all values in [0, 1]."""
    accepted = "one finished map: values in [0, 1] with the axes (height, width)"
    require(saliency.ndim == 2 and saliency.size, "saliency", f"an array of shape {saliency.shape}", accepted)
    low, high = saliency.min(), saliency.max()
    require(0 <= low <= high <= 1, "saliency", f"values from {low:g} to {high:g}", accepted)  # not so for NaN


def require_boxes(boxes: Int[np.ndarray, "B 4"]) -> None:
    """Raise unless these are boxes."""
    proper = boxes.ndim == 2 and boxes.shape[1] == 4 and len(boxes) > 0 and np.issubdtype(boxes.dtype, np.integer)
    accepted = "at least one box as integers (top, bottom, left, right), shape (B, 4)"
    require(proper, "boxes", f"shape {boxes.shape}, dtype {boxes.dtype}", accepted)


def binarise(saliency: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels above the map's mean (in float64); none of a constant map."""
    return saliency > saliency.mean(dtype=np.float64)


def components(masks: Bool[np.ndarray, "*n H W"], *, corners: bool = False) -> tuple[Int[np.ndarray, "*n H W"], int]:
    """The connected components of one mask or of several, numbered from 1 in the order in which they are met, row by row.

    Args:
        masks: masks of one size, each for itself.
        corners: whether pixels that touch at a corner are connected (8-connected); else at an edge only (4-connected).

    Returns:
        The number at each pixel, 0 where there is none, and how many components there are.
    """
    from scipy import ndimage  # not before it is used

    within = ndimage.generate_binary_structure(2, 2 if corners else 1)
    near = np.zeros((3,) * masks.ndim, bool)
    near[(1,) * (masks.ndim - 2)] = within
    found: Any = ndimage.label(masks, near)
    return found[0], int(found[1])


def largest_component(mask: Bool[np.ndarray, "H W"], *, empty_is_whole: bool = False) -> Bool[np.ndarray, "H W"]:
    """The 4-connected component with the most pixels; of several, the one met first in row-major order.

    Args:
        mask: one mask.
        empty_is_whole: return the whole image for an empty mask, as the reference does; else nothing.
    """
    numbers, count = components(mask)
    if count == 0:
        return np.full(mask.shape, empty_is_whole)
    return numbers == 1 + np.bincount(numbers.ravel())[1:].argmax()


def tight_box(mask: Bool[np.ndarray, "H W"], *, reference_box: bool = False) -> Int[np.ndarray, "4"]:
    """The smallest box that holds all pixels of a mask; four zeros for an empty mask.

    Args:
        mask: one mask.
        reference_box: leave out the box's last row and column, as the reference does (it takes the last pixel's index for an exclusive
            end); the box of a single pixel then has area 0.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return np.zeros(4, np.int64)
    end = 0 if reference_box else 1
    return np.array([rows[0], rows[-1] + end, columns[0], columns[-1] + end])


def box_of_map(saliency: Float[np.ndarray, "H W"], *, reference_box: bool = False) -> Int[np.ndarray, "4"]:
    """The box that a map stands for: binarised at its mean, the largest component, the tight box around that.

    Args:
        saliency: one finished map.
        reference_box: as the reference's code makes it: without the last row and column, and the whole image for a map of which no
            pixel is above the mean.

    Returns:
        A box; four zeros (area 0, which hits nothing) for a constant map.

    Raises:
        CaseJaxError: for values outside [0, 1].

    What wins scores of such boxes without merit: a centre Gaussian where objects are large and central, and class-blind maps of the whole object.
    """
    require_map(saliency)
    component = largest_component(binarise(saliency), empty_is_whole=reference_box)
    return tight_box(component, reference_box=reference_box)


def box_area(boxes: Int[np.ndarray, "*B 4"]) -> Int[np.ndarray | np.integer, "*B"]:
    """Pixels of boxes, outside the image, too; 0 where an end does not lie behind its start."""
    sides = np.maximum(boxes[..., 1::2] - boxes[..., ::2], 0)
    return sides[..., 0] * sides[..., 1]


def box_iou(box: Int[np.ndarray, "*A 4"], boxes: Int[np.ndarray, "B 4"]) -> Float[np.ndarray, "*A B"]:
    """Intersection over union of boxes with true boxes: `|a ∩ b| / (|a| + |b| − |a ∩ b|)`.

    Args:
        box: within the image.
        boxes: true boxes. What of them lies outside the image counts in |b|: an object that is cut off cannot be met whole.

    Returns:
        Shares in [0, 1]; 0 for boxes of area 0.
    """
    a = box[..., None, :]
    start, stop = np.maximum(a[..., ::2], boxes[..., ::2]), np.minimum(a[..., 1::2], boxes[..., 1::2])
    sides = np.maximum(stop - start, 0)
    both = sides[..., 0] * sides[..., 1]
    return both / np.maximum(box_area(a) + box_area(boxes) - both, 1)


def soft_f1(saliency: Float[np.ndarray, "H W"], boxes: Int[np.ndarray, "B 4"]) -> Float[np.ndarray, " B"]:
    """F1 of a map, taken as a soft mask, against each true box.

    `precision = Σ_{box} m / (Σ m + 1e-6)`, `recall = Σ_{box} m / |box|`, `F1 = 2 p r / (p + r + 1e-6)`; |box| counts what lies outside
    the image, too. 0 for boxes of area 0.

    Args:
        saliency: one finished map.
        boxes: true boxes.
    """
    height, width = saliency.shape
    edges = np.clip(boxes, 0, [height, height, width, width])
    inside = np.array([saliency[t:b, left:r].sum(dtype=np.float64) for t, b, left, r in edges])
    area = box_area(boxes)
    precision = inside / (saliency.sum(dtype=np.float64) + EPSILON)
    recall = np.where(area > 0, inside / np.maximum(area, 1), 0.0)
    return np.where(area > 0, 2 * precision * recall / (precision + recall + EPSILON), 0.0)


class BoxScores(NamedTuple):
    """How one map and its box meet the true boxes of one image."""

    iou: float
    """Of the box with the true box that it meets best."""
    f1: float
    """Of the map with the true box that it fits best."""
    f1a: float
    """Of the map, mean over all true boxes."""
    le: float
    """Localisation error: 0 where the best IoU is above 0.5, else 1."""
    om: float
    """Localisation error where the image is classified correctly, else 1; NaN where that is not known."""


def box_scores(
    saliency: Float[np.ndarray, "H W"],
    box: Int[np.ndarray, "4"],
    boxes: Int[np.ndarray, "B 4"],
    *,
    correct: bool | None,
) -> BoxScores:
    """The scores of one map against the true boxes of one image; `LE = 1 − hit`, `OM = 1 − hit · correct`, hit: best IoU > 0.5.

    Args:
        saliency: one finished map.
        box: the map's box, see `box_of_map`.
        boxes: true boxes.
        correct: whether the image is classified correctly; None where its class is unknown.

    Raises:
        CaseJaxError: for boxes of another shape or type, or none, or values of the map outside [0, 1].
    """
    require_map(saliency)
    require_boxes(boxes)
    iou, f1 = box_iou(box, boxes), soft_f1(saliency, boxes)
    hit = float(iou.max() > IOU)
    om = np.nan if correct is None else 1.0 - hit * correct
    return BoxScores(float(iou.max()), float(f1.max()), float(f1.mean()), 1.0 - hit, om)

"""Localisation at every threshold: PxAP against pixel masks, MaxBoxAcc and MaxBoxAccV2 against boxes. On the host, with NumPy.

Each image gives counts of fixed size; the counts of a data set are their sum, in any order, and the scores are read off the sum.

Choe, Oh, Lee, Chun, Akata, Shim, *Evaluating Weakly Supervised Object Localization Methods Right* (CVPR 2020, arXiv 2001.07437).
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from case_jax._checks import require
from case_jax.metrics.localisation import box_iou, components, require_boxes, require_map

LEVELS = 1000
"""Steps between the thresholds of PxAP, as in the authors' code."""
DELTAS = (0.3, 0.5, 0.7)
THRESHOLDS = 100
BLOCK = 1 << 16
"""Pixels of all masks that are looked at together."""
LARGEST, ANY = 0, 1


def pixel_counts(saliency: Float[np.ndarray, "H W"], pixels: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "2 levels"]:
    """How many pixels of one image lie between which thresholds: not on the object, and on it.

    Args:
        saliency: one finished map.
        pixels: the object's pixels.

    Returns:
        Entry l counts the pixels with `l/1000 ≤ m < (l + 1)/1000`, and the last those with m = 1.

    Raises:
        CaseJaxError: for values outside [0, 1], or a mask of another shape or type.
    """
    require_map(saliency)
    accepted = f"a boolean mask of shape {saliency.shape}"
    proper = pixels.shape == saliency.shape and pixels.dtype == bool
    require(proper, "pixels", f"shape {pixels.shape}, dtype {pixels.dtype}", accepted)
    bins = np.searchsorted(np.arange(LEVELS + 1) / LEVELS, saliency.ravel().astype(np.float64), side="right") - 1
    return np.stack([np.bincount(bins[where], minlength=LEVELS + 1) for where in (~pixels.ravel(), pixels.ravel())])


def pixel_average_precision(counts: Int[np.ndarray, "2 levels"]) -> float:
    """PxAP: the area under the curve of pixel precision and recall, over all pixels of all images at once.

    With `τ_l = l/1000` and the pixels `m ≥ τ_l` taken for the object, `PxAP = Σ_l precision(τ_l) (recall(τ_l) − recall(τ_{l+1}))`, the
    recall above τ = 1 being 0. It lies in [0, 1]; a constant map, of any data, has the share of the pixels that are on objects.

    Args:
        counts: from `pixel_counts`, summed over images.

    Returns:
        NaN where no pixel is on an object.

    What wins it without merit: class-blind maps of the whole object, where there is one in the middle of every image.
    """
    others, own = counts[:, ::-1].cumsum(axis=1)
    if own[-1] == 0:
        return float("nan")
    gained = np.diff(own, prepend=0) / own[-1]
    return float((own / np.maximum(own + others, 1) * gained).sum())


def threshold_hits(
    saliency: Float[np.ndarray, "H W"], boxes: Int[np.ndarray, "B 4"], *, thresholds: int = THRESHOLDS
) -> Bool[np.ndarray, "2 T 3"]:
    """Whether the boxes around what is above each threshold meet a true box, with an IoU of at least 0.3, 0.5 and 0.7.

    At `τ_l = l/T`, l = 0 … T − 1, the pixels `m ≥ τ_l` fall into components (8-connected, as contours are), each with its tight
    box. The authors' code has T = 1000 on maps of 8 bits, takes the component with the contour of the largest area instead of
    the most pixels, and makes boxes a pixel too large.

    Args:
        saliency: one finished map.
        boxes: true boxes, half-open (top, bottom, left, right).
        thresholds: T; the cost is proportional to it, but equal masks are looked at once.

    Returns:
        `[LARGEST, l, d]`: whether the largest component's box meets a true box at `DELTAS[d]`; `[ANY, l, d]`: whether any component's does.

    Raises:
        CaseJaxError: for values outside [0, 1], boxes of another shape or type, or fewer than 1 threshold.
    """
    require_map(saliency)
    require_boxes(boxes)
    require(thresholds >= 1, "thresholds", thresholds, "a number of thresholds of at least 1, for example 100")
    values, levels = saliency.astype(np.float64), np.arange(thresholds) / thresholds
    above = values.size - np.searchsorted(np.sort(values, axis=None), levels)  # masks of one size are one mask
    _, one, which = np.unique(above, return_index=True, return_inverse=True)
    step = max(1, BLOCK // values.size)
    blocks = (levels[one[start : start + step], None, None] for start in range(0, len(one), step))
    best = np.concatenate([_best(values >= level, boxes) for level in blocks], axis=1)
    return best[:, which, None] >= np.array(DELTAS)


def _best(masks: Bool[np.ndarray, "n H W"], boxes: Int[np.ndarray, "B 4"]) -> Float[np.ndarray, "2 n"]:
    """The best IoU with a true box, of the box around each mask's largest component and around any; 0 for an empty mask."""
    numbers, count = components(masks, corners=True)
    height, width = masks.shape[1:]
    # runs of pixels in a row, each of one component: far fewer than pixels
    edges = np.flatnonzero(np.diff(np.pad(masks, ((0, 0), (0, 0), (0, 1))).ravel(), prepend=False))
    line, begin = np.divmod(edges[::2], width + 1)
    end = edges[1::2] - line * (width + 1)
    of, row = numbers.reshape(-1, width)[line, begin] - 1, line % height
    top, left = np.full((2, count), max(height, width))
    bottom, right, sizes, mask_of = np.zeros((4, count), int)
    np.minimum.at(top, of, row)
    np.maximum.at(bottom, of, row + 1)
    np.minimum.at(left, of, begin)
    np.maximum.at(right, of, end)
    np.add.at(sizes, of, end - begin)
    mask_of[of] = line // height
    iou = box_iou(np.stack([top, bottom, left, right], axis=1), boxes).max(1)
    best, largest = np.zeros((2, len(masks))), np.zeros(len(masks), int)
    np.maximum.at(best[ANY], mask_of, iou)
    np.maximum.at(largest, mask_of, sizes)
    candidates = np.flatnonzero(sizes == largest[mask_of])[::-1]  # of several the one met first is written last
    best[LARGEST, mask_of[candidates]] = iou[candidates]
    return best


def max_box_acc(hits: Int[np.ndarray, "2 T 3"], images: int) -> float:
    """MaxBoxAcc: the share of images whose largest component meets a true box (IoU ≥ 0.5), at the threshold that is best for all.

    Args:
        hits: from `threshold_hits`, summed over images.
        images: how many.

    Returns:
        A share in [0, 1]; NaN for no image.

    What wins it without merit: as `pixel_average_precision`, and the threshold, which is chosen on the images that are scored.
    """
    return float(hits[LARGEST, :, DELTAS.index(0.5)].max() / images) if images else float("nan")


def max_box_acc_v2(hits: Int[np.ndarray, "2 T 3"], images: int) -> float:
    """MaxBoxAccV2: the share of images in which any component meets a true box, at the best threshold; mean over IoU ≥ 0.3, 0.5, 0.7.

    Arguments, degenerate values and what wins it without merit as `max_box_acc`.
    """
    return float((hits[ANY].max(0) / images).mean()) if images else float("nan")

"""What a map is like, taken as a soft mask: how much it shows, how sharply, how smoothly. On the host, with NumPy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from case_jax.metrics.localisation import require_map


class MaskStatistics(NamedTuple):
    """Of one map."""

    mean: float
    """Share of the image that it shows."""
    sd: float
    """Standard deviation over its pixels."""
    entropy: float
    """Mean binary entropy of its pixels in bits: 0 for a mask of zeros and ones, 1 for ½ everywhere."""
    tv: float
    """Total variation: mean squared difference of pixels side by side, plus that of pixels one above the other."""


def mask_statistics(saliency: Float[np.ndarray, "H W"]) -> MaskStatistics:
    """The statistics of one finished map, in float64.

    `H(m) = −m log₂ m − (1 − m) log₂(1 − m)`. The masking paper's code prints the first term only, and as deviation that of the
    means of images.

    Args:
        saliency: one finished map.

    Returns:
        All defined for constant maps; an image of one row or column has no differences in that direction, which then count as 0.

    Raises:
        CaseJaxError: for values outside [0, 1].

    Descriptions, not merits: a constant map has the smallest variation and a single pixel the smallest share.
    """
    require_map(saliency)
    m = saliency.astype(np.float64)
    odds = np.stack([m, 1 - m])
    entropy = -(odds * np.log2(np.where(odds > 0, odds, 1.0))).sum(0).mean()
    tv = sum(float(np.mean(d**2)) for d in (np.diff(m, axis=0), np.diff(m, axis=1)) if d.size)
    return MaskStatistics(float(m.mean()), float(m.std()), float(entropy) + 0.0, tv)

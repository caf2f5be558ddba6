"""The saliency metric: is the box around a map small, and does the classifier still see the class in it?"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from case_jax.imageops import crop_resized, require_pictures
from case_jax.tap.view import at_least_float32

LEAST_AREA = 0.05


class SaliencyMetric(NamedTuple):
    """Its two terms; `SM = log_area − log_p`, low = good."""

    log_area: Float[Array, ""]
    log_p: Float[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """SM."""
        return self.log_area - self.log_p


def saliency_metric(
    predict: Callable[[Float[Array, "H W 3"]], Float[Array, " C"]],
    image: Float[Array, "H W 3"],
    box: Int[Array, "4"],
    target: Int[Array, ""],
) -> SaliencyMetric:
    """`SM = log max(|box| / (H W), 0.05) − log p(target | the box's crop, enlarged to H × W)`.

    Args:
        predict: normalised image to logits.
        image: one normalised image.
        box: half-open (top, bottom, left, right), within the image.
        target: the class.

    Returns:
        Both terms. A box of area 0 is asked about as an image of zeros, the data set's mean, as in the reference. NaN where the
        logits are not finite.

    Dabkowski and Gal, *Real Time Image Saliency for Black Box Classifiers* (NeurIPS 2017), with the enlargement of Phang, Park, Geras
    (arXiv 2010.09750).
    """
    require_pictures("the saliency metric's box", image.ndim - 1)
    height, width = image.shape[:2]
    top, bottom, left, right = box
    area = jnp.maximum(bottom - top, 0) * jnp.maximum(right - left, 0)
    share = area.astype(jnp.float32) / (height * width)
    log_p = jax.nn.log_softmax(at_least_float32(predict(crop_resized(image, box, (height, width)))))[target]
    return SaliencyMetric(jnp.log(jnp.clip(share, LEAST_AREA, 1.0)), log_p)

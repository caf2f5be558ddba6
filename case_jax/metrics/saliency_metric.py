"""The saliency metric: is the box around a map small, and does the classifier still see the class in it?"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from case_jax.imageops import crop_resized, require_pictures
from case_jax.tap.link import Link, log_probabilities, of_class

LEAST_AREA = 0.05


class SaliencyMetric(NamedTuple):
    """Its two terms; `SM = log_area − log_p`, low = good."""

    log_area: Float[Array, "*B"]
    log_p: Float[Array, "*B"]

    @property
    def value(self) -> Float[Array, "*B"]:
        """SM."""
        return self.log_area - self.log_p


def saliency_metric(
    predict: Callable[[Float[Array, "H W D"]], Float[Array, " C"]],
    image: Float[Array, "H W D"],
    box: Int[Array, "4"],
    target: Int[Array, ""] | int,
    *,
    link: Link = "softmax",
) -> SaliencyMetric:
    """`SM = log max(|box| / (H W), 0.05) − log p(target | the box's crop, enlarged to H × W)`.

    Args:
        predict: normalised image to logits.
        image: one normalised image.
        box: half-open (top, bottom, left, right), within the image.
        target: the class.
        link: how logits become probabilities, `TappedModel.link`.

    Returns:
        Both terms. A box of area 0 is asked about as an image of zeros, the data set's mean, as in the reference. NaN where the
        logits are not finite, and for a traced class that does not exist.

    Raises:
        CaseJaxError: for the link `identity`, and for a class that does not exist where that is known.

    Dabkowski and Gal, *Real Time Image Saliency for Black Box Classifiers* (NeurIPS 2017), with the enlargement of Phang, Park, Geras
    (arXiv 2010.09750). What wins it without merit: any small box from which the classifier, shown it enlarged, guesses the class; a box in the middle
    does well where objects are central.
    """
    require_pictures("the saliency metric's box", image.ndim - 1)
    height, width = image.shape[:2]
    top, bottom, left, right = box
    area = jnp.maximum(bottom - top, 0) * jnp.maximum(right - left, 0)
    share = area.astype(jnp.float32) / (height * width)
    log_p = of_class(log_probabilities(predict(crop_resized(image, box, (height, width))), link), target)
    return SaliencyMetric(jnp.log(jnp.clip(share, LEAST_AREA, 1.0)), log_p)

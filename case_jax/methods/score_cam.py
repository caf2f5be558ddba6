"""Score-CAM."""

from functools import lru_cache
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax._checks import unknown
from case_jax.contrast.sets import Query
from case_jax.imageops import along_axes, resize_map
from case_jax.methods.cam import copies_at_once, of_existing, positive_maps
from case_jax.tap.view import View, at_least_float32

Align = Literal["corners", "half-pixel"]
ALIGNS: tuple[Align, ...] = get_args(Align)

EPS = 1e-8


@lru_cache
def _corner_to_corner(source: int, target: int) -> np.ndarray:
    """The matrix of one-dimensional linear interpolation that maps the first and last value to the first and last."""
    position = np.linspace(0, source - 1, target)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(source)), 0)


def _enlarge(channel: Float[Array, "*space"], shape: tuple[int, ...], align: Align) -> Float[Array, "*image"]:
    """One channel at the image's size."""
    if align == "half-pixel":
        return resize_map(channel, shape)
    return along_axes(channel, [_corner_to_corner(n, m) for n, m in zip(channel.shape, shape, strict=True)])


def score_cam(
    view: View, query: Query, *, align: Align = "corners", batch: int | None = None
) -> Float[Array, "T *space"]:
    """Channels weighted with the logit of the image seen through them.

    `relu(Σ_k w[k] A[..,k])`, `w = softmax_k(y_c(x ⊙ M_k))`, `M_k = (U_k − min U_k) / (max U_k − min U_k + 1e-8)`, U_k
    channel k of A enlarged to the image's size; x the normalised image, y_c the raw logit.

    K passes through the whole classifier serve all targets, `batch` at a time; no other array of the size of the image
    outlives its batch.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        align: how channels are enlarged (linearly along each axis): `corners` maps corner to corner, as pytorch-grad-cam does;
            `half-pixel` as this library enlarges maps.
        batch: masked images that pass through the classifier at once; by default the view's chunk.

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; NaN for a class that the model does not have. A
        channel that is constant hides the whole image. The softmax is one of logits, not of their differences from the
        unmasked image's: adding a constant to the class's logit changes nothing, and where one channel leads by far the
        map is that channel.

    Raises:
        CaseJaxError: for an unknown `align`, or a `batch` below 1.

    Wang et al., Score-CAM, CVPR Workshops 2020 (arXiv 1910.01279), as in pytorch-grad-cam.
    """
    if align not in ALIGNS:
        raise unknown("align", align, ALIGNS)
    copies = copies_at_once(view, batch)
    image = at_least_float32(view.image)

    def scores(channel: Float[Array, "*space"]) -> Float[Array, " T"]:
        enlarged = _enlarge(channel, image.shape[:-1], align)
        low, high = enlarged.min(), enlarged.max()
        mask = ((enlarged - low) / (high - low + EPS)).astype(image.dtype)
        return view.predict((image * mask[..., None]).astype(view.image.dtype))[query.targets]

    channels = jnp.moveaxis(at_least_float32(view.activation), -1, 0)
    found = jax.lax.map(scores, channels, batch_size=copies)  # unlike gradients, forward passes are as fast in a loop
    weights = jax.nn.softmax(at_least_float32(found), axis=0)
    return of_existing(view, query, positive_maps(view.activation, weights.T))

"""SmoothGrad."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import Query
from case_jax.methods.attribution import Reduce, signed, strongest, summed_gradients
from case_jax.tap.view import View


def _smoothed(view: View, query: Query, reduce: Reduce, *, samples: int, noise: float, batch: int) -> Array:
    require(samples >= 1, "samples", samples, "a number of noisy copies of at least 1")
    require(noise >= 0, "noise", noise, "a standard deviation of at least 0, as a share of the image's range")
    if query.key is None:
        raise CaseJaxError(
            "key: SmoothGrad needs this image's key; build the query with ask(..., key=jax.random.key(0))."
        )
    image = view.image
    deviation = (image.max() - image.min()) * noise
    return summed_gradients(
        view,
        query.targets,
        reduce,
        lambda key: image + deviation * jax.random.normal(key, image.shape, image.dtype),
        jax.random.split(query.key, samples),
        np.full(samples, 1 / samples),
        batch=batch,
    )


def smooth_grad_attribution(
    view: View,
    targets: Int[Array, " T"],
    *,
    key: Key[Array, ""],
    samples: int = 50,
    noise: float = 0.15,
    batch: int = 8,
) -> Float[Array, "T *space D"]:
    """The mean gradient over noisy copies, signed, at input resolution; arguments and errors as in `smooth_grad`."""
    return _smoothed(view, Query(targets, key=key), signed, samples=samples, noise=noise, batch=batch)


def smooth_grad(
    view: View, query: Query, *, samples: int = 50, noise: float = 0.15, batch: int = 8
) -> Float[Array, "T *space"]:
    """How strongly the class's logit answers to each pixel, averaged over noisy copies of the image.

    `max_d |1/n Σ_i ∂f_c/∂x (x + ε_i)[..,d]|` over the colour channels d, `ε_i ~ N(0, σ²)`, `σ = noise · (max x − min x)`. All targets
    see the same noise, so that what differs between the maps of two classes is the classes', and a copy is passed forward once.

    Args:
        view: one image's view.
        query: targets (T,) and the image's key.
        samples: n, noisy copies.
        noise: σ as a share of the image's range; the paper recommends 0.1 to 0.2.
        batch: most copies in memory at once.

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where the logit is constant around the image, NaN for a
        class that the model does not have.

    Raises:
        CaseJaxError: when the query has no key, for fewer than one sample, a negative noise, or a batch below 1.

    Smilkov et al., SmoothGrad, 2017 (arXiv 1706.03825).
    """
    return _smoothed(view, query, strongest, samples=samples, noise=noise, batch=batch)

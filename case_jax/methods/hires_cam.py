"""HiResCAM."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.cam import cancels, evidence, of_gradients
from case_jax.tap.view import View


def hires_cam(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Every position of every channel weighted with its own gradient.

    `relu(Σ_k g[h,w,k] A[h,w,k])`, `g = ∂y_c/∂A`.

    In front of a normalisation over the channels (the LayerNorm behind ConvNeXt's convolutions) the logit does not
    change with the length of the channel vector, so the sum is zero at every position, and what a computer finds is
    rounding and the normalisation's ε. Where no position has a sum above 1e-5 of the largest sum of magnitudes (above
    the rounding unit, for activations in bfloat16 or float16), the map is exactly zero, and so marked degenerate
    instead of ranking noise.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where nothing speaks for the class or the
        sum cancels; NaN for a class that the model does not have.

    Draelos and Carin, HiResCAM (arXiv 2011.08891).
    """
    dtype = view.activation.dtype

    def of_class(gradient: Array, activation: Array) -> Array:
        terms = gradient * activation
        total = terms.sum(-1)
        return jnp.where(cancels(total, terms, dtype), 0.0, total)

    return evidence(of_gradients(view, query, of_class), sign)

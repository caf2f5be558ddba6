"""Grad-CAM++."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.imageops import space_axes
from case_jax.methods.cam import of_gradients, positive_maps
from case_jax.tap.view import View

EPS = 1e-6


def grad_cam_plus_plus(view: View, query: Query) -> Float[Array, "T *space"]:
    """Channels weighted with their positive gradients, each position by what it adds.

    `relu(Σ_k w[k] A[..,k])`, `w[k] = Σ_{hw} relu(g) a`, `a = g² / (2 g² + g³ Σ_{hw} A + 1e-6)`, `g = ∂y_c/∂A`, a = 0
    where g = 0.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where no channel speaks for the class; NaN
        for a class that the model does not have. The absolute 1e-6 makes the map depend on the gradients' scale:
        gradients well below 1e-3 get weights of their cube. Before a normalisation ΣA may be negative; the denominator
        may then pass through zero, which gives single channels huge weights, and a non-finite map where it is hit
        exactly.

    Chattopadhyay et al., Grad-CAM++, WACV 2018 (arXiv 1710.11063), with the ε of pytorch-grad-cam.
    """

    def weights(gradient: Array, activation: Array) -> Array:
        square = gradient**2
        share = square / (2 * square + square * gradient * activation.sum(space_axes(activation)) + EPS)
        return jnp.where(gradient > 0, gradient * share, 0.0).sum(space_axes(gradient))

    return positive_maps(view.activation, of_gradients(view, query, weights))

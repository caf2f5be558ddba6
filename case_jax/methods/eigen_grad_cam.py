"""Eigen-Grad-CAM."""

import jax
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.cam import of_gradients, principal_map
from case_jax.tap.view import View


def eigen_grad_cam(view: View, query: Query) -> Float[Array, "T *space"]:
    """The first principal component of the activation times the gradient: half-blind to the class.

    `relu(X v)`, X the (positions, K) matrix of `g A` less each channel's mean, v its first right singular vector,
    `g = ∂y_c/∂A`, with the sign for which the map correlates positively with `Σ_k g A` (HiResCAM before the relu; where that
    is constant, as in front of a LayerNorm, the sign for which the value furthest from zero is positive). The direction
    of largest variation is as likely one that speaks against the class, which the sign can mend only as a whole.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where g A is the same at all positions;
        NaN for a class that the model does not have.

    Muhammad and Yeasin, Eigen-CAM, IJCNN 2020 (arXiv 2008.00299), with gradients as in pytorch-grad-cam.
    """
    dtype = view.activation.dtype

    def of_class(gradient: Array, activation: Array) -> Array:
        return principal_map(gradient * activation, dtype)

    return jax.nn.relu(of_gradients(view, query, of_class))

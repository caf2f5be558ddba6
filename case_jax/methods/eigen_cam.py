"""Eigen-CAM: the first principal component of the activation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.cam import of_existing, principal_map
from case_jax.tap.view import View, at_least_float32


def eigen_cam(view: View, query: Query) -> Float[Array, "T *space"]:
    """The first principal component of the activation: where it varies most, whatever the class.

    `relu(X v)`, X the (HW, K) matrix of A less each channel's mean, v its first right singular vector, with the sign
    for which the map correlates positively with `Σ_k A` (pytorch-grad-cam leaves the sign to its linear algebra
    library).

    Class-blind: a control for every test of class sensitivity that still depends on classifier and image.

    Args:
        view: one image's view.
        query: targets (T,), of which only the number is used.

    Returns:
        The same map for every target at the layer's resolution, unscaled, ≥ 0; all zero for an activation without
        variation; NaN for a class that the model does not have.

    Muhammad and Yeasin, Eigen-CAM, IJCNN 2020 (arXiv 2008.00299), centred as in pytorch-grad-cam.
    """
    one = jax.nn.relu(principal_map(at_least_float32(view.activation), view.activation.dtype))
    return of_existing(view, query, jnp.broadcast_to(one, (len(query.targets), *one.shape)))

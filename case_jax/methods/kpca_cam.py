"""KPCA-CAM: the first kernel principal component of the activation."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.methods.cam import leading_vector, of_existing, towards_sum
from case_jax.tap.view import View, at_least_float32


def kpca_cam(view: View, query: Query, *, gamma: float | None = None) -> Float[Array, "T *space"]:
    """The first principal component of the activation under a sigmoid kernel, whatever the class.

    `relu(√λ v)`, λ and v the largest eigenvalue and its unit eigenvector of `J tanh(γ X Xᵀ + 1) J`: X the (HW, K) matrix of A less each
    channel's mean, `J = I − 1/HW`. The sign is that for which the map correlates positively with `Σ_k A` (pytorch-grad-cam makes
    the value furthest from zero positive). The kernel saturates, so the map depends on the scale of the activation.

    By matrix products of HW × HW alone, as in Eigen-CAM, where LAPACK must not be called; about 50 of them, so it is meant for layers of up to
    some 1,000 positions.

    Class-blind: a control for every test of class sensitivity that still depends on classifier and image.

    Args:
        view: one image's view.
        query: targets (T,), of which only the number is used.
        gamma: γ; by default 1/K.

    Returns:
        The same map for every target at the layer's resolution, unscaled, ≥ 0; all zero for an activation without
        variation; NaN for a class that the model does not have.

    Raises:
        CaseJaxError: for a γ that is not above 0.

    Karmani et al., KPCA-CAM, MMSP 2024 (arXiv 2410.00267), with the kernel of pytorch-grad-cam 1.5.7.
    """
    require(gamma is None or 0 < gamma < math.inf, "gamma", gamma, "a number above 0, or None for 1/K")
    activation = at_least_float32(view.activation)
    rows = activation.reshape(-1, activation.shape[-1])
    component = kernel_component(rows - rows.mean(0), 1 / rows.shape[1] if gamma is None else gamma)
    one = jax.nn.relu(towards_sum(component, rows, view.activation.dtype)).reshape(activation.shape[:-1])
    return of_existing(view, query, jnp.broadcast_to(one, (len(query.targets), *one.shape)))


def kernel_component(rows: Float[Array, "n K"], gamma: float) -> Float[Array, " n"]:
    """`√λ v` of the centred sigmoid kernel of some rows, its sign open; zero for equal rows."""

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    inner = gamma * product(rows, rows.T)
    # tanh(z + 1) − tanh(1), which centring does not tell from tanh(z + 1), without cancellation for small z
    kernel = jnp.tanh(inner) * (1 - jnp.tanh(inner + 1) * math.tanh(1))
    kernel = kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()

    def component(matrix: Array) -> tuple[Array, Array]:
        """The eigenvector of the eigenvalue furthest from zero, and that eigenvalue's quotient."""
        vector = product(matrix, leading_vector(product(matrix, matrix)))
        length = jnp.linalg.norm(vector)
        unit = vector / jnp.where(length > 0, length, 1.0)
        return unit, product(unit, product(matrix, unit))

    # the kernel is indefinite: where a negative eigenvalue is the furthest from zero, all are shifted by it
    furthest = component(kernel)[1]
    shift = jax.nn.relu(-furthest)
    unit, value = component(kernel + shift * jnp.eye(len(kernel), dtype=kernel.dtype))
    return jnp.sqrt(jax.nn.relu(value - shift)) * unit

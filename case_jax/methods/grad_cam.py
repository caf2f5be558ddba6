"""Grad-CAM."""

from jaxtyping import Array, Float

from case_jax.contrast import linear_head, operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import evidence, positive_maps
from case_jax.tap.view import View


def grad_cam(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Channels weighted with their mean gradient.

    `relu(Σ_k α_c[k] A[..,k])`, `α_c[k] = mean_{hw} ∂y_c/∂A[h,w,k]`.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where no channel speaks for the class.

    Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv 1610.02391).
    """
    factors = view.factors()
    if factors is not None:
        return evidence(linear_head.class_maps(factors, view.activation, query.targets), sign)
    return positive_maps(view.activation, operators.none(view, query.targets), sign=sign)

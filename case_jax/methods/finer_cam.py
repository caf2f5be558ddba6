"""Finer-CAM."""

from jaxtyping import Array, Float

from case_jax.contrast import operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import contrast_of, positive_maps
from case_jax.tap.view import View


def finer_cam(view: View, query: Query, *, gamma: float = 1.0, sign: int = 1) -> Float[Array, "T *space"]:
    """Grad-CAM of the difference between the target's logit and those of similar classes.

    `relu(Σ_k w[k] A[..,k])`, `w = Σ_j p_j (α_c − γ α_j) / Σ_j p_j` over j ∈ N(c), p by the model's link.

    Args:
        view: one image's view.
        query: targets (T,) and their contrast sets (T, k).
        gamma: γ, how much of the similar classes is subtracted.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where nothing favours the class.

    Raises:
        CaseJaxError: when the query has no contrast sets, or the model no probabilities (link `identity`).

    Zhang et al., Finer-CAM, CVPR 2025 (arXiv 2501.11309).
    """
    weights = operators.difference(view, query.targets, contrast_of(query), gamma=gamma)
    return positive_maps(view.activation, weights, sign=sign)

"""CASE against the whole span of the contrast classes."""

from jaxtyping import Array, Float

from case_jax.contrast import operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import contrast_of, positive_maps
from case_jax.tap.view import View


def case_span(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Grad-CAM without anything that a combination of the contrast classes could say.

    `relu(Σ_k (α_c − P α_c)[k] A[..,k])`, with P the projection on `span{α_j : j ∈ N(c)}`.

    Args:
        view: one image's view.
        query: targets (T,) and their contrast sets (T, k).
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where the span holds α_c.

    Raises:
        CaseJaxError: when the query has no contrast sets.

    A variant of CASE (arXiv 2506.07327) introduced here; for k = 1 it is CASE with ε = 0.
    """
    return positive_maps(view.activation, operators.span_orthogonal(view, query.targets, contrast_of(query)), sign=sign)

"""CASE: contrastive activation for saliency estimation."""

import math

from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast import linear_head, operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import contrast_of, evidence, positive_maps
from case_jax.tap.view import View


def case(
    view: View, query: Query, *, eps: float = operators.EPS, eps_relative: bool = False, sign: int = 1
) -> Float[Array, "T *space"]:
    """Grad-CAM without what the class shares with the classes it is confused with.

    `relu(Σ_k (α_c − β_c ᾱ_c)[k] A[..,k])`, `ᾱ_c = mean_{j∈N(c)} α_j`, `β_c = ⟨α_c, ᾱ_c⟩ / (‖ᾱ_c‖² + ε)`.

    Args:
        view: one image's view.
        query: targets (T,) and their contrast sets (T, k).
        eps: ε; the absolute 1e-8 is the paper's form.
        eps_relative: take `ε = eps · ‖α_c‖²`, which makes the map independent of the gradients' scale.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0. Where α_c is parallel to ᾱ_c nothing is left, but for the share `ε / (‖ᾱ_c‖² + ε)` of
        Grad-CAM that the absolute ε leaves; `eps_relative` makes that share the same at every scale of the gradients.

    Raises:
        CaseJaxError: when the query has no contrast sets, or for an ε that is negative or not finite.

    Williamson, Dwyer, Ji, CASE (arXiv 2506.07327).
    """
    require(math.isfinite(eps) and eps >= 0, "eps", eps, "a finite number of at least 0")
    asked, factors = (query.targets, contrast_of(query)), view.factors()
    if factors is None:
        weights = operators.mean_orthogonal(view, *asked, eps=eps, eps_relative=eps_relative)
        return positive_maps(view.activation, weights, sign=sign)
    maps = linear_head.orthogonal_maps(
        factors, view.activation, *asked, members=query.members, eps=eps, eps_relative=eps_relative
    )
    return evidence(maps, sign)

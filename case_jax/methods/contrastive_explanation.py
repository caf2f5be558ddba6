"""Contrastive explanations: why P, rather than Q?"""

from jaxtyping import Array, Float

from case_jax.contrast import operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import contrast_of, of_existing, positive_maps
from case_jax.tap.view import View


def contrastive_explanation(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Channels weighted with the mean gradient of the loss that a rival class Q would have.

    `relu(Σ_k w[k] A[..,k])`, `w = mean_{hw} ∂(−log p_Q)/∂A = Σ_j p_j α_j − α_Q`, and the mean over Q ∈ N(P) where the contrast set holds
    several. The class that is explained, P, is not in the formula: it is all that the model believes in, the likeliest class first. So the
    question is well put where P is the prediction; with Q as the target of softmax-contrast the map is that with `sign=-1`.
    With the link `sigmoid`, where classes do not compete, it is `−(1 − p_Q) α_Q`: the map of Grad-CAM against Q.

    Args:
        view: one image's view.
        query: targets P (T,) and their contrast sets, the classes Q (T, k).
        sign: −1 for where Q would gain: what would have to change for Q to be said.

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; equal for targets with equal contrast sets. As p_Q → 1 the weights vanish.

    Raises:
        CaseJaxError: when the query has no contrast sets, or the model no probabilities (link `identity`).

    Prabhushankar, Kwon, Temel, AlRegib, Contrastive Explanations in Neural Networks, ICIP 2020 (arXiv 2008.00178).
    """
    sets = contrast_of(query)
    weights = operators.sum_over_members(lambda rivals: operators.softmax(view, rivals), sets) / sets.shape[1]
    return positive_maps(view.activation, of_existing(view, query, -weights), sign=sign)

"""Grad-CAM of the log-probability."""

from jaxtyping import Array, Float

from case_jax.contrast import operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import positive_maps
from case_jax.tap.view import View


def softmax_contrast(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Channels weighted with the mean gradient of the class's log-probability: the weighted contrast.

    `relu(Σ_k w[k] A[..,k])`, `w = mean_{hw} ∂ log p_c/∂A = α_c − Σ_j p_j α_j`: every class is contrasted with all, each as
    far as the model believes in it. `w = (1 − p_c) (α_c − Σ_{j≠c} p_j α_j / (1 − p_c))`, that is the weighted contrast of Wang and Wang times
    1 − p_c, which changes no finished map. Under the link `sigmoid` `w = (1 − p_c) α_c`: Grad-CAM, as labels are independent.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0. As p_c → 1 the weights vanish, and the map of a certain
        class is the direction in which its certainty would still grow.

    Raises:
        CaseJaxError: for a model without probabilities (link `identity`).

    The weighted contrast of Wang and Wang, "Why Not Other Classes?", NeurIPS 2022, applied to Grad-CAM.
    """
    return positive_maps(view.activation, operators.softmax(view, query.targets), sign=sign)

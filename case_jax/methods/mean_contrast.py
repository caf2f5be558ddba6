"""Mean contrast."""

from jaxtyping import Array, Float

from case_jax.contrast import operators
from case_jax.contrast.sets import Query
from case_jax.methods.cam import positive_maps
from case_jax.tap.view import View


def mean_contrast(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Grad-CAM of the class's logit less the mean of all others.

    `relu(Σ_k w[k] A[..,k])`, `w = α_c − mean_{j≠c} α_j`. Probabilities play no part: a class that nobody would confuse counts as
    much as the likeliest.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where nothing favours the class.

    Raises:
        CaseJaxError: for a model of one class.

    The mean contrast of Wang and Wang, "Why Not Other Classes?", NeurIPS 2022, applied to Grad-CAM.
    """
    return positive_maps(view.activation, operators.mean(view, query.targets), sign=sign)

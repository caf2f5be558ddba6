"""AttnLRP."""

from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.libra_grad import balanced_maps
from case_jax.tap.view import View


def attn_lrp(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Layer-wise relevance propagation through attention, as input × gradient.

    `relu(Σ_d (x ⊙ ∂̃y_c/∂x)[..,d])` over the colour channels d, with ∂̃ the gradient under the rules of `libra_grad`, but for attention: its
    softmax passes its gradient back, and each product (probabilities and values, queries and keys) half to each factor.
    Linear layers follow the ε-rule (ε = 0), not the γ-rule that the authors add for vision transformers.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where no pixel speaks for the class, NaN for a class that the
        model does not have.

    Raises:
        CaseJaxError: as `libra_grad`.

    Achtibat et al., AttnLRP, ICML 2024 (arXiv 2402.05602).
    """
    return balanced_maps(view, query, sign, through_softmax=True)

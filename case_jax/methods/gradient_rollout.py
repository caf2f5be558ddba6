"""Rollout of attention weighted with its gradient."""

from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.attending import attention_of, readers, through, token_map
from case_jax.methods.attribution import of_targets
from case_jax.methods.cam import evidence
from case_jax.tap.view import View


def gradient_rollout(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """How much each patch adds to the class token through attention that speaks for the class.

    The row of the class token in `R = Π_{l=L…1} (I + Ā_l)`, `Ā_l = mean over heads of relu(∂y_c/∂A_l ⊙ A_l)`, with A_l the attention
    probabilities of block l. Without a class token the mean of all rows.

    Args:
        view: one image's view of a vision transformer, tapped at a layer with one position for each patch.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target, one value for each patch, unscaled, ≥ 0; all zero where no attention speaks for the class, NaN for a class that
        the model does not have. Without a class token each patch has 1 over the number of tokens more, of the I.

    Raises:
        CaseJaxError: for a network without attention over all its tokens, or with a fused one.

    Chefer, Gur, Wolf, Generic Attention-Model Explainability, ICCV 2021 (arXiv 2103.15679), rules 5 and 6.
    """
    attention = attention_of(view)
    start = readers(view, attention)

    def towards(matrix: Array, gradient: Array) -> Array:
        return evidence(gradient * matrix, sign).mean(0)

    pull = attention.pullback(view.image, towards)

    def one(row: Array) -> Array:
        relevance = start
        for weighted in reversed(pull(row)):
            relevance = relevance + through(relevance, weighted)
        return token_map(view, attention, relevance)

    return of_targets(view, query.targets, one)

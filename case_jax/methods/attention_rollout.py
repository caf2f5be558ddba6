"""Attention rollout."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.attending import attention_of, readers, through, token_map
from case_jax.methods.cam import of_existing
from case_jax.tap.view import View


def attention_rollout(view: View, query: Query) -> Float[Array, "T *space"]:
    """How much of each patch attention carries to the class token, over all blocks, whatever the class.

    The row of the class token in `Π_{l=L…1} ½ (Ā_l + I)`, with Ā_l the mean over heads of block l's attention probabilities and ½ I for the
    connection around it. Without a class token the mean of all rows.

    Class-blind: a control for the methods that weigh attention with a class's gradient.

    Args:
        view: one image's view of a vision transformer, tapped at a layer with one position for each patch.
        query: targets (T,), of which only the number is used.

    Returns:
        The same map for every target, one value for each patch, unscaled, > 0; NaN for a class that the model does not have. All tokens
        together sum to 1.

    Raises:
        CaseJaxError: for a network without attention over all its tokens, or with a fused one.

    Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928).
    """
    attention = attention_of(view)
    row = readers(view, attention)
    for matrix in reversed(attention.matrices(view.image)):
        row = (row + through(row, matrix.mean(0))) / 2
    one = token_map(view, attention, row)
    return of_existing(view, query, jnp.broadcast_to(one, (len(query.targets), *one.shape)))

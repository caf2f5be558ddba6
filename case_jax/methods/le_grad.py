"""LeGrad."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.methods.attending import attention_of, token_map
from case_jax.methods.attribution import of_targets
from case_jax.methods.cam import evidence
from case_jax.tap.blocks import Pool, block_pullback
from case_jax.tap.view import View


def le_grad(
    view: View, query: Query, *, pool: Pool = "mean", layers: int | None = None, sign: int = 1
) -> Float[Array, "T *space"]:
    """Where attention would have to grow for each block's own tokens to say more of the class.

    `mean over blocks l, heads and queries of relu(∂s_c^l/∂A_l)`, one value for each key; A_l are the attention probabilities of block l, and s_c^l
    is the logit that final normalisation and head give to the tokens behind block l, with the tokens before it held constant.

    Args:
        view: one image's view of a vision transformer, tapped at a layer with one position for each patch.
        query: targets (T,); contrast sets and key are not used.
        pool: what the head reads of block l: "mean", the mean of all its tokens, as in the authors' code, or "network", what it reads of the
            last one, for example the class token.
        layers: how many blocks, counted from the last (the authors' code: 2); None for all.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target, one value for each patch, unscaled, ≥ 0; all zero where no attention speaks for the class, NaN for a class that
        the model does not have.

    Raises:
        CaseJaxError: for another pool, a number of layers that there is not, a network without attention over all its tokens, with a fused
            one, or whose blocks do not add to one stream of tokens.

    Bousselham et al., LeGrad, ICCV 2025 (arXiv 2404.03214).
    """
    require(pool in ("mean", "network"), "pool", repr(pool), "'mean' or 'network'")
    attention = attention_of(view)
    blocks = len(attention.places)
    require(layers is None or 1 <= layers <= blocks, "layers", layers, f"None or a number of blocks from 1 to {blocks}")

    def towards(_: Array, gradient: Array) -> Array:
        return evidence(gradient, sign).mean((0, 1))

    pull = block_pullback(attention, view.image, towards, pool=pool, last=layers)
    return of_targets(view, query.targets, lambda row: token_map(view, attention, jnp.stack(pull(row)).mean(0)))

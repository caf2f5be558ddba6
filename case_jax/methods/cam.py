"""What all class activation maps share: a weighted sum of the channels, its positive part."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError
from case_jax.contrast.sets import Query
from case_jax.tap.view import at_least_float32


def class_maps(activation: Float[Array, "H W K"], weights: Float[Array, "T K"]) -> Float[Array, "T H W"]:
    """`S_t[h,w] = Σ_k weights[t,k] A[h,w,k]`, before any rectification."""
    return jnp.einsum("hwk,tk->thw", at_least_float32(activation), weights, precision=jax.lax.Precision.HIGHEST)


def positive_maps(activation: Float[Array, "H W K"], weights: Float[Array, "T K"]) -> Float[Array, "T H W"]:
    """`relu(Σ_k weights[t,k] A[h,w,k])`."""
    return jax.nn.relu(class_maps(activation, weights))


def contrast_of(query: Query) -> Array:
    """The query's contrast sets, or an error that says how to give them."""
    if query.contrast is None:
        raise CaseJaxError(
            "contrast: this method contrasts each target with other classes, and the query has none; "
            "build it with ask(view, targets, contrast), for example contrast = topk_logits(5, C)."
        )
    return query.contrast

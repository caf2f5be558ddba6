"""What methods for transformers share: the attentions of one image, and values of tokens as a map."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require
from case_jax.tap.attention import Attention, attention
from case_jax.tap.view import View


def attention_of(view: View) -> Attention:
    """The attentions of the view's network, one for each block, over all tokens.

    Raises:
        CaseJaxError: for a network without attention, with one over parts of the tokens (windows, channels, a pooling head) or of another
            number of tokens than the tapped layer's positions and at most as many in front of them.
    """
    found = attention(view.predict, view.image)
    if not found.places:
        raise CaseJaxError(
            "method: this one needs attention, and in the model's program no softmax over a last axis is multiplied with values; accepted: "
            "vision transformers. Methods for every network are grad_cam, case, input_x_gradient and the others of METHODS."
        )
    positions = math.prod(view.activation.shape[:-1])
    shapes = sorted({place.shape for place in found.places})
    _, tokens, keys = shapes[0]
    require(
        len(shapes) == 1 and tokens == keys,
        "model",
        f"attention of {' and '.join(f'{h} heads or windows of {q}×{k}' for h, q, k in shapes)} queries and keys",
        "the same heads and tokens, as queries and keys, in every block (no windows, no pooling by attention)",
    )
    require(
        positions <= tokens <= 2 * positions,
        "layer",
        f"a map of {positions} positions, where attention is over {tokens} tokens",
        "a layer with one position for each token of a patch: a block, a normalisation in it (with token_grid), or the patches' convolution",
    )
    return found


def prefix_of(view: View, attention: Attention) -> int:
    """How many tokens stand in front of those of the grid."""
    return attention.places[0].shape[-1] - math.prod(view.activation.shape[:-1])


def readers(view: View, attention: Attention) -> Float[Array, " n"]:
    """The weights with which the classifier is taken to read the tokens: the class token alone, which is the first; without one, all alike."""
    tokens = attention.places[0].shape[-1]
    first = jnp.zeros(tokens).at[0].set(1)
    return first if prefix_of(view, attention) else jnp.full(tokens, 1 / tokens)


def token_map(view: View, attention: Attention, values: Float[Array, " n"]) -> Float[Array, "*space"]:
    """Values of all tokens as a map of those of the grid."""
    return values[prefix_of(view, attention) :].reshape(view.activation.shape[:-1])


def through(row: Float[Array, " n"], matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Weights of tokens carried to the tokens that these are made of: `row · matrix`."""
    return jnp.matmul(row, matrix, precision=jax.lax.Precision.HIGHEST)

"""Attention pooling of one map by one token, as pure functions.

Torres, Zhang, Sicre, Ayache, Avrithis, *CA-Stream: Attention-based pooling for interpretable image recognition*, CVPR Workshops 2024
(arXiv 2404.14996).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require


class Pooled(NamedTuple):
    """What a token takes from a map."""

    scores: Float[Array, "*space heads"]
    """The attention before its softmax: the saliency map that the paper shows."""
    features: Float[Array, " K"]
    """The map averaged with the attention as weights."""


def attention_scores(
    features: Float[Array, "*space K"], query: Float[Array, " K"], *, heads: int = 1
) -> Float[Array, "*space heads"]:
    """How well each position fits the token: `s[i,h] = Σ_{k in head h} F[i,k] q[k] / √K`.

    There is no projection of keys or queries. Each head has its part of the channels, in their order; the scale is that of all of them.

    Args:
        features: a map F of one image.
        query: the token q.
        heads: how many.

    Raises:
        CaseJaxError: for a number of heads that does not divide K.
    """
    *space, channels = features.shape
    require(
        heads >= 1 and channels % heads == 0,
        "heads",
        f"{heads} for a map of {channels} channels",
        "a divisor of the channels of every map",
    )
    parts = (features * query).reshape(*space, heads, channels // heads)
    return parts.sum(-1) / math.sqrt(channels)


def attention_pool(features: Float[Array, "*space K"], query: Float[Array, " K"], *, heads: int = 1) -> Pooled:
    """Average a map with the attention of a token as weights: `a = softmax_i(s)`, `r[k] = Σ_i a[i, head of k] F[i,k]`.

    A token of zeros gives the plain average. The map is its own value: there is no projection of it either.

    Args:
        features: a map F of one image.
        query: the token q.
        heads: how many, see `attention_scores`.

    Raises:
        CaseJaxError: for a number of heads that does not divide K.
    """
    scores = attention_scores(features, query, heads=heads)
    places = tuple(range(features.ndim - 1))
    weights = jnp.repeat(jax.nn.softmax(scores, axis=places), features.shape[-1] // heads, axis=-1)
    return Pooled(scores, (weights * features).sum(places))

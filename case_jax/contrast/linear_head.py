"""CASE of many classes behind a linear head: in the space of classes, where no image has an array of classes × channels of its own.

With `α_c = w_c ⊙ d`, in which the head's columns w are the same for all images, class maps are `S_c = Σ_k w_c[k] (A d)[..,k]`: one matrix product
for a batch. CASE's map is `S_c − β_c S̄_c`, S̄_c the mean of the contrast set's, and β_c follows from sums over `w_c w̄_c d²`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from case_jax.contrast.operators import HIGHEST, projection_share, sum_over_members
from case_jax.tap.head import Factors, at_least_float32


class _Mean(NamedTuple):
    """Of a target's contrast set."""

    maps: Float[Array, "T *space"]
    """S̄_c."""
    with_own: Float[Array, " T"]
    """⟨α_c, ᾱ_c⟩."""
    squared: Float[Array, " T"]
    """‖ᾱ_c‖²."""


def class_maps(
    factors: Factors, activation: Float[Array, "*space K"], classes: Int[Array, " T"]
) -> Float[Array, "T *space"]:
    """`S_c` of the given classes, before any rectification; NaN for a class that does not exist."""
    return _maps(factors, activation, factors.rows(classes))


def orthogonal_maps(
    factors: Factors,
    activation: Float[Array, "*space K"],
    targets: Int[Array, " T"],
    sets: Int[Array, "T k"],
    *,
    members: Int[Array, " m"] | None,
    eps: float,
    eps_relative: bool,
) -> Float[Array, "T *space"]:
    """`S_c − β_c S̄_c`, the class map of `operators.mean_orthogonal`'s weights, before any rectification.

    Args:
        factors: of the class weights.
        activation: one image's.
        targets: target classes.
        sets: their contrast sets.
        members: a few classes from which all sets are taken, if known.
        eps: see `operators.orthogonal_to`.
        eps_relative: see there.
    """
    own = factors.rows(targets)
    if members is None:
        mean = _of_any(factors, activation, own, sets)
    else:
        mean = _of_few(factors, activation, own, (sets[:, :, None] == members).mean(1, dtype=own.dtype), members)
    scale = _product("tk,k->t", own**2, factors.response**2) if eps_relative else 1.0
    share = projection_share(mean.with_own, mean.squared, eps * scale)
    share = share.reshape(-1, *(1,) * (activation.ndim - 1))
    return _maps(factors, activation, own) - share * mean.maps


def _maps(
    factors: Factors, activation: Float[Array, "*space K"], rows: Float[Array, "T K"]
) -> Float[Array, "T *space"]:
    return _product("...k,tk->t...", at_least_float32(activation) * factors.response, rows)


def _of_any(factors: Factors, activation: Array, own: Float[Array, "T K"], sets: Int[Array, "T k"]) -> _Mean:
    """Any sets; where all images have the same, the means of their columns are computed once."""
    rows = sum_over_members(factors.rows, sets) / sets.shape[1]
    squared = factors.response**2
    maps = _maps(factors, activation, rows)
    return _Mean(maps, _product("tk,k->t", own * rows, squared), _product("tk,k->t", rows**2, squared))


def _of_few(
    factors: Factors,
    activation: Array,
    own: Float[Array, "T K"],
    shares: Float[Array, "T m"],
    members: Int[Array, " m"],
) -> _Mean:
    """Sets of the same few members: everything about these once, then combined by their shares."""
    rows = factors.rows(members)
    scaled = rows * factors.response**2
    maps = _product("tm,m...->t...", shares, _maps(factors, activation, rows))
    with_own = (shares * _product("tk,mk->tm", own, scaled)).sum(1)
    squared = _product("tm,mn,tn->t", shares, _product("mk,nk->mn", rows, scaled), shares)
    return _Mean(maps, with_own, squared)


def _product(subscripts: str, *arrays: Array) -> Array:
    return jnp.einsum(subscripts, *arrays, precision=HIGHEST)

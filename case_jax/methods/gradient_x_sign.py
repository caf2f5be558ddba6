"""Gradient × sign of the input."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from case_jax.contrast.sets import Query
from case_jax.methods.attribution import gradients
from case_jax.methods.cam import evidence
from case_jax.tap.view import View, at_least_float32


def gradient_x_sign_attribution(view: View, targets: Int[Array, " T"]) -> Float[Array, "T *space D"]:
    """`∂y_c/∂x ⊙ sign(x)` of each target, signed, at input resolution."""
    signs = jnp.sign(at_least_float32(view.image))
    return gradients(view, targets, lambda gradient: gradient * signs)


def gradient_x_sign(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """What moving each pixel away from 0 adds to the class's logit, however far from 0 it is.

    `relu(Σ_d (∂y_c/∂x ⊙ sign(x))[..,d])` over the colour channels d: input × gradient without the input's size. A pixel that is 0, the data
    set's mean, has no evidence.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where no pixel speaks for the class, NaN for a class that
        the model does not have.

    Lee and Chang, Recursive Explanation with Attribution Mask, 2021 (arXiv 2102.07332).
    """
    signs = jnp.sign(at_least_float32(view.image))
    return gradients(view, query.targets, lambda gradient: evidence((gradient * signs).sum(-1), sign))

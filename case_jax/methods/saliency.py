"""Saliency: the plain gradient."""

from jaxtyping import Array, Float, Int

from case_jax.contrast.sets import Query
from case_jax.methods.attribution import gradients, signed, strongest
from case_jax.tap.view import View


def saliency_attribution(view: View, targets: Int[Array, " T"]) -> Float[Array, "T *space D"]:
    """The gradient `∂y_c/∂x` of each target's logit, signed, at input resolution."""
    return gradients(view, targets, signed)


def saliency(view: View, query: Query) -> Float[Array, "T *space"]:
    """How strongly the class's logit answers to each pixel.

    `max_d |∂y_c/∂x[..,d]|` over the colour channels d.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where the logit is locally constant, NaN for a class that
        the model does not have.

    Simonyan, Vedaldi, Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014 (arXiv 1312.6034).
    """
    return gradients(view, query.targets, strongest)

"""Input × gradient."""

from jaxtyping import Array, Float, Int

from case_jax.contrast.sets import Query
from case_jax.methods.attribution import gradients
from case_jax.methods.cam import evidence
from case_jax.tap.view import View, at_least_float32


def input_x_gradient_attribution(view: View, targets: Int[Array, " T"]) -> Float[Array, "T *space D"]:
    """`x ⊙ ∂y_c/∂x` of each target, signed, at input resolution."""
    image = at_least_float32(view.image)
    return gradients(view, targets, lambda gradient: image * gradient)


def input_x_gradient(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """What each pixel adds to the class's logit, to first order around the image.

    `relu(Σ_d (x ⊙ ∂y_c/∂x)[..,d])` over the colour channels d. Zero, the data set's mean, is the pixel that adds nothing. The signed
    attribution of a network without biases and with ReLUs only sums to the logit; its positive part does not.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where no pixel speaks for the class, NaN for a class that
        the model does not have.

    Shrikumar et al., Not Just a Black Box, 2016 (arXiv 1605.01713).
    """
    image = at_least_float32(view.image)
    return gradients(view, query.targets, lambda gradient: evidence((image * gradient).sum(-1), sign))

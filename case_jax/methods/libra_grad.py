"""LibraGrad: input × gradient with balanced backward paths."""

from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.attribution import gradients
from case_jax.methods.cam import evidence
from case_jax.tap.balanced import balanced
from case_jax.tap.view import View, at_least_float32


def libra_grad(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """What each pixel adds to the class's logit, where factors that the network makes of the pixels themselves are constants.

    `relu(Σ_d (x ⊙ ∂̃y_c/∂x)[..,d])` over the colour channels d, with ∂̃ the gradient under the rules: no gradient through the attention
    probabilities, the deviation of a normalisation, the gate of a GELU or SiLU; half of it to each factor of any other product (gated
    perceptrons). In a vision transformer without biases, positions and class token the sum before its rectification adds up to the logit;
    in a network with none of these products it is that of `input_x_gradient`. In a plain vision transformer it is also CP-LRP with ε = 0.
    The authors attribute to the tokens of patches, where what positions and biases add is in it, too.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where no pixel speaks for the class, NaN for a class that the
        model does not have.

    Raises:
        CaseJaxError: for a tanh, sigmoid or square root that is no factor, and a softmax or such a factor inside a `while` loop or branch.

    Mehri, Baghshah, Pilehvar, LibraGrad, CVPR 2025 (arXiv 2411.16760).
    """
    return balanced_maps(view, query, sign, through_softmax=False)


def balanced_maps(view: View, query: Query, sign: int, *, through_softmax: bool) -> Float[Array, "T *space"]:
    """`relu(sign · Σ_d x ⊙ ∂̃y_c/∂x)` with the gradient of `balanced`."""
    image = at_least_float32(view.image)
    predict = balanced(view.predict, view.image, through_softmax=through_softmax)
    return gradients(view, query.targets, lambda g: evidence((image * g).sum(-1), sign), predict=predict)

"""Attribution Mask."""

from typing import Literal, get_args

from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.contrast.sets import Query
from case_jax.methods.gradient_x_sign import gradient_x_sign
from case_jax.methods.input_x_gradient import input_x_gradient
from case_jax.methods.integrated_gradients import integrated_gradients
from case_jax.methods.recursive import recursive_maps
from case_jax.tap.view import View

Attribution = Literal["gxsi", "gxi", "ig"]
ATTRIBUTIONS = {"gxsi": gradient_x_sign, "gxi": input_x_gradient, "ig": integrated_gradients}


def attribution_mask(
    view: View, query: Query, *, rounds: int = 3, attribution: Attribution = "gxsi"
) -> Float[Array, "T *space"]:
    """The product of masks that an attribution makes of itself, round by round.

    `P_0 = 1`, `P_{i+1} = P_i ⊙ n(E(x ⊙ P_i))`, and the map is the mean of P_n over the colour channels; n maps the minimum and maximum of each
    channel to 0 and 1. With `E = ∂y_c/∂x ⊙ sign(x)` signs stay those of the image, so that later rounds rank by the gradient alone, and what is
    damped already is not damped twice.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        rounds: n, each a forward and a backward pass of the classifier; with `ig` 32 of them.
        attribution: E: `gxsi` gradient × sign, `gxi` input × gradient, `ig` integrated gradients.

    Returns:
        One mask per target at input resolution, in [0, 1], not to be rescaled; all zero where the gradient vanishes in some round, NaN for a class
        that the model does not have.

    Raises:
        CaseJaxError: for fewer than 1 round, or an unknown attribution.

    Lee and Chang, Recursive Explanation with Attribution Mask, 2021 (arXiv 2102.07332). Their networks have no biases (`models.bias_free`), and their score, the
    accuracy on masked images, gives the mask the label: see the metric `masked_accuracy`.
    """
    require(rounds >= 1, "rounds", rounds, "a number of rounds of at least 1")
    if attribution not in get_args(Attribution):
        raise unknown("attribution", attribution, get_args(Attribution))
    return recursive_maps(view, query, ATTRIBUTIONS[attribution], rounds)

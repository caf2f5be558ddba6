"""Guided backpropagation."""

from jaxtyping import Array, Float, Int

from case_jax.contrast.sets import Query
from case_jax.methods.attribution import rectified_gradients, signed, strongest
from case_jax.tap.relu import guided_relu
from case_jax.tap.view import View


def guided_backprop_attribution(
    view: View, targets: Int[Array, " T"], *, partial: bool = False
) -> Float[Array, "T *space D"]:
    """What comes back at the image, signed, at input resolution; all zero for a network without ReLUs. Otherwise as `guided_backprop`."""
    return rectified_gradients(view, targets, signed, guided_relu, partial=partial)


def guided_backprop(view: View, query: Query, *, partial: bool = False) -> Float[Array, "T *space"]:
    """The gradient, with everything negative dropped on its way back through each ReLU.

    `max_d |ḡ[..,d]|` over the colour channels d, ḡ the class's gradient under the rule `ḡ_in = 1[in > 0] · relu(ḡ_out)` at every ReLU.
    The map is all but blind to the class: that is a finding about the method (Adebayo et al. 2018; Nie, Zhang, Patel 2018).

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        partial: whether a network with ReLUs and gates of other kinds (GELU, SiLU, softplus, leaky ReLU) is accepted; the plain gradient
            passes through the latter. `case_jax.tap.count_gates` says what a network has.

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; NaN for a class that the model does not have. A network without ReLUs (GELU,
        SiLU) has nothing to guide, and the rule would leave the plain gradient: its maps are all zero, that is, degenerate.

    Raises:
        CaseJaxError: when a ReLU lies inside a loop or branch; for gates of other kinds beside ReLUs, unless `partial`.

    Springenberg et al., Striving for Simplicity, ICLR workshop 2015 (arXiv 1412.6806); the largest colour's magnitude as in TorchRay
    (Fong, Patrick, Vedaldi, ICCV 2019).
    """
    return rectified_gradients(view, query.targets, strongest, guided_relu, partial=partial)

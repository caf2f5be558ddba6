"""Deconvolution."""

from jaxtyping import Array, Float, Int

from case_jax.contrast.sets import Query
from case_jax.methods.attribution import rectified_gradients, signed, strongest
from case_jax.tap.relu import deconvolution_relu
from case_jax.tap.view import View


def deconvolution_attribution(
    view: View, targets: Int[Array, " T"], *, partial: bool = False
) -> Float[Array, "T *space D"]:
    """What comes back at the image, signed, at input resolution; all zero for a network without ReLUs. Otherwise as `deconvolution`."""
    return rectified_gradients(view, targets, signed, deconvolution_relu, partial=partial)


def deconvolution(view: View, query: Query, *, partial: bool = False) -> Float[Array, "T *space"]:
    """The gradient, rectified on its way back at each ReLU instead of masked by what passed forward.

    `max_d |ḡ[..,d]|` over the colour channels d, ḡ the class's gradient under the rule `ḡ_in = relu(ḡ_out)` at every ReLU. Max-pooling
    passes back to the largest input, as the paper's switches do.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        partial: whether a network with ReLUs and gates of other kinds (GELU, SiLU, softplus, leaky ReLU) is accepted; the plain gradient
            passes through the latter. `case_jax.tap.count_gates` says what a network has.

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; NaN for a class that the model does not have. A network without ReLUs (GELU,
        SiLU) has nothing to rectify, and the rule would leave the plain gradient: its maps are all zero, that is, degenerate.

    Raises:
        CaseJaxError: when a ReLU lies inside a loop or branch; for gates of other kinds beside ReLUs, unless `partial`.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv 1311.2901); the largest colour's
    magnitude as in TorchRay (Fong, Patrick, Vedaldi, ICCV 2019).
    """
    return rectified_gradients(view, query.targets, strongest, deconvolution_relu, partial=partial)

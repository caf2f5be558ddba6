"""XGrad-CAM."""

from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.imageops import space_axes
from case_jax.methods.cam import of_gradients, positive_maps
from case_jax.tap.view import View

EPS = 1e-7


def xgrad_cam(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Channels weighted with their gradients, each position by its share of the channel's activation.

    `relu(Σ_k w[k] A[..,k])`, `w[k] = Σ_{hw} g A / (Σ_{hw} A + 1e-7)`, `g = ∂y_c/∂A`.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where no channel speaks for the class; NaN
        for a class that the model does not have. At a layer with negative values ΣA may come close to zero, and that
        channel then outweighs all others.

    Fu et al., Axiom-based Grad-CAM, BMVC 2020 (arXiv 2008.02312), with the ε of pytorch-grad-cam.
    """

    def weights(gradient: Array, activation: Array) -> Array:
        positions = space_axes(activation)
        return (gradient * activation).sum(positions) / (activation.sum(positions) + EPS)

    return positive_maps(view.activation, of_gradients(view, query, weights), sign=sign)

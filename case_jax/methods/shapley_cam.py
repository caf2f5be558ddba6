"""ShapleyCAM."""

import jax
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.imageops import channel_means
from case_jax.methods.attribution import of_targets
from case_jax.methods.cam import positive_maps
from case_jax.tap.link import log_probabilities
from case_jax.tap.view import View, at_least_float32


def shapley_cam(view: View, query: Query, *, residual_softmax: bool = False, sign: int = 1) -> Float[Array, "T *space"]:
    """Grad-CAM to second order: what a channel adds to the score, to second order around the activation.

    `relu(Σ_k w[k] A[..,k])`, `w = mean_{hw} (g − ½ H A)`, g and H the gradient and Hessian of the class's score in A: one Hessian–vector
    product a class. Where the score is piecewise linear in A (logits behind the last ReLU of a ResNet or VGG) `H A = 0`, and the map is
    Grad-CAM's.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        residual_softmax: take the score `y_c + log p_c` (the paper's ReST), which is curved behind every layer, instead of the logit.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where no channel speaks for the class; NaN for a class that the
        model does not have.

    Raises:
        CaseJaxError: for `residual_softmax` of a model without probabilities (link `identity`).

    Cai, CAMs as Shapley Value-based Explainers (arXiv 2501.06261).
    """

    def scores(activation: Array) -> Array:
        logits = view.tail(activation)
        return logits + log_probabilities(logits, view.link).astype(logits.dtype) if residual_softmax else logits

    def weights(row: Array) -> Array:
        gradient, again = jax.vjp(lambda a: jax.vjp(scores, a)[1](row)[0], view.activation)
        curved = at_least_float32(again(view.activation)[0])  # the Hessian is symmetric
        return channel_means(at_least_float32(gradient) - curved / 2)

    return positive_maps(view.activation, of_targets(view, query.targets, weights), sign=sign)

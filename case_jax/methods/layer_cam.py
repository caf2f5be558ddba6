"""LayerCAM."""

import jax
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.cam import evidence, of_gradients
from case_jax.tap.view import View


def layer_cam(view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
    """Every position of every channel weighted with its own gradient where that is positive.

    `relu(Σ_k relu(g[h,w,k]) A[h,w,k])`, `g = ∂y_c/∂A`.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where nothing speaks for the class; NaN
        for a class that the model does not have.

    Jiang et al., LayerCAM, IEEE TIP 2021.
    """
    return jax.nn.relu(of_gradients(view, query, lambda g, activation: (evidence(g, sign) * activation).sum(-1)))

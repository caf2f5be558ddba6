"""FEM: the feature explanation method."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.imageops import channel_means, space_axes
from case_jax.methods.cam import of_existing
from case_jax.tap.view import View, at_least_float32


def fem(view: View, query: Query, *, deviations: float = 2.0, binary: bool = True) -> Float[Array, "T *space"]:
    """Where channels are far above their own mean, whatever the class.

    `relu(Σ_k μ_k 1[A[..,k] > μ_k + d σ_k])`, with mean μ_k and standard deviation σ_k of channel k over the positions.

    Class-blind: a control for every test of class sensitivity that still depends on classifier and image.

    Args:
        view: one image's view.
        query: targets (T,), of which only the number is used.
        deviations: d.
        binary: False gives what pytorch-grad-cam 1.5.7 computes: `relu(Σ_k b_k A[..,k])`, b_k the share of positions above the threshold.

    Returns:
        The same map for every target at the layer's resolution, unscaled, ≥ 0; all zero where no channel is above its threshold anywhere, as at
        any layer of d² + 1 positions or fewer; NaN for a class that the model does not have. Made of steps, so many pixels are equal.

    Raises:
        CaseJaxError: for negative deviations.

    Fuad, Martin, Giot, Bourqui, Benois-Pineau, Zemmari, Features Understanding in 3D CNNs for Actions Recognition in Video, IPTA 2020.
    """
    require(deviations >= 0, "deviations", deviations, "a number of at least 0")
    activation = at_least_float32(view.activation)
    mean = channel_means(activation)
    above = (activation > mean + deviations * activation.std(space_axes(activation))).astype(activation.dtype)
    summed = (mean * above).sum(-1) if binary else (channel_means(above) * activation).sum(-1)
    one = jax.nn.relu(summed)
    return of_existing(view, query, jnp.broadcast_to(one, (len(query.targets), *one.shape)))

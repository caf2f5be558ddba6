"""Opti-CAM."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.imageops import masked_image, resize_map
from case_jax.methods.cam import copies_at_once, of_existing
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.tap.view import View, at_least_float32


def opti_cam(
    view: View,
    query: Query,
    *,
    steps: int = 100,
    learning_rate: float = 0.1,
    black: tuple[float, ...] | None = None,
    batch: int | None = None,
) -> Float[Array, "T *space"]:
    """The convex combination of channels that, as a mask on the image, keeps the target's logit highest.

    `S_u = Σ_k softmax(u)[k] relu(A[..,k])`, `u* = argmax_u y_c(x ⊙ n(up(S_u)))`: `up` interpolates to the image's size, `n` maps
    minimum and maximum to 0 and 1, and what is masked becomes the data set's mean. Adam from equal weights; the best u met is
    kept. It costs `steps + 1` forward and backward passes of the whole classifier per target.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        steps: updates of u.
        learning_rate: Adam's.
        black: a black pixel in normalised units, `−mean / std` of each channel: what is masked then becomes black, as in the authors' code, which
            masks the image before it is normalised.
        batch: targets in memory at once; by default the model's `chunk`.

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0; all zero where no channel is positive anywhere, and the same
        for every class, the channels' mean, where no choice of channels moves the logits. NaN for a class that the model does not have.

    Raises:
        CaseJaxError: for steps or a batch below 1, a learning rate that is not positive, or a black pixel of other channels.

    Zhang et al., Opti-CAM, CVIU 2024 (arXiv 2301.07002), with the mask objective. The authors' code masks with
    `black`, and stops early at whatever u it then holds.
    """
    most = copies_at_once(view, batch)
    require(steps >= 1, "steps", steps, "a number of updates of at least 1")
    require(learning_rate > 0, "learning_rate", learning_rate, "a positive number")
    depth = view.image.shape[-1]
    require(black is None or len(black) == depth, "black", black, f"a number for each of the {depth} channels, or None")
    image, positive = at_least_float32(view.image), jax.nn.relu(at_least_float32(view.activation))
    optimiser = optax.adam(learning_rate)

    def combined(u):
        return jnp.einsum("...k,k->...", positive, jax.nn.softmax(u), precision=jax.lax.Precision.HIGHEST)

    def masked_logit(u, target):
        mask = resize_map(combined(u), image.shape[:-1])
        mask = mask - mask.min()
        top = mask.max()
        mask = mask / jnp.where(top > 0, top, jnp.ones_like(top))
        masked = masked_image(image, mask, black=None if black is None else jnp.asarray(black))
        return at_least_float32(view.predict(masked.astype(view.image.dtype)))[target]

    def best_map(target):
        value_and_gradient = cpu_convolutions(jax.value_and_grad(lambda u: masked_logit(u, target)))

        def step(carry, _):
            u, state, best, best_value = carry
            value, gradient = value_and_gradient(u)
            better = value > best_value
            best, best_value = jnp.where(better, u, best), jnp.where(better, value, best_value)
            with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its integer count
                update, state = optimiser.update(-gradient, state)
            return (u + update, state, best, best_value), None

        u = jnp.zeros(positive.shape[-1], positive.dtype)
        lowest = jnp.asarray(-jnp.inf, at_least_float32(view.logits).dtype)
        (_, _, best, _), _ = jax.lax.scan(step, (u, optimiser.init(u), u, lowest), length=steps + 1)
        return combined(best)

    return of_existing(view, query, map_in_chunks(best_map, query.targets, chunk=most))

"""Ablation-CAM."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.cam import copies_at_once, of_existing, positive_maps
from case_jax.tap.head import Head
from case_jax.tap.view import View, at_least_float32

REFERENCE_BATCH = 32
REFERENCE_STEP = 1e7


def ablation_cam(
    view: View, query: Query, *, reference: bool = False, batch: int | None = None
) -> Float[Array, "T *space"]:
    """Channels weighted with the share of the logit that is lost without them.

    `relu(Σ_k w[k] A[..,k])`, `w[k] = (y_c − y_c^k) / y_c`, y_c^k the logit with channel k of A set to zero.

    Only the classifier after the layer is run again, on `batch` altered activations at a time. Where no channels mix
    before the first dense layer and the model declares so (`view.head`), nothing is: channel k contributes
    `Σ_p kernel[p,k] (x[p,k] − x0[p,k])` to that layer's output z, with x the features of A and x0 those of an activation of
    zeros. Where z are the logits, these contributions are the differences; otherwise what follows z is run once per
    channel.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        reference: set channels to what pytorch-grad-cam 1.5.7 sets them to instead of zero, for comparison: ever larger
            negative numbers, see `reference_values`. They pass through the classifier after the layer.
        batch: altered activations (or outputs z) in memory at once; by default the view's chunk.

    Returns:
        One map per target at the layer's resolution, unscaled, ≥ 0. The sign of the weights follows that of the logit:
        for a negative one, a channel that speaks for the class has a negative weight. A logit of exactly zero has no
        shares: weights and map are zero. NaN for a class that the model does not have.

    Raises:
        CaseJaxError: for a `batch` below 1.

    Desai and Ramaswamy, Ablation-CAM, WACV 2020.
    """
    copies = copies_at_once(view, batch)
    if reference:
        lost = _lost_by_running(view, query.targets, reference_values(view.activation), copies)
    elif view.head is None:
        lost = _lost_by_running(view, query.targets, jnp.zeros(view.activation.shape[-1]), copies)
    else:
        lost = _lost_in_closed_form(view, view.head, query.targets, copies)
    logits = at_least_float32(view.logits)[query.targets]
    weights = jnp.where(logits == 0, 0.0, lost / jnp.where(logits == 0, 1.0, logits)).T
    return of_existing(view, query, positive_maps(view.activation, weights))


def _lost_by_running(view: View, targets: Array, values: Float[Array, " K"], copies: int) -> Float[Array, "K T"]:
    """`y_c − y_c^k` from running the tail with channel k set to its value."""
    channels = jnp.arange(len(values))
    logits = at_least_float32(view.logits)[targets]

    def without(channel: tuple[Array, Array]) -> Float[Array, " T"]:
        k, value = channel
        altered = jnp.where(channels == k, value.astype(view.activation.dtype), view.activation)
        return logits - at_least_float32(view.tail(altered)[targets])

    return jax.lax.map(without, (channels, values), batch_size=copies)


def _lost_in_closed_form(view: View, head: Head, targets: Array, copies: int) -> Float[Array, "K T"]:
    """`y_c − y_c^k` from what each channel contributes to the output of the first dense layer."""
    given = at_least_float32(head.inputs(view.activation)) - at_least_float32(
        head.inputs(jnp.zeros_like(view.activation))
    )

    def contributions(kernel: Float[Array, "P K M"]) -> Float[Array, "K M"]:
        return jnp.einsum("pk,pkm->km", given, at_least_float32(kernel), precision=jax.lax.Precision.HIGHEST)

    if head.rest is None:
        return contributions(head.kernel[..., targets])
    rest, output = head.rest, at_least_float32(head.output)
    logits = at_least_float32(view.logits)[targets]

    def without(contribution: Float[Array, " M"]) -> Float[Array, " T"]:
        return logits - at_least_float32(rest((output - contribution).astype(head.output.dtype))[targets])

    return jax.lax.map(without, contributions(head.kernel), batch_size=copies)


def reference_values(activation: Float[Array, "*space K"]) -> Float[Array, " K"]:
    """What pytorch-grad-cam 1.5.7 sets each channel to.

    Zero, if the least value of the activation is exactly zero. Otherwise, within each batch of 32 channels, the least
    value in the batch so far less 1e7, which is about −1e7, −2e7, … −32e7: a ReLU behind a normalisation of positive
    gain turns these into zero, a LayerNorm into a channel that drowns all others.

    Args:
        activation: of one image.

    Returns:
        One value per channel, in the activation's type.
    """

    def lower(least: Array, _: None) -> tuple[Array, Array]:
        value = jnp.where(least == 0, least, least - REFERENCE_STEP)
        return value, value

    of_batch = jax.lax.scan(lower, activation.min(), length=REFERENCE_BATCH)[1]
    count = activation.shape[-1]
    return jnp.tile(of_batch, -(-count // REFERENCE_BATCH))[:count]

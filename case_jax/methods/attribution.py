"""What input attributions share: gradients with respect to the image, and how the colours of a pixel become one number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import Query
from case_jax.methods.cam import of_existing
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.tap.relu import replace_relus
from case_jax.tap.view import View, at_least_float32

Reduce = Callable[[Float[Array, "*space D"]], Float[Array, "*space_D"]]
"""A signed attribution of every colour of every pixel to what is kept of it."""


def signed(attribution: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """The attribution as it is."""
    return attribution


def strongest(attribution: Float[Array, "*n D"]) -> Float[Array, "*n"]:
    """`max_d |a[..,d]|`: for gradients, whose sign says only whether a colour should grow or shrink."""
    return jnp.abs(attribution).max(-1)


def of_targets(
    view: View,
    targets: Int[Array, " T"],
    function: Callable[[Float[Array, " C"]], Float[Array, "*n"]],
    *,
    chunk: int | None = None,
) -> Float[Array, "T *n"]:
    """`function` of each target's unit vector, `chunk` targets (by default the view's) in memory at once; NaN for no class."""

    def one(target: Array) -> Array:
        return function(jax.nn.one_hot(target, view.logits.shape[0], dtype=view.logits.dtype))

    return of_existing(view, Query(targets), map_in_chunks(one, targets, chunk=chunk or view.chunk))


def gradients(
    view: View,
    targets: Int[Array, " T"],
    reduce: Reduce,
    *,
    predict: Callable[[Float[Array, "*space D"]], Float[Array, " C"]] | None = None,
) -> Float[Array, "T *space_D"]:
    """`reduce(∂y_t/∂x)` of each target, at least in float32, from one forward pass of `predict` (by default the classifier)."""
    _, pull = jax.vjp(predict or view.predict, view.image)
    return of_targets(view, targets, lambda row: reduce(at_least_float32(pull(row)[0])))


def rectified_gradients(
    view: View, targets: Int[Array, " T"], reduce: Reduce, relu: Callable[[Array], Array], *, partial: bool = False
) -> Float[Array, "T *space_D"]:
    """`gradients` with `relu` in place of each ReLU; zero for a classifier without any, never its plain gradient in silence.

    Raises:
        CaseJaxError: when a ReLU lies inside a loop or branch; for a classifier of ReLUs and gates of other kinds, unless `partial`.
    """
    predict, units = replace_relus(view.predict, relu, view.image)
    others = ", ".join(f"{count} {name}" for name, count in units.others.items())
    require(
        partial or not units.relus or not others,
        "partial",
        f"False for a network with {units.relus} ReLU{'s' * (units.relus > 1)} and gates of other kinds ({others}), through which the plain gradient would pass",
        "a network whose gates are ReLUs alone, or partial=True, which changes the rule of the ReLUs and leaves the others; else leave out "
        "guided backprop and deconvolution",
    )
    if units.relus == 0:
        return of_targets(view, targets, lambda row: reduce(jnp.zeros_like(at_least_float32(view.image))))
    return gradients(view, targets, reduce, predict=predict)


def summed_gradients(
    view: View,
    targets: Int[Array, " T"],
    reduce: Reduce,
    point: Callable[[Any], Float[Array, "*space D"]],
    inputs: Any,
    weights: Float[np.ndarray, " n"],
    *,
    batch: int,
) -> Float[Array, "T *space_D"]:
    """`reduce(Σ_i w_i ∂y_t/∂x at point(inputs_i))` of each target.

    Points are passed forward once for all the targets that are in memory together, `batch` points and `view.chunk // batch` targets
    (at least one) at a time.

    Raises:
        CaseJaxError: for a batch below 1.
    """
    require(batch >= 1, "batch", batch, "a number of images in memory at once of at least 1")
    entries = inputs, jnp.asarray(weights, at_least_float32(view.image).dtype)
    odd = len(weights) % batch

    def of_one(row: Array) -> Array:
        def gradient(image: Array) -> Array:
            return at_least_float32(jax.vjp(view.predict, image)[1](row)[0])

        def add(total: Array, piece: Any) -> tuple[Array, None]:
            found = jax.vmap(gradient)(jax.vmap(point)(piece[0]))
            return total + jnp.tensordot(piece[1], found, 1, precision=jax.lax.Precision.HIGHEST), None

        total = jnp.zeros_like(at_least_float32(view.image))
        if odd:
            total, _ = add(total, jax.tree.map(lambda a: a[:odd], entries))
        pieces = jax.tree.map(lambda a: a[odd:].reshape(-1, batch, *a.shape[1:]), entries)
        return reduce(jax.lax.scan(cpu_convolutions(add), total, pieces)[0])

    return of_targets(view, targets, of_one, chunk=max(1, view.chunk // batch))


def baseline_image(view: View, baseline: Any) -> Float[Array, "*space D"]:
    """The image that stands for nothing: zeros, the data set's mean, unless given.

    Raises:
        CaseJaxError: for a baseline that does not broadcast to the image.
    """
    if baseline is None:
        return jnp.zeros_like(view.image)
    given = jnp.asarray(baseline, view.image.dtype)
    try:
        return jnp.broadcast_to(given, view.image.shape)
    except ValueError:
        raise CaseJaxError(
            f"baseline: got shape {given.shape}; accepted: a number, one pixel ({view.image.shape[-1]},) or an image "
            f"{view.image.shape}, in normalised units."
        ) from None

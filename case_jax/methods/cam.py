"""What all class activation maps share: a weighted sum of the channels, its positive part, a class's gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import Query
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.view import View, at_least_float32

CANCELLED = 1e-5


def class_maps(activation: Float[Array, "H W K"], weights: Float[Array, "T K"]) -> Float[Array, "T H W"]:
    """`S_t[h,w] = Σ_k weights[t,k] A[h,w,k]`, before any rectification."""
    return jnp.einsum("hwk,tk->thw", at_least_float32(activation), weights, precision=jax.lax.Precision.HIGHEST)


def positive_maps(activation: Float[Array, "H W K"], weights: Float[Array, "T K"]) -> Float[Array, "T H W"]:
    """`relu(Σ_k weights[t,k] A[h,w,k])`."""
    return jax.nn.relu(class_maps(activation, weights))


def contrast_of(query: Query) -> Array:
    """The query's contrast sets, or an error that says how to give them."""
    if query.contrast is None:
        raise CaseJaxError(
            "contrast: this method contrasts each target with other classes, and the query has none; "
            "build it with ask(view, targets, contrast), for example contrast = topk_logits(5, C)."
        )
    return query.contrast


def of_existing(view: View, query: Query, values: Float[Array, "T *n"]) -> Float[Array, "T *n"]:
    """The values of each target, NaN for a class that the model does not have: never another class's in silence."""
    exists = (query.targets >= 0) & (query.targets < view.logits.shape[0])
    return jnp.where(exists.reshape(-1, *(1,) * (values.ndim - 1)), values, jnp.nan)


def of_gradients(
    view: View, query: Query, function: Callable[[Float[Array, "H W K"], Float[Array, "H W K"]], Float[Array, "*n"]]
) -> Float[Array, "T *n"]:
    """`function(∂y_t/∂A, A)` of each target t, both at least in float32.

    The gradients of at most `view.chunk` targets are in memory at once, so the function should return something small:
    a vector of channel weights, or a map.
    """
    activation = at_least_float32(view.activation)

    def one(target: Array) -> Array:
        row = jax.nn.one_hot(target, view.logits.shape[0], dtype=view.logits.dtype)
        return function(at_least_float32(view.pull(row)), activation)

    return of_existing(view, query, map_in_chunks(one, query.targets, chunk=view.chunk))


def cancels(total: Float[Array, "*n"], terms: Float[Array, "*n K"], dtype: Any) -> Bool[Array, ""]:
    """Whether a sum over channels is rounding noise everywhere: `max |total| ≤ 1e-5 · max Σ_k |terms|`.

    For terms that were computed in bfloat16 or float16 (`dtype`) the bound is that type's rounding unit.
    """
    bound = max(CANCELLED, float(jnp.finfo(dtype).eps))
    return jnp.abs(total).max() <= bound * jnp.abs(terms).sum(-1).max()


def principal_map(values: Float[Array, "H W K"], dtype: Any) -> Float[Array, "H W"]:
    """Projection of the positions on the first principal direction of the channels.

    `p = X v`, with X the (HW, K) matrix of the values less each channel's mean, v its first right singular vector. The
    sign, which the decomposition leaves open, makes p correlate positively with `Σ_k values`; where that sum is the
    same at all positions but for rounding (`cancels`), it makes the value of p furthest from zero positive.

    X is divided by its largest magnitude, so that squares neither overflow nor vanish. The eigenvectors are those of
    the smaller of X Xᵀ and Xᵀ X: the first of them is as accurate as that of a singular value decomposition, only the
    last ones lose digits. One more multiplication with X Xᵀ removes most of what is left of the others.

    Args:
        values: of one image, at least float32.
        dtype: the type that they were computed in.

    Returns:
        The projection, of mean zero; zero for values that are the same at all positions. Where the two largest singular
        values are equal, so that every direction of a plane would do, one of them.
    """
    rows = values.reshape(-1, values.shape[-1])
    centred = rows - rows.mean(0)
    largest = jnp.abs(centred).max()
    x = centred / jnp.where(largest > 0, largest, 1.0)

    def times(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    wide = x.shape[0] <= x.shape[1]
    vector = jnp.linalg.eigh(times(x, x.T) if wide else times(x.T, x))[1][:, -1]
    direction = times(x.T, vector) if wide else times(x.T, times(x, vector))
    length = jnp.linalg.norm(direction)
    projection = times(x, direction / jnp.where(length > 0, length, 1.0))

    total = x.sum(-1)
    noise = cancels(total * largest, rows, dtype)
    towards = jnp.where(noise, projection[jnp.abs(projection).argmax()], (projection * total).sum())
    return (jnp.where(towards < 0, -projection, projection) * largest).reshape(values.shape[:2])


def copies_at_once(view: View, batch: int | None) -> int:
    """How many altered copies pass through the classifier at once: `batch`, or the view's chunk.

    Raises:
        CaseJaxError: for a batch below 1.
    """
    require(
        batch is None or batch >= 1, "batch", batch, "a number of copies of at least 1, or None for the view's chunk"
    )
    return view.chunk if batch is None else batch

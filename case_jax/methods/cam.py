"""What all class activation maps share: a weighted sum of the channels, its positive part, a class's gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import Query
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.view import View, at_least_float32

CANCELLED = 1e-5


def class_maps(activation: Float[Array, "*space K"], weights: Float[Array, "T K"]) -> Float[Array, "T *space"]:
    """`S_t[p] = Σ_k weights[t,k] A[p,k]` at every position p, before any rectification."""
    return jnp.einsum("...k,tk->t...", at_least_float32(activation), weights, precision=jax.lax.Precision.HIGHEST)


def evidence(maps: Float[Array, "T *space"], sign: int) -> Float[Array, "T *space"]:
    """`relu(sign · maps)`: what speaks for a class (1), or against it (−1).

    Raises:
        CaseJaxError: for another sign.
    """
    require(
        sign in (1, -1), "sign", sign, "1, evidence for the class, or -1, evidence against it (counterfactual maps)"
    )
    return jax.nn.relu(maps if sign == 1 else -maps)


def positive_maps(
    activation: Float[Array, "*space K"], weights: Float[Array, "T K"], *, sign: int = 1
) -> Float[Array, "T *space"]:
    """`relu(sign · Σ_k weights[t,k] A[p,k])`; raises as `evidence`."""
    return evidence(class_maps(activation, weights), sign)


def contrast_of(query: Query) -> Int[Array, "T k"]:
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
    view: View,
    query: Query,
    function: Callable[[Float[Array, "*space K"], Float[Array, "*space K"]], Float[Array, "*n"]],
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


def _product(a: Float[Array, "n m"], b: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def leading_vector(gram: Float[Array, "n n"]) -> Float[Array, " n"]:
    """A multiple of the leading eigenvector of a symmetric matrix without negative eigenvalues, by repeated squaring.

    `G ← (G / tr G)²`, m + 4 times for numbers of m bits (23 in float32). What is left is `G^(2^(m+4))`, scaled: of the
    direction of an eigenvalue that is smaller by 2⁻ᵐ of the largest, e⁻¹⁶ or 1e-7. So it is `v vᵀ`, scaled, and the
    column with the largest diagonal entry, in which rounding counts least, is v.

    Made of matrix products alone, because a step must not call LAPACK: on CPU such a call hands the images of a batch to the
    threads that run the steps and waits for them in one of these, and with as many devices as threads it waits for ever.

    Returns:
        The vector, its length and sign open; zero for a zero matrix. Where the two largest eigenvalues are equal, one
        vector of their plane.
    """

    def squared(_: Any, power: Array) -> Array:
        trace = jnp.trace(power)
        scaled = power / jnp.where(trace == 0, 1.0, trace)
        return _product(scaled, scaled)

    power = jax.lax.fori_loop(0, jnp.finfo(gram.dtype).nmant + 4, squared, gram)
    return power[:, jnp.diagonal(power).argmax()]


def principal_map(values: Float[Array, "*space K"], dtype: Any) -> Float[Array, "*space"]:
    """Projection of the positions on the first principal direction of the channels.

    `p = X v`, with X the (positions, K) matrix of the values less each channel's mean, v its first right singular vector. The
    sign, which the decomposition leaves open, makes p correlate positively with `Σ_k values`; where that sum is the
    same at all positions but for rounding (`cancels`), it makes the value of p furthest from zero positive.

    X is divided by its largest magnitude, so that squares neither overflow nor vanish. The direction comes from the
    smaller of X Xᵀ and Xᵀ X (`leading_vector`), and one more multiplication with X and Xᵀ removes most of what is left
    of the others. Against a singular value decomposition in float64 a map in float32 errs by 1e-7 of its largest value where
    the second singular value is half the first, and by some 1e-8 over the relative difference of the two where they are close.

    Args:
        values: of one image, at least float32.
        dtype: the type that they were computed in.

    Returns:
        The projection, of mean zero; zero for values that are the same at all positions; NaN where one is not finite.
        Where the two largest singular values are equal, so that every direction of a plane would do, one of them: which,
        rounding decides, the same way whenever the same program is given the same values. Differentiable elsewhere.
    """
    rows = values.reshape(-1, values.shape[-1])
    centred = rows - rows.mean(0)
    largest = jnp.abs(centred).max()
    x = centred / jnp.where(largest > 0, largest, 1.0)

    wide = x.shape[0] <= x.shape[1]
    vector = leading_vector(_product(x, x.T) if wide else _product(x.T, x))
    direction = _product(x.T, vector if wide else _product(x, vector))
    length = jnp.linalg.norm(direction)
    projection = _product(x, direction / jnp.where(length > 0, length, 1.0))

    return towards_sum(projection * largest, rows, dtype).reshape(values.shape[:-1])


def towards_sum(component: Float[Array, " n"], rows: Float[Array, "n K"], dtype: Any) -> Float[Array, " n"]:
    """A component whose sign is open, of mean zero, with the sign for which it correlates positively with the sum of each row.

    Where that sum is the same in all rows but for rounding (`cancels`, of values computed in `dtype`), the value furthest from zero is positive.
    """
    total = (rows - rows.mean(0)).sum(-1)
    noise = cancels(total, rows, dtype)
    size = jnp.abs(total).max()
    along = (component * (total / jnp.where(size > 0, size, 1.0))).sum()
    return jnp.where(jnp.where(noise, component[jnp.abs(component).argmax()], along) < 0, -component, component)


def copies_at_once(view: View, batch: int | None) -> int:
    """How many altered copies pass through the classifier at once: `batch`, or the view's chunk.

    Raises:
        CaseJaxError: for a batch below 1.
    """
    require(
        batch is None or batch >= 1, "batch", batch, "a number of copies of at least 1, or None for the view's chunk"
    )
    return view.chunk if batch is None else batch

"""Depthwise convolutions as sums of shifted maps on CPU, where XLA's own code takes one position at a time."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Primitive
from jax.extend.core.primitives import conv_general_dilated_p
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from case_jax import parallel
from case_jax.tap.head import at_least_float32
from case_jax.tap.rewriting import each_equation, retraced

UNROLLED = 64
"""Most kernel positions that are written one after the other, 7×7 among them; of larger kernels one row after the other."""


def fast_depthwise(function: Callable) -> Callable:
    """The same function whose depthwise convolutions have fast code on CPU, too.

    On CPU XLA computes a convolution with as many groups as channels one position and channel after the other. There it becomes a sum over the
    kernel's positions, `y[p] = Σ_t x[s·p + t] ⊙ k[t]`, of maps shifted by t with all their channels; so does its gradient in x, and that in k
    a sum over the rows of the map. For any size, stride, dilation and padding, and one kernel per channel; other convolutions, and all on
    other devices, are left as they are.

    Args:
        function: arrays to a pytree of arrays. Calls, loops and branches are reached; custom derivative rules stay, and what they compute
            is left as it is.

    Returns:
        A function of the same arguments and results, equal up to the order of summation, that JAX transforms as before: both modes of
        differentiation, any order, batches and devices.
    """
    return retraced(function, partial(each_equation, change=_replaced))


def _replaced(eqn: JaxprEqn) -> JaxprEqn:
    return eqn.replace(primitive=depthwise_p) if _is_depthwise(eqn) else eqn


def _is_depthwise(eqn: JaxprEqn) -> bool:
    """Whether an equation is a convolution with one kernel per channel, or the gradient of one in the image or in the kernel."""
    if eqn.primitive is not conv_general_dilated_p:
        return False
    avals: list[Any] = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    image, kernel, out = avals
    empty = 0 in (*image.shape, *kernel.shape, *out.shape)
    if empty or image.ndim == 2 or not jnp.issubdtype(image.dtype, jnp.floating):
        return False
    spec, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    channels = kernel.shape[spec.rhs_spec[0]]
    if groups == 1:  # the gradient in the kernel has them on the axis of its batch
        return 1 < eqn.params["batch_group_count"] == image.shape[spec.lhs_spec[0]] == channels
    return groups == image.shape[spec.lhs_spec[1]] == channels


def _plain(image: Array, kernel: Array, **params: Any) -> Array:
    return conv_general_dilated_p.bind(image, kernel, **params)


def _shifted(image: Array, kernel: Array, **params: Any) -> Array:
    """The same by slices, products and sums; N images, C channels, weights of one kernel or, in its gradient, of N."""
    image_spec, kernel_spec, out_spec = params["dimension_numbers"]
    of_kernel = params["batch_group_count"] > 1
    batch, channels = image_spec[:2][::-1] if of_kernel else image_spec[:2]
    x = jnp.transpose(at_least_float32(image), (batch, *image_spec[2:], channels))
    weights = jnp.transpose(at_least_float32(kernel), (kernel_spec[1], *kernel_spec[2:], kernel_spec[0]))
    edges = [(*edge, gap - 1) for edge, gap in zip(params["padding"], params["lhs_dilation"], strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    # Without these barriers XLA fuses the sum into its neighbours, which compute it again for each value that they need.
    x = jax.lax.optimization_barrier(x)
    out = _summed(x, weights, params["window_strides"], params["rhs_dilation"], of_kernel=of_kernel)
    out = jax.lax.optimization_barrier(out.astype(params["preferred_element_type"] or image.dtype))
    return jnp.transpose(out, np.argsort((out_spec[0], *out_spec[2:], out_spec[1])).tolist())


def _summed(x: Array, weights: Array, strides: Sequence[int], dilations: Sequence[int], *, of_kernel: bool) -> Array:
    """`Σ_t x[n, s·p + d·t, c] w[t, c]` for all p, or in the kernel's gradient with the sum over n, too, a row of weights after the other.

    Args:
        x: padded images (N, *spatial, C).
        weights: (1, *spatial, C), or in the kernel's gradient (N, *spatial, C).
        strides: s.
        dilations: d.
        of_kernel: whether the weights are a gradient.
    """
    *rows, width, channels = weights.shape
    axes = zip(x.shape[1:-1], weights.shape[1:-1], strides, dilations, strict=True)
    sizes = [(length - d * (count - 1) - 1) // s + 1 for length, count, s, d in axes]
    reach = [s * (size - 1) + 1 for size, s in zip(sizes[:-1], strides, strict=False)]
    images = len(x) // len(weights)
    flat = weights.reshape(-1, width, channels)

    def windows(number: Any) -> Array:
        """What one row of weights meets, (images, *sizes[:-1], whole last axis, C)."""
        image, *place = jnp.unravel_index(number, rows)
        starts = (image, *(i * d for i, d in zip(place, dilations, strict=False)), 0, 0)
        slab = jax.lax.dynamic_slice(x, starts, (images, *reach, *x.shape[-2:]))
        return slab[(slice(None), *(slice(None, None, s) for s in strides[:-1]))]

    def at(slab: Array, start: int, count: int, step: int) -> Array:
        return jax.lax.slice_in_dim(slab, start, start + step * (count - 1) + 1, step, axis=slab.ndim - 2)

    def term(number: Any) -> Array:
        slab, row = windows(number), flat[number]
        if of_kernel:
            shares = ((at(slab, j * strides[-1], width, dilations[-1]) * row).sum(-2) for j in range(sizes[-1]))
            return jnp.stack(list(shares), -2)
        return reduce(jnp.add, (at(slab, j * dilations[-1], sizes[-1], strides[-1]) * row[j] for j in range(width)))

    if not of_kernel and math.prod(rows) * width <= UNROLLED:
        return reduce(jnp.add, map(term, range(len(flat))))
    return jax.lax.fori_loop(1, len(flat), lambda number, total: total + term(number), term(0))


@cache
def _compiled(params: tuple[tuple[str, Any], ...]) -> Callable:
    return parallel.on_one_device(partial(depthwise_p.bind, **dict(params)))


def _evaluated(image: Array, kernel: Array, **params: Any) -> Array:
    return _compiled(tuple(params.items()))(image, kernel)


def _transposed(cotangent: Any, image: Any, kernel: Any, **params: Any) -> tuple[Any, Any]:
    """JAX's own rule for the gradient in the one that is not known, its convolution replaced."""
    rule = ad.get_primitive_transpose(conv_general_dilated_p)
    if ad.is_undefined_primal(image):
        return fast_depthwise(lambda ct, kernel: rule(ct, image, kernel, **params)[0])(cotangent, kernel), None
    return None, fast_depthwise(lambda ct, image: rule(ct, image, kernel, **params)[1])(cotangent, image)


def _batched(args: Sequence[Array], axes: Sequence[int | None], **params: Any) -> tuple[Array, int]:
    """JAX's own rule, its convolution replaced where it is still depthwise."""
    return fast_depthwise(jax.vmap(partial(_plain, **params), tuple(axes)))(*args), 0


depthwise_p = Primitive(conv_general_dilated_p.name)
"""To JAX the very convolution, with its name, parameters and results, so that whatever reads programs reads it as before.

Its derivatives and batches are JAX's own with what is depthwise in them replaced again. Only the code that CPUs are given is another.
"""
depthwise_p.def_impl(_evaluated)
depthwise_p.def_effectful_abstract_eval(conv_general_dilated_p.abstract_eval)
mlir.register_lowering(depthwise_p, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(depthwise_p, mlir.lower_fun(_shifted, multiple_results=False), platform="cpu")
ad.defjvp(
    depthwise_p,
    lambda tangent, image, kernel, **params: depthwise_p.bind(tangent, kernel, **params),
    lambda tangent, image, kernel, **params: depthwise_p.bind(image, tangent, **params),
)
ad.primitive_transposes[depthwise_p] = _transposed
batching.primitive_batchers[depthwise_p] = _batched

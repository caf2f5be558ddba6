"""A function over many inputs, a bounded number at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

UNROLLED = 16
"""Up to this many chunks are unrolled: XLA's CPU back end runs the gradient of a convolution tens of times slower inside a loop."""


def map_in_chunks(function: Callable[[Any], Any], inputs: Any, *, chunk: int) -> Any:
    """`jax.vmap(function)(inputs)`, computed `chunk` inputs at a time.

    Up to `UNROLLED` chunks are unrolled, each waiting for the one before it; the compiler may still overlap parts of
    neighbours. Beyond that they run in a loop, and no more than `chunk` inputs are in memory at once.

    Args:
        function: one input to a pytree of arrays.
        inputs: a pytree of arrays with a common leading axis.
        chunk: inputs per step, at least 1.
    """
    count = len(jax.tree.leaves(inputs)[0])
    if count > UNROLLED * chunk:
        return jax.lax.map(function, inputs, batch_size=chunk)
    parts: list[Any] = []
    for start in range(0, count, chunk):
        piece = jax.tree.map(lambda a, i=start: a[i : i + chunk], inputs)
        if parts:
            piece, _ = jax.lax.optimization_barrier((piece, parts[-1]))
        parts.append(jax.vmap(function)(piece))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *a: jnp.concatenate(a), *parts)

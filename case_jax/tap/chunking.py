"""A function over many inputs, a bounded number at a time."""

from collections.abc import Callable
from typing import Any

import jax

from case_jax.tap.cpu_convolutions import cpu_convolutions


def map_in_chunks(function: Callable[[Any], Any], inputs: Any, *, chunk: int) -> Any:
    """`jax.vmap(function)(inputs)`, with no more than `chunk` inputs in memory at once.

    Args:
        function: one input to a pytree of arrays.
        inputs: a pytree of arrays with a common leading axis.
        chunk: inputs per step, at least 1.
    """
    count = len(jax.tree.leaves(inputs)[0])
    if count <= chunk:
        return jax.vmap(function)(inputs)
    return jax.lax.map(cpu_convolutions(function), inputs, batch_size=chunk)

"""One update by an optax optimiser."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float


def updated(
    optimiser: optax.GradientTransformation,
    gradient: Any,
    memory: Any,
    params: Any,
    *,
    rate: Float[Array, ""] | None = None,
) -> tuple[Any, Any]:
    """Parameters and the optimiser's memory after one step; optax mixes types that JAX's strict promotion refuses.

    Args:
        optimiser: from optax.
        gradient: of the parameters.
        memory: the optimiser's.
        params: before the step.
        rate: learning rate, for an optimiser that has none of its own.
    """
    with jax.numpy_dtype_promotion("standard"):
        updates, memory = optimiser.update(gradient, memory, params)
    if rate is not None:
        updates = jax.tree.map(lambda u: -rate * u, updates)
    return optax.apply_updates(params, updates), memory

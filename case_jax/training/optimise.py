"""One update by an optax optimiser."""

from typing import Any

import jax
import optax


def updated(optimiser: optax.GradientTransformation, gradient: Any, memory: Any, params: Any) -> tuple[Any, Any]:
    """Parameters and the optimiser's memory after one step; optax mixes types that JAX's strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        updates, memory = optimiser.update(gradient, memory, params)
    return optax.apply_updates(params, updates), memory

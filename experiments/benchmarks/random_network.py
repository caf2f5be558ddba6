"""Full-size networks without their weights: no time depends on the values."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from case_jax.models import model as entry_of
from case_jax.models.weights import abstract


def random_network(name: str) -> nnx.Module:
    """A full-size network with random weights of the usual size, and neutral statistics."""
    module = abstract(entry_of(name).build, 1000)
    rng = np.random.default_rng(0)

    def drawn(path: tuple[Any, ...], variable: Any) -> Any:
        shape = tuple(variable.shape)
        if path[-1] == "kernel" or len(shape) > 1:
            fan_in = max(1, math.prod(shape[:-1]))
            return jnp.asarray(rng.standard_normal(shape, np.float32) * math.sqrt(2 / fan_in))
        return jnp.ones(shape) if path[-1] in ("scale", "var", "layer_scale") else jnp.zeros(shape)

    flat = nnx.to_flat_state(nnx.state(module))
    nnx.update(module, nnx.from_flat_state({path: v.replace(drawn(path, v)) for path, v in flat}))
    return module

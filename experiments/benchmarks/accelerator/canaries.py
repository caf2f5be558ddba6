"""Tiny expressions that JAX has computed wrong before, beside NumPy's answers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BOUND = 1e-5
"""Of the largest value: what float32 sums of these lengths may differ by."""


def product_summed_twice(xp: Any, x: Any, g: Any) -> Any:
    """Wrong in jax 0.10.2 on CPU."""
    return xp.maximum((x * g.sum(1)).sum(-1), 0)


def product_with_a_constant_matrix(xp: Any, e: Any) -> Any:
    """Wrong in jax 0.11.2 on CPU."""
    return ((e @ xp.full_like(e, 0.5)) * e).sum(-1)


def check() -> dict[str, Any]:
    """Which of the expressions are wrong here, compiled, and the largest difference as a share of the largest value."""
    rng = np.random.default_rng(0)
    asked = (
        (product_summed_twice, [rng.standard_normal(s, np.float32) for s in ((96, 96, 3), (4, 8, 96, 96, 3))]),
        (product_with_a_constant_matrix, [rng.standard_normal((64, 64), np.float32)]),
    )
    errors = {}
    for expression, given in asked:
        expected = expression(np, *(a.astype(np.float64) for a in given))
        found = np.asarray(jax.jit(lambda *a, f=expression: f(jnp, *a))(*given))
        errors[expression.__name__] = float(np.abs(found - expected).max() / np.abs(expected).max())
    wrong = [f"{name} ({error:.1e})" for name, error in errors.items() if not error <= BOUND]
    return {"expressions": len(errors), "largest_difference": max(errors.values()), "wrong": ", ".join(wrong) or "none"}

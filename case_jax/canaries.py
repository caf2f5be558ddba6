"""Tiny programs whose results NumPy knows: JAX has computed wrong numbers on CPUs before, without a word."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import parallel

BOUND = 1e-4
"""Largest error of a program that counts as right, as a share of its largest value; float32 leaves some 1e-7."""


class Canary(NamedTuple):
    """An expression, once for JAX and once for NumPy."""

    words: str
    shapes: tuple[tuple[int, ...], ...]
    """Of its arguments, standard normal."""
    compiled: Callable[..., Any]
    exact: Callable[..., Any]
    """The same in NumPy; it gets float64."""


def _conv_gradients(image: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Any:
    def convolved(x: jax.Array, k: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return jax.vjp(convolved, image, kernel)[1](cotangent)


def _conv_gradients_by_hand(image: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray) -> Any:
    of_image, of_kernel, (height, width) = np.zeros_like(image), np.zeros_like(kernel), cotangent.shape[1:3]
    for a, b in np.ndindex(kernel.shape[:2]):
        window = (slice(None), slice(a, a + 2 * height, 2), slice(b, b + 2 * width, 2))
        of_image[window] += cotangent @ kernel[a, b].T
        of_kernel[a, b] = np.einsum("nhwc,nhwo->co", image[window], cotangent)
    return of_image, of_kernel


CANARIES = (
    Canary(  # jax 0.10.2
        "relu((x * g.sum(1)).sum(-1))",
        ((96, 96, 3), (4, 8, 96, 96, 3)),
        lambda x, g: jax.nn.relu((x * g.sum(1)).sum(-1)),
        lambda x, g: np.maximum((x * g.sum(1)).sum(-1), 0),
    ),
    Canary(  # jax 0.10.2 to 0.12.0.1
        "((E @ full_like(E, c)) * E).sum(-1)",
        ((64, 64),),
        lambda E: ((E @ jnp.full_like(E, 0.5)) * E).sum(-1),
        lambda E: ((E @ np.full_like(E, 0.5)) * E).sum(-1),
    ),
    Canary(  # the same; here without memory that nobody has written, so with the same error each time
        "(einsum('ij,jk->ik', E, full((3, 3), c)) * E).sum()",
        ((2000, 3),),
        lambda E: (jnp.einsum("ij,jk->ik", E, jnp.full((3, 3), 0.5, E.dtype)) * E).sum(),
        lambda E: (np.einsum("ij,jk->ik", E, np.full((3, 3), 0.5)) * E).sum(),
    ),
    Canary(  # jax 0.10.2 (https://github.com/jax-ml/jax/issues/39103)
        "vmap(sum((M @ row) ** 2))",
        ((3, 3), (32769, 3)),
        lambda M, rows: jax.vmap(lambda row: ((M @ row) ** 2).sum())(rows),
        lambda M, rows: ((rows @ M.T) ** 2).sum(-1),
    ),
    Canary(
        "the gradients of a convolution",
        ((2, 17, 17, 4), (3, 3, 4, 8), (2, 8, 8, 8)),
        _conv_gradients,
        _conv_gradients_by_hand,
    ),
    Canary(
        "a map enlarged by two matrices",
        ((48, 7), (4, 7, 7), (48, 7)),
        lambda rows, maps, columns: jnp.einsum("Hh,nhw,Ww->nHW", rows, maps, columns),
        lambda rows, maps, columns: np.einsum("Hh,nhw,Ww->nHW", rows, maps, columns),
    ),
    Canary(
        "log(exp(x).sum(-1))",
        ((64, 1000),),
        lambda x: jnp.log(jnp.exp(x).sum(-1)),
        lambda x: np.log(np.exp(x).sum(-1)),
    ),
)


def errors() -> dict[str, float]:
    """Compile every expression for the first local device and run it once.

    Returns:
        Expression → largest difference from NumPy, as a share of the largest value; NaN where a result is.
    """
    with ThreadPoolExecutor() as pool:  # nearly all of it is compiling, which leaves the interpreter to the others
        found = list(pool.map(_error, CANARIES, range(len(CANARIES))))
    return {canary.words: error for canary, error in zip(CANARIES, found, strict=True)}


def wrong(found: Mapping[str, float]) -> dict[str, float]:
    """Those of `errors()` that are above the bound, NaN included; none is as it should be."""
    return {words: error for words, error in found.items() if not error <= BOUND}


def _error(canary: Canary, seed: int) -> float:
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(shape, np.float32) for shape in canary.shapes]
    found = jax.tree.leaves(parallel.on_one_device(canary.compiled)(*inputs))
    exact = jax.tree.leaves(canary.exact(*(a.astype(np.float64) for a in inputs)))
    pairs = [(np.asarray(a, np.float64), np.asarray(b)) for a, b in zip(found, exact, strict=True)]
    return float(np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]))

"""How concentrated a mask is: the Gini index of its values, and their entropy."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.tap.head import at_least_float32

COLUMNS = (
    MetricColumn(
        "gini",
        "sparseness",
        "Gini index of the map's values: 0 for a flat map, near 1 for a map of one pixel; it says how concentrated a map is, not where",
        percent=False,
    ),
    MetricColumn(
        "entropy",
        "complexity",
        "entropy of the map as a distribution over the pixels, in nats: the logarithm of the number of pixels for a flat map, 0 for a map of "
        "one pixel; how concentrated a map is, not where",
        percent=False,
    ),
)
GINI_EPS, ENTROPY_EPS = 1e-7, 1e-12


def gini(mask: Float[Array, "*n"]) -> Float[Array, ""]:
    """Sparseness: the Gini index of the mask's values, 0 where all are equal, `1 − 1/n` where one alone is not zero.

    `Σ_i (2i − n − 1) a_i / (n Σ_i a_i)` with `a = sort(|M| + 1e-7)` ascending, i = 1 … n.

    Args:
        mask: one mask, of any shape and scale; batch with `jax.vmap`.

    Returns:
        In [0, 1), in float32 at least; NaN for a mask that is zero everywhere, which has no distribution.

    What wins it without merit: a single pixel. Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, ICML 2020,
    with the constant of Quantus (`Sparseness`), which the evaluation of L-MAC uses.
    """
    size = jnp.abs(at_least_float32(jnp.ravel(mask)))
    ascending, n = jnp.sort(size) + GINI_EPS, size.size
    places = (2 * jnp.arange(1, n + 1) - n - 1).astype(size.dtype) / n  # at most 1, so that no sum is large
    return jnp.where(size.max() > 0, (places * ascending).sum() / ascending.sum(), jnp.nan)


def entropy_complexity(mask: Float[Array, "*n"]) -> Float[Array, ""]:
    """Complexity: the entropy in nats of the mask as a distribution, 0 where one value alone is not zero, `ln n` where all are equal.

    `−Σ_i a_i ln(a_i + 1e-12)` with `a = |M| / Σ |M|`.

    Args:
        mask: one mask, of any shape and scale; batch with `jax.vmap`.

    Returns:
        In [0, ln n], in float32 at least; NaN for a mask that is zero everywhere.

    What wins it without merit: a single pixel. Bhatt, Weller, Moura, Evaluating and Aggregating Feature-based Model Explanations, IJCAI 2020,
    with the constant of Quantus (`Complexity`), which the evaluation of L-MAC uses. It is not the binary entropy of `mask_statistics`, which
    asks whether each pixel by itself is clearly shown or clearly hidden.
    """
    size = jnp.abs(at_least_float32(jnp.ravel(mask)))
    share = size / size.sum()  # 0/0, NaN, for a mask of zeros
    return -(share * jnp.log(share + ENTROPY_EPS)).sum()


def mask_complexity_columns(inputs: MetricInputs) -> dict[str, Array]:
    """Columns `gini` and `entropy` of the top-1 class's finished map; NaN where it is degenerate."""
    found = {"gini": gini(inputs.maps[0]), "entropy": entropy_complexity(inputs.maps[0])}
    return {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in found.items()}

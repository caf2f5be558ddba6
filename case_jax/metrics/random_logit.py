"""The random-logit test: does a method's map change when it is asked about a random other class?"""

import jax.numpy as jnp
from jaxtyping import Array

from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.ssim import ssim

COLUMNS = (
    MetricColumn(
        "ssim_random",
        "SSIM, top-1 and a random class",
        "structural similarity of the maps of the likeliest and of a random other class (the random-logit test); low is "
        "class-sensitive, 1 is one map for both",
        better="low",
        maps="first and random",
        percent=False,
    ),
)


def random_logit_columns(inputs: MetricInputs) -> dict[str, Array]:
    """Column `ssim_random`: `ssim` of the top-1 map and the map of a random other class; NaN where either is degenerate.

    `s = SSIM(E(x, c₁), E(x, c'))`, c' uniform over all classes but the top-1, drawn by the image's key and so the same for every
    method. Sixt, Granz, Landgraf, When Explanations Lie: Why Many Modified BP Attributions Fail (2020, arXiv 1912.09818). Quantus's
    `RandomLogit` flattens both maps to a line, slides a uniform window of 7 along it and scales by the range of the pair; its
    numbers cannot be compared with these. What wins it (a low similarity) without merit: noise that is drawn anew for every class; and a random class
    is mostly one that nobody confuses with the top-1, so that even weakly class-sensitive maps differ.
    """
    unusable = inputs.degenerate[0] | inputs.degenerate[2]
    return {"ssim_random": jnp.where(unusable, jnp.nan, ssim(inputs.maps[0], inputs.maps[2]))}

"""Relative drop: does the class lose more probability than its rival when the top of its map is removed?"""

import jax.numpy as jnp
from jaxtyping import Array

from case_jax.imageops import Fill
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.removals import Removal, removed_from, stacked
from case_jax.tap.link import probability

COLUMNS = (
    MetricColumn(
        "relative_drop",
        "drop, less the rival's",
        "probability that the predicted class loses, less what the second likeliest loses, when the top 5% pixels of the predicted class's map are "
        "removed, in points; high: the map marks what speaks for the class and not for its rival",
        better="high",
    ),
)


def removal(*, percent: float = 5.0, fill: Fill = "mean") -> Removal:
    """What is removed: the top of the first map; options as `relative_drop_columns`."""
    return Removal(fill, first=(float(percent),))


def relative_drop_columns(inputs: MetricInputs, *, percent: float = 5.0, fill: Fill = "mean") -> dict[str, Array]:
    """Column `relative_drop`: `(p_A(x) − p_A(x∖S_A)) − (p_B(x) − p_B(x∖S_A))`, NaN where the map of A is degenerate.

    A and B are the two likeliest classes, S_A the top `percent` of A's finished map. It shares its pass with the metric `fidelity`, which removes
    as much.

    Finer-CAM's relative confidence drop (Zhang et al., CVPR 2025), whose evaluation code is not public: percent and fill are those of the
    rest of this package. What wins it without merit: removing what makes the classifier certain of anything, where the rival has nothing to lose.
    """
    left = stacked(removed_from(inputs, removal(percent=percent, fill=fill))[0], (percent,)).logits[0]
    view, (first, second) = inputs.view, inputs.targets[:2]
    p, q = inputs.probabilities[:2] - jnp.stack([probability(left, c, view.link) for c in (first, second)])
    return {"relative_drop": jnp.where(inputs.degenerate[0], jnp.nan, p - q)}

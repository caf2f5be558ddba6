"""Faithfulness on masked inputs and input fidelity: what the predicted class loses where its map is hidden, and whether its map alone shows it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from case_jax.imageops import masked_image
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.masked_confidence import Space, hidden
from case_jax.tap.link import of_class, probabilities, ranking
from case_jax.tap.view import View

COLUMNS = (
    MetricColumn(
        "faithfulness",
        "faithfulness",
        "probability that the predicted class loses when its map is hidden, 1 − map shown; high is good, but the whole image loses all there is to lose",
        better="high",
    ),
    MetricColumn(
        "input_fidelity",
        "input fidelity",
        "percentage of images whose prediction stays when the map alone is shown; high is good, but the whole image has 100",
        better="high",
    ),
)


class Faithfulness(NamedTuple):
    """What is in a map and in the rest."""

    faithfulness: Float[Array, ""]
    """`p_c(x) − p_c(x ⊙ (1 − M))`."""
    input_fidelity: Float[Array, ""]
    """1 where the likeliest class of `x ⊙ M` is c, else 0."""


def faithfulness(
    view: View,
    saliency: Float[Array, "*space"],
    target: Int[Array, ""] | int,
    *,
    space: Space = "pixels",
    black: Float[Array, " D"] | None = None,
) -> Faithfulness:
    """L-MAC's faithfulness on spectra, `FF = p_c(x) − p_c(x ⊙ (1 − M))`, and its input fidelity, `1[argmax_j y_j(x ⊙ M) = c]`.

    Args:
        view: one image's view.
        saliency: M, one finished map in [0, 1] at the image's resolution.
        target: the class c, the predicted one in the paper.
        space: see `masked_confidence`; spectrograms are not normalised, so that both are the same there.
        black: a black pixel in normalised units, for `pixels`.

    Returns:
        FF between −1 and 1 and the fidelity, whose means over images are the paper's figures. A map of zeros hides nothing in the first and all in
        the second: leave it out.

    Raises:
        CaseJaxError: for another space, or `pixels` without `black`; for the link `identity`.

    Paissan, Ravanelli, Subakan, Listenable Maps for Audio Classifiers, ICML 2024 (arXiv 2403.13086); Parekh et al., Listen to Interpret, NeurIPS 2022.
    """
    ground = hidden(space, black)
    without = view.predict(masked_image(view.image, 1 - saliency, black=ground))
    alone = view.predict(masked_image(view.image, saliency, black=ground))
    before, after = (of_class(probabilities(y, view.link), target) for y in (view.logits, without))
    named = (ranking(alone, view.link).argmax() == target).astype(before.dtype)
    return Faithfulness(before - after, named)


def faithfulness_columns(inputs: MetricInputs, *, space: Space = "pixels") -> dict[str, Array]:
    """Columns `faithfulness` and `input_fidelity` of the top-1 class's map; NaN where it is degenerate."""
    found = faithfulness(inputs.view, inputs.maps[0], inputs.targets[0], space=space, black=inputs.black)
    return {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in found._asdict().items()}

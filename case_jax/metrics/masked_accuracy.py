"""Masked-input accuracy: does the classifier name a class when it sees the image through masks that were made for that class?"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from case_jax._checks import CaseJaxError, require
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs

COLUMNS = (
    MetricColumn(
        "mia_label",
        "masked accuracy, label",
        "percentage of images whose class the classifier names when the image is multiplied with the masks that the method makes for that class; high by "
        "its authors, but the mask is told the answer: read it beside the wrong class",
        maps="any",
    ),
    MetricColumn(
        "mia_predicted",
        "masked accuracy, prediction",
        "percentage of images whose prediction stays under the masks that are made for it; high: the masks do no harm",
        better="high",
        maps="any",
    ),
    MetricColumn(
        "mia_wrong",
        "masked accuracy, wrong class",
        "percentage of images in which masks made for a random class that is not there make the classifier name it; high: masks talk it into "
        "anything, and the accuracy for the label says nothing",
        better="low",
        maps="any",
    ),
)


def masked_accuracy_columns(inputs: MetricInputs, *, rounds: int = 3) -> dict[str, Array]:
    """Columns `mia_label_I`, `mia_predicted_I` and `mia_wrong_I`, I = 0 … rounds, and without a number those of the last round.

    `MIA_i = 1[argmax_j y_j(x ⊙ P_i) = c]`, P_i the product of the masks of i rounds (`methods.masked_rounds`), c the label, the predicted class, and a random
    class that is neither; `MIA_0` of the label is the plain accuracy. The method is asked anew in every round, so that it costs `3 · rounds` maps and passes.

    NaN for the label where it is unknown; for the prediction (and a label that is it) and the random class where their maps of the whole image
    are degenerate, and where the random class happens to be the label. A mask that became all zero in a later round counts as what the classifier says of nothing.

    Raises:
        CaseJaxError: for a run that does not give the method itself; fewer than 1 round.

    Lee and Chang, Recursive Explanation with Attribution Mask, 2021 (arXiv 2102.07332), report the label's. What wins it without merit: a mask that can raise any
    class at will has 100% for the label; the wrong class is 1 − soundness in the sense of Gupta et al. 2022.
    """
    require(rounds >= 1, "rounds", rounds, "a number of rounds of at least 1")
    recursed = inputs.recursed
    if recursed is None:
        raise CaseJaxError(
            "recursed: None was given; masked accuracy needs the method itself, to be asked in each round."
        )
    predicted, wrong = inputs.targets[0], inputs.targets[2]
    label = jnp.asarray(inputs.label, predicted.dtype)
    asked = jnp.stack([jnp.where(label < 0, predicted, label), predicted, wrong])
    named = jax.vmap(lambda c: (recursed(c, rounds).argmax(-1) == c).astype(jnp.float32))(asked)
    first, _, third = inputs.degenerate
    unknown = {
        "label": (label < 0) | ((label == predicted) & first),
        "predicted": first,
        "wrong": third | (wrong == label),
    }
    columns = {}
    for (name, missing), found in zip(unknown.items(), named, strict=True):
        values = jnp.where(missing, jnp.nan, found)
        columns |= {f"mia_{name}_{i}": value for i, value in enumerate(values)} | {f"mia_{name}": values[-1]}
    return columns

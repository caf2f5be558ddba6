"""Class-specific insertion: does what each map marks, shown alone, speak for its own class?"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from case_jax.imageops import Fill, filling
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.pair_scores import (
    by_percent,
    counts_of,
    has_odds,
    offsets_of,
    require_two,
    scores_without,
    shifted,
    top_masks,
)
from case_jax.metrics.specificity import PERCENTS
from case_jax.tap.view import View

COLUMNS = (
    MetricColumn(
        "specificity_insertion",
        "specificity, shown alone",
        "how much further the classifier leans to the likeliest class, in logits against the rival, when it sees the top pixels of that "
        "class's map alone than when it sees those of the rival's, mean over 2, 5, 10 and 20% shown; high: each map holds its own class",
        better="high",
        maps="both",
        percent=False,
    ),
    MetricColumn(
        "sufficiency",
        "sufficiency",
        "how much more the two classes gain on all others, in logits, from the top pixels of a map alone than from a copy of the same "
        "mask moved elsewhere, mean over both maps and 2, 5, 10 and 20% shown; high: the marked place is enough for the pair",
        better="high",
        maps="both",
        percent=False,
    ),
)


class ClassSpecificInsertion(NamedTuple):
    """What showing the top of the maps of classes A and B alone does, for each percentage."""

    specificity: Float[Array, " P"]
    """`m(x|S_A) − m(x|S_B)`."""
    sufficiency: Float[Array, " P"]
    """`½ Σ_{S = S_A, S_B} L(x|S) − L(x|S shifted)`."""


def class_specific_insertion(
    view: View,
    maps: Float[Array, "2 *space"],
    targets: Int[Array, "2"],
    *,
    percents: Sequence[float] = PERCENTS,
    fill: Fill = "mean",
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> ClassSpecificInsertion:
    """Whether the maps of two classes of one image mark what, shown alone, speaks for each its own class.

    With x|S the image with everything but S filled, and S_A, S_B, m, L as in `class_specific_deletion`:
    `specificity_k = m(x|S_A) − m(x|S_B)`, `sufficiency_k = ½ Σ_S L(x|S) − L(x|S shifted)`.

    Args:
        view: one image's view.
        maps: finished maps of A and of B, at the image's resolution.
        targets: A and B, two different classes.
        percents: k, in percent of the pixels.
        fill: what is put in place of all other pixels.
        black: a black pixel in normalised units, for the fill `zero-pixel`.
        key: this image's random key, for the shift and the fill `noise`; without it sufficiency is NaN.

    Returns:
        Two numbers per percentage, in logits; exactly 0, negated and NaN where those of `class_specific_deletion` are. A degenerate map
        ranks by index alone: leave it out.

    Raises:
        CaseJaxError: as `class_specific_deletion`.

    Introduced here. What wins it without merit: pixels whose edges against the fill look like a class; an image that is mostly fill is like none
    that the classifier was trained on, so read it beside the deletion.
    """
    require_two(view, maps, targets)
    other = filling(fill, view.image, black=black, key=key)
    masks = top_masks(maps, counts_of(tuple(percents), maps.shape[1:]))
    offsets = offsets_of(view, key)
    shown = masks if offsets is None else jnp.concatenate([masks, shifted(masks, offsets)], 1)
    margins, odds = scores_without(view, ~shown, other, targets)
    same = (masks[:, 0] == masks[:, 1]).all(tuple(range(1, maps.ndim)))
    specificity = jnp.where(same & jnp.isfinite(margins[:, 0]), 0.0, margins[:, 0] - margins[:, 1])
    unknown = jnp.full(len(masks), jnp.nan)
    sufficiency = unknown if offsets is None else (odds[:, :2] - odds[:, 2:]).mean(1)
    return ClassSpecificInsertion(specificity, sufficiency)


def specificity_insertion_columns(
    inputs: MetricInputs, *, percents: Sequence[float] = PERCENTS, fill: Fill = "mean"
) -> dict[str, Array]:
    """Columns `specificity_insertion_K` and `sufficiency_K` of the two likeliest classes for each percentage K, and their means.

    NaN where either map is degenerate; sufficiency is left out where necessity is. What wins it without merit: see
    `class_specific_insertion`.
    """
    options = {"percents": percents, "fill": fill, "black": inputs.black, "key": inputs.key}
    found = class_specific_insertion(inputs.view, inputs.maps[:2], inputs.targets[:2], **options)
    values = {"specificity_insertion": found.specificity}
    if has_odds(inputs.view):
        values["sufficiency"] = found.sufficiency
    columns = {name: value.mean() for name, value in values.items()}
    columns |= by_percent(values, percents)
    unusable = inputs.degenerate[:2].any()
    return {name: jnp.where(unusable, jnp.nan, value) for name, value in columns.items()}

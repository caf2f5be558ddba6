"""Class-specific deletion: does removing what each map marks hurt its own class, and more than removing as much elsewhere?"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
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
    pair_scores,
    require_two,
    scores_without,
    top_masks,
)
from case_jax.metrics.removals import Left, Removal, left_of, removed_from, stacked
from case_jax.tap.view import View

PERCENTS = (2.0, 5.0, 10.0, 20.0)
RANDOM = 2
"""What is folded into an image's key to draw random pixels; see `pair_scores.SHIFT`."""
COLUMNS = (
    MetricColumn(
        "specificity",
        "specificity",
        "how much further the classifier leans to the likeliest class A, in logits against the rival B, when the top pixels of B's map "
        "are removed than when those of A's are, mean over 2, 5, 10 and 20% removed; high: each map holds its own class. Exactly 0 for a map "
        "that is the same for both, 0 on average for noise, negative for maps exchanged",
        better="high",
        maps="both",
        percent=False,
    ),
    MetricColumn(
        "necessity",
        "necessity",
        "how much more the two classes lose against all others, in logits, when the top pixels of a map are removed than when a copy of "
        "the same mask moved elsewhere is, mean over both maps and 2, 5, 10 and 20% removed; high: the marked place matters to the pair",
        better="high",
        maps="both",
        percent=False,
    ),
    MetricColumn(
        "necessity_random",
        "necessity against random pixels",
        "the same against as many pixels drawn at random; scattered pixels damage an image in another way than a region does, so that "
        "which of the two a map beats is no question of place alone",
        maps="both",
        percent=False,
    ),
    MetricColumn(
        "hurts_own",
        "each hurts its own",
        "percentage of removals at which the lean to A falls without the top of A's map and rises without the top of B's, mean over 2, 5, "
        "10 and 20%; a map that is the same for both has 0, noise about 25",
        maps="both",
    ),
)


class ClassSpecificDeletion(NamedTuple):
    """What removing the top of the maps of classes A and B does, for each percentage."""

    specificity: Float[Array, " P"]
    """`m(x∖S_B) − m(x∖S_A)`, the sum of the next two."""
    lowers_own: Float[Array, " P"]
    """`m(x) − m(x∖S_A)`: how far removing what A's map marks lowers A against B."""
    raises_rival: Float[Array, " P"]
    """`m(x∖S_B) − m(x)`: how far removing what B's map marks lowers B, the rival, against A, and so raises m."""
    hurts_own: Float[Array, " P"]
    """1 where both of these are above 0, else 0."""
    necessity: Float[Array, " P"]
    """`½ Σ_{S = S_A, S_B} [L(x) − L(x∖S)] − [L(x) − L(x∖S shifted)]`."""
    necessity_random: Float[Array, " P"]
    """The same with as many random pixels, drawn anew for A and for B, in place of the shifted mask."""


def class_specific_deletion(
    view: View,
    maps: Float[Array, "2 *space"],
    targets: Int[Array, "2"],
    *,
    percents: Sequence[float] = PERCENTS,
    fill: Fill = "mean",
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> ClassSpecificDeletion:
    """Whether the maps of two classes of one image hold each its own class's evidence, and evidence that the classifier needs.

    With S_A, S_B the top k% of the maps of A and B, x∖S the image with S filled, z the logits, `m = z_A − z_B` and
    `L = logsumexp(z_A, z_B) − logsumexp(all other z)`:
    `specificity_k = m(x∖S_B) − m(x∖S_A)`, `necessity_k = ½ Σ_S L(x∖S shifted) − L(x∖S)`.

    Specificity is exactly 0 for maps that are the same for both classes, 0 in expectation for noise that is drawn alike for both, and
    exactly negated when the maps are exchanged; necessity does not see such an exchange.

    Args:
        view: one image's view.
        maps: finished maps of A and of B, at the image's resolution.
        targets: A and B, two different classes; in an evaluation the two likeliest.
        percents: k, in percent of the pixels.
        fill: what is put in place of removed pixels; `mean` is zero in normalised space.
        black: a black pixel in normalised units, for the fill `zero-pixel`.
        key: this image's random key, for the shift, the random pixels and the fill `noise`; without it both necessities are NaN.

    Returns:
        Six numbers per percentage, in logits but for `hurts_own`. The shift is one for all percentages and for both maps: along each axis
        at least a quarter of the side, around the border, so that a mask at one border is cut and comes in again at the other, and no
        pixel is lost; what it lands on may overlap the mask itself, or the other map's evidence. Both necessities are NaN for a model of
        two classes, which has no others, and under the link `identity`, whose outputs are no logits; m is then the difference of two
        outputs, in their own units. Under the link `sigmoid` L compares labels that may all be true: it is a comparison of logits, not
        log-odds. A degenerate map ranks by index alone: leave it out.

    Raises:
        CaseJaxError: for maps that are not two of the image's size, classes that are the same or do not exist, where that is known, a
            percentage outside (0, 100] or of less than a pixel, an unknown fill, or one without the `black` or `key` that it needs.

    Introduced here. What wins it without merit: nothing class-blind wins specificity, but a map that finds the few pixels on which the two
    classes differ beats one that shows all their evidence, and pixels to which the classifier overreacts count as evidence; necessity is won by
    pointing at whatever all classes need, the whole object say, and by large connected regions where the background is worth nothing.
    """
    require_two(view, maps, targets)
    other = filling(fill, view.image, black=black, key=key)
    counts, offsets = counts_of(tuple(percents), maps.shape[1:]), offsets_of(view, key)
    random_odds = _random_odds(view, targets, counts, other, key)
    left = left_of(view, top_masks(maps, counts).swapaxes(0, 1), other, offsets)
    return _deletion(view, left, targets, random_odds)


def _deletion(
    view: View, left: Left, targets: Int[Array, "2"], random_odds: Float[Array, " P"]
) -> ClassSpecificDeletion:
    """The scores of what is left without the tops of both maps, with leading axes (2, P): map and percentage."""
    whole, (margins, odds) = pair_scores(view, view.logits, targets), pair_scores(view, left.logits, targets)
    # one image has one margin, however its place in a batch rounds it
    own, rival = margins[0], jnp.where((left.mask[0] == left.mask[1]).all(-1), margins[0], margins[1])
    lowers, raises = whole.margin - own, rival - whole.margin
    hurts = jnp.where(jnp.isnan(rival - own), jnp.nan, ((lowers > 0) & (raises > 0)).astype(own.dtype))
    odds = odds.mean(0)
    moved = left.elsewhere
    elsewhere = jnp.full_like(odds, jnp.nan) if moved is None else pair_scores(view, moved, targets).odds.mean(0)
    return ClassSpecificDeletion(rival - own, lowers, raises, hurts, elsewhere - odds, random_odds - odds)


def _random_odds(
    view: View,
    targets: Int[Array, "2"],
    counts: Int[Array, " P"],
    other: Float[Array, "*space D"],
    key: Key[Array, ""] | None,
) -> Float[Array, " P"]:
    """L without so many random pixels, mean of two draws, in each of which fewer pixels are some of the more; NaN where it means nothing."""
    if key is None or not has_odds(view):
        return jnp.full(counts.shape, jnp.nan)
    noise = jax.random.uniform(jax.random.fold_in(key, RANDOM), (2, *view.image.shape[:-1]))
    return scores_without(view, top_masks(noise, counts), other, targets).odds.mean(1)


class OfImage(NamedTuple):
    """What the metric needs of an image whatever the method."""

    random_odds: Float[Array, " P"]
    """L without as many random pixels."""
    oracle: ClassSpecificDeletion | None
    """What removing the true parts of A and of B does, in arrays of one entry; NaN where the image has none of one of them, None where
    the data know no parts."""


def of_image(inputs: MetricInputs, *, percents: Sequence[float] = PERCENTS, fill: Fill = "mean") -> OfImage:
    """What does not depend on the method; options as `specificity_columns`."""
    view, pair, space = inputs.view, inputs.targets[:2], inputs.view.image.shape[:-1]
    other = filling(fill, view.image, black=inputs.black, key=inputs.key)
    random_odds = _random_odds(view, pair, counts_of(tuple(percents), space), other, inputs.key)
    if inputs.regions.shape[0] == 0:
        return OfImage(random_odds, None)
    own = inputs.region_classes == pair[:, None]
    parts = (inputs.regions & own.reshape(*own.shape, *(1,) * len(space))).any(1)
    left = left_of(view, parts[:, None], other, offsets_of(view, inputs.key))
    found = _deletion(view, left, pair, jnp.full(1, jnp.nan))
    known = parts.any(tuple(range(1, parts.ndim))).all()
    return OfImage(random_odds, jax.tree.map(lambda value: jnp.where(known, value, jnp.nan), found))


def removal(*, percents: Sequence[float] = PERCENTS, fill: Fill = "mean") -> Removal:
    """What is removed: the top of both maps; options as `specificity_columns`."""
    return Removal(fill, pair=tuple(percents))


def specificity_columns(
    inputs: MetricInputs, *, percents: Sequence[float] = PERCENTS, fill: Fill = "mean"
) -> dict[str, Array]:
    """The numbers of `class_specific_deletion` of the two likeliest classes, NaN where either map is degenerate.

    Columns `specificity_K`, `lowers_own_K`, `raises_rival_K`, `hurts_own_K`, `necessity_K`, `necessity_random_K` for each percentage K,
    and `specificity`, `hurts_own`, `necessity`, `necessity_random`, their means over all of them. Where evidence is known
    also `specificity_oracle` and `necessity_oracle`, those of the true parts of both classes, the same for every method. The columns of
    necessity are left out for a model of two classes and under the link `identity`.

    What wins it without merit: see `class_specific_deletion`.
    """
    known = of_image(inputs, percents=percents, fill=fill) if inputs.of_image is None else inputs.of_image
    view, pair = inputs.view, inputs.targets[:2]
    lefts = removed_from(inputs, removal(percents=percents, fill=fill))
    left = jax.tree.map(lambda *values: jnp.stack(values), *(stacked(of_map, percents, moved=True) for of_map in lefts))
    found = _deletion(view, left, pair, known.random_odds)._asdict()
    averaged = ("specificity", "hurts_own", "necessity", "necessity_random")
    columns = {name: found[name].mean() for name in averaged}
    columns |= by_percent(found, percents)
    unusable = inputs.degenerate[:2].any()
    columns = {name: jnp.where(unusable, jnp.nan, value) for name, value in columns.items()}
    if known.oracle is not None:
        columns |= {f"{name}_oracle": getattr(known.oracle, name)[0] for name in ("specificity", "necessity")}
    return {name: value for name, value in columns.items() if has_odds(view) or not name.startswith("necessity")}

"""Average drop, average gain and average increase: what is left of a class's probability when the image is multiplied with its map."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from case_jax._checks import require, unknown
from case_jax.imageops import masked_image
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.tap.head import at_least_float32
from case_jax.tap.link import complement, of_class, probabilities
from case_jax.tap.view import View

Space = Literal["pixels", "normalised"]
Form = Literal["plain", "reference-double-softmax"]
COLUMNS = (
    MetricColumn(
        "average_drop",
        "average drop",
        "relative loss of the predicted class's probability when the image is multiplied with its map; low is good, but the whole image, shown by a "
        "map of ones, has 0: read it beside the mean of the map",
    ),
    MetricColumn(
        "average_gain",
        "average gain",
        "by how much the class's probability rises under the mask, in percent of what it lacks to 1; high: the mask hides what speaks against the "
        "class. The whole image has 0",
        better="high",
    ),
    MetricColumn(
        "average_increase",
        "average increase",
        "percentage of images whose class is likelier under the mask than in the whole image; high is good, but the smallest rise counts, so "
        "that a mask that hides next to nothing has about half",
    ),
    MetricColumn(
        "mask_mean",
        "mean of the map",
        "how much of the image the map shows, its mean over all pixels; a map that shows more has an easier drop",
    ),
)


def hidden(space: Space, black: Array | None) -> Array | None:
    """The pixel that takes the place of what is hidden: black, or None for the data set's mean.

    Raises:
        CaseJaxError: for another space, or `pixels` without `black`.
    """
    if space not in get_args(Space):
        raise unknown("space", space, get_args(Space))
    accepted = "a black pixel in normalised units, −mean / std, for space='pixels'"
    require(space == "normalised" or black is not None, "black", black, accepted)
    return black if space == "pixels" else None


class MaskedConfidence(NamedTuple):
    """What a mask does to a class's probability."""

    drop: Float[Array, ""]
    """`max(0, o − m) / o`."""
    gain: Float[Array, ""]
    """`max(0, m − o) / (1 − o)`."""
    increase: Float[Array, ""]
    """1 where m > o, else 0."""
    mask_mean: Float[Array, ""]
    """Mean of the mask."""


def masked_confidence(
    view: View,
    saliency: Float[Array, "*space"],
    target: Int[Array, ""] | int,
    *,
    space: Space = "pixels",
    black: Float[Array, " D"] | None = None,
    form: Form = "plain",
) -> MaskedConfidence:
    """Average drop, average gain and average increase of one map, whose means over images are the figures of papers.

    With `o = p_c(x)` and `m = p_c(x ⊙ S)`: `AD = max(0, o − m) / o`, `AG = max(0, m − o) / (1 − o)`, `AI = 1[m > o]`.

    Args:
        view: one image's view.
        saliency: S, one finished map in [0, 1] at the image's resolution; finished maps were rescaled at the layer's size and then enlarged, as in
            CA-Stream's evaluation, so that S need not reach 0 and 1.
        target: the class c.
        space: where image and map are multiplied: `pixels` before the normalisation, so that what is hidden becomes black, as Opti-CAM and CA-Stream
            do; `normalised` after it, so that it becomes the data set's mean, as xplique and torchcam do.
        black: a black pixel in normalised units, for `pixels`.
        form: of the average drop: `plain`, or `reference-double-softmax` as L-MAC's public code prints it (see `double_softmax_drop`), for comparison with
            its numbers and with nothing else.

    Returns:
        The three as shares, not percentages, and the mean of S. 1 − o is the sum of the other probabilities, and differences are taken
        between whichever of p and 1 − p is smaller, so that nothing cancels where o is near 1. AG is 0 where 1 − o underflows. A map of ones has
        exactly 0 in all three; a map of zeros hides everything: leave it out.

    Raises:
        CaseJaxError: for another space, or `pixels` without `black`; for the link `identity`, and a class that does not exist where that is known.

    Chattopadhyay et al., Grad-CAM++, WACV 2018 (drop, and increase in confidence); Zhang et al., Opti-CAM, CVIU 2024 (gain); formulas as in the public
    code of CA-Stream (Torres et al. 2024). What wins it without merit: for the drop the whole image, and any map that shows much; for gain
    and increase any mask that is made for the class, evidence or not.
    """
    if form not in get_args(Form):
        raise unknown("form", form, get_args(Form))
    shown = masked_image(view.image, saliency, black=hidden(space, black))
    whole = (shown == view.image).all()  # one image has one probability, however its place in a batch rounds it
    logits = jnp.where(whole, view.logits, view.predict(shown))
    (o, lacks), (m, lacks_then) = (_both(y, target, view) for y in (view.logits, logits))
    change = jnp.where(o > 0.5, lacks - lacks_then, m - o)
    gain = jnp.where((change > 0) & (lacks > 0), change / jnp.where(lacks > 0, lacks, 1.0), 0.0)
    drop = jnp.maximum(-change, 0) / jnp.maximum(o, jnp.finfo(o.dtype).tiny)
    if form == "reference-double-softmax":
        before, after = (probabilities(y, view.link) for y in (view.logits, logits))
        drop = double_softmax_drop(before, after, target)
    known = jnp.where(jnp.isnan(o), jnp.nan, 1.0)
    return MaskedConfidence(
        drop * known, gain * known, (change > 0).astype(o.dtype) * known, at_least_float32(saliency).mean()
    )


def double_softmax_drop(
    before: Float[Array, " C"], after: Float[Array, " C"], target: Int[Array, ""] | int
) -> Float[Array, ""]:
    """The average drop as L-MAC's public code computes it: `max(0, s − t) / s`, s and t the target's softmax of PROBABILITIES.

    A softmax is taken of what a softmax has made already. With `o` and `m` the target's probabilities, s / t is `exp(o − m) Σ_j exp(after_j) / Σ_j exp(before_j)`, so that the result is near
    `1 − exp(−(o − m))`: the absolute fall of the probability, 0.63 and a little more at most, where the plain drop is relative to o.

    Args:
        before: probabilities of all classes, of the whole input.
        after: those of the masked one.
        target: the class.
    """
    s, t = (of_class(jax.nn.softmax(p), target) for p in (before, after))
    return jnp.maximum(s - t, 0) / s


def _both(logits: Array, target: Int[Array, ""] | int, view: View) -> tuple[Array, Array]:
    """p of the target and 1 − p, each without cancellation."""
    return of_class(probabilities(logits, view.link), target), complement(logits, target, view.link)


def masked_confidence_columns(
    inputs: MetricInputs, *, space: Space = "pixels", form: Form = "plain"
) -> dict[str, Array]:
    """Columns `average_drop`, `average_gain`, `average_increase` and `mask_mean` of the top-1 class's map; NaN where it is degenerate."""
    shown = {"space": space, "black": inputs.black, "form": form}
    found = masked_confidence(inputs.view, inputs.maps[0], inputs.targets[0], **shown)
    columns = dict(zip((c.name for c in COLUMNS), found, strict=True))
    return {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in columns.items()}

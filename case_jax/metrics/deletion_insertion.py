"""Deletion and insertion: how fast does the class's probability fall when a map's top pixels are removed, and rise when they are added?"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from case_jax._checks import require
from case_jax.imageops import Fill, filling
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.perturb import perturbed_probabilities
from case_jax.ranking import places
from case_jax.tap.link import probability
from case_jax.tap.view import View

COLUMNS = (
    MetricColumn(
        "deletion_auc",
        "deletion AUC",
        "mean probability of the predicted class while the map's top pixels are removed, first to last; low: what the map "
        "ranks first is what the class needs",
        better="low",
        correct=True,
        percent=False,
    ),
    MetricColumn(
        "insertion_auc",
        "insertion AUC",
        "mean probability of the predicted class while the map's top pixels are added to a blurred image, first to last; "
        "high: what the map ranks first is enough for the class",
        better="high",
        correct=True,
        percent=False,
    ),
)


def step_counts(steps: int, shape: tuple[int, ...]) -> Int[np.ndarray, " {steps}+1"]:
    """How many of a map's pixels have been altered after 0, 1, …, `steps` equal steps: `⌊i · pixels / steps⌋`.

    Raises:
        CaseJaxError: for fewer steps than one, or more than pixels.
    """
    pixels = math.prod(shape)
    require(1 <= steps <= pixels, "steps", steps, f"a number of steps from 1 to the map's {pixels} pixels")
    return np.arange(steps + 1) * pixels // steps


def deletion_curve(
    view: View,
    saliency: Float[Array, "*space"],
    target: Int[Array, ""] | int,
    *,
    steps: int = 20,
    fill: Fill = "mean",
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, " {steps}+1"]:
    """The target's probability while a map's top pixels are replaced, from the whole image to none of it.

    `d_i = p_target(x with its n_i highest-ranked pixels replaced)`, n_i = ⌊i · pixels / steps⌋. Its `area_under` is the deletion score:
    low is good.

    Args:
        view: one image's view.
        saliency: one finished map of that image, at its resolution.
        target: the class whose probability is watched.
        steps: number of steps; the classifier runs once for each.
        fill: what is put in place of removed pixels; `mean`, zero in normalised space, is the protocol's.
        black: a black pixel in normalised units, for the fill `zero-pixel`.
        key: this image's random key, for the fill `noise`.

    Returns:
        Probabilities by the model's link, the untouched image's first. A degenerate map ranks by index alone: leave it out.

    Raises:
        CaseJaxError: for steps outside [1, pixels], a map of another size than the image, an unknown fill, or a fill without the `black`
            or `key` that it needs.

    Petsiuk, Das, Saenko, RISE (arXiv 1806.07421); public code eclique/RISE, `evaluation.py`, to which this is equal up to the
    order among equal values (here the lower index first, there the higher). Quantus's `PixelFlipping` leaves the untouched image out
    of its curve, integrates over step numbers instead of shares, and removes single channels of colour images. What wins it without merit:
    scattered pixels that together act as an adversarial perturbation, and large smooth regions whose hole looks like no image.
    """
    place, counts = _ranked(view, saliency, steps)
    other = filling(fill, view.image, black=black, key=key)

    def deleted(count):
        return jnp.where((place < count)[..., None], other, view.image)

    left = perturbed_probabilities(view, deleted, counts[1:], target)
    return jnp.concatenate([probability(view.logits, target, view.link)[None], left])


def insertion_curve(
    view: View,
    saliency: Float[Array, "*space"],
    target: Int[Array, ""] | int,
    *,
    steps: int = 20,
    fill: Fill = "blur",
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, " {steps}+1"]:
    """The target's probability while a map's top pixels are put into an empty image, from none to the whole image.

    `s_i = p_target(fill with the n_i highest-ranked pixels of x)`, n_i = ⌊i · pixels / steps⌋. Its `area_under` is the insertion score:
    high is good.

    Args:
        view: one image's view.
        saliency: one finished map of that image, at its resolution.
        target: the class whose probability is watched.
        steps: number of steps; the classifier runs once for each.
        fill: what the image starts as; the protocol blurs it. `blur` here is a Gaussian of a tenth of the longer side (σ = 22 for
            224 pixels), where the public code has a kernel of 11×11 pixels and σ = 5 whatever the size.
        black: a black pixel in normalised units, for the fill `zero-pixel`.
        key: this image's random key, for the fill `noise`.

    Returns:
        Probabilities by the model's link, the untouched image's last. A degenerate map ranks by index alone: leave it out.

    Raises:
        CaseJaxError: as `deletion_curve`.

    Petsiuk, Das, Saenko, RISE (arXiv 1806.07421). What wins it without merit: large smooth regions, which show much of the object at once, and
    classes that the blurred image already suggests.
    """
    place, counts = _ranked(view, saliency, steps)
    other = filling(fill, view.image, black=black, key=key)

    def inserted(count):
        return jnp.where((place < count)[..., None], view.image, other)

    shown = perturbed_probabilities(view, inserted, counts[:-1], target)
    return jnp.concatenate([shown, probability(view.logits, target, view.link)[None]])


def area_under(curve: Float[Array, " n"]) -> Float[Array, ""]:
    """Area under a curve of equally spaced points over a base of length 1, by the trapezoidal rule: a mean probability."""
    return (curve[1:] + curve[:-1]).mean() / 2


def _ranked(view: View, saliency: Float[Array, "*space"], steps: int) -> tuple[Int[Array, "*space"], Int[Array, " n"]]:
    shape = view.image.shape[:-1]
    require(
        saliency.shape == shape, "saliency", f"shape {saliency.shape}", f"one finished map of the image's size {shape}"
    )
    return places(saliency), jnp.asarray(step_counts(steps, shape))


def deletion_insertion_columns(
    inputs: MetricInputs, *, steps: int = 20, fill: Fill = "mean", start: Fill = "blur"
) -> dict[str, Array]:
    """Columns `deletion_auc` (removed pixels become `fill`) and `insertion_auc` (the image starts as `start`) of the top-1 map."""
    state = (inputs.view, inputs.maps[0], inputs.targets[0])
    deletion = deletion_curve(*state, steps=steps, fill=fill, black=inputs.black, key=inputs.key)
    insertion = insertion_curve(*state, steps=steps, fill=start, black=inputs.black, key=inputs.key)
    found = {"deletion_auc": area_under(deletion), "insertion_auc": area_under(insertion)}
    return {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in found.items()}

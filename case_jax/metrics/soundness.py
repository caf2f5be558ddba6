"""Completeness and soundness: is the class still seen in its map's region, and no class seen in a map's region that is not in the image?"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from case_jax._checks import require
from case_jax.imageops import Fill
from case_jax.metric_column import MetricColumn
from case_jax.metrics.deletion_insertion import insertion_curve
from case_jax.metrics.inputs import MetricInputs
from case_jax.tap.view import View

COLUMNS = (
    MetricColumn(
        "completeness",
        "completeness",
        "how much of the predicted class's probability an image keeps of which only the map's top pixels are shown; 1 is all of it",
        better="high",
        percent=False,
    ),
    MetricColumn(
        "soundness",
        "soundness, random class",
        "1 where showing only the top pixels of the map for a random wrong class does not raise that class's probability, less "
        "the more it does; a sound map does not speak for a class that is not in the image",
        better="high",
        maps="any",
        percent=False,
    ),
    MetricColumn(
        "soundness_2",
        "soundness, top-2",
        "as soundness, for the second likeliest class",
        better="high",
        maps="any",
        percent=False,
    ),
    MetricColumn(
        "raised",
        "rise of a random class",
        "mean probability of a random wrong class while only its map's top pixels are shown, minus its probability in the whole image; low is sound",
        better="low",
        maps="any",
        percent=False,
    ),
)


def shown_probability(
    view: View,
    saliency: Float[Array, "*space"],
    target: Int[Array, ""] | int,
    *,
    steps: int = 20,
    fill: Fill = "mean",
    black: Float[Array, " D"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, ""]:
    """The target's mean probability over images of which only a map's top pixels are shown.

    `r_c = mean_{i=1..steps} p_c(x ⊙ T_i + fill ⊙ (1 − T_i))`, T_i the ⌊i · pixels / steps⌋ highest-ranked pixels of the map for class c. The empty
    image is left out, the whole image is the last.

    Args:
        view: one image's view.
        saliency: the map for the target, at the image's resolution.
        target: the class c.
        steps: number of shares; the classifier runs once for each.
        fill: what hides the other pixels; `mean` is zero in normalised space.
        black: a black pixel in normalised units, for the fill `zero-pixel`.
        key: this image's random key, for the fill `noise`.

    Raises:
        CaseJaxError: as `insertion_curve`.
    """
    return insertion_curve(view, saliency, target, steps=steps, fill=fill, black=black, key=key)[1:].mean()


def completeness(
    shown: Float[Array, "*n"], probability: Float[Array, "*n"], *, floor: float = 0.1
) -> Float[Array, "*n"]:
    """How much of a class's probability its map's region keeps: `min(max(floor, r_c) / p_c, 1)`.

    Args:
        shown: r_c, from `shown_probability`.
        probability: p_c, the class's probability in the whole image.
        floor: any r_c below it counts as equal to it; 0.1 in the authors' evaluation.

    Returns:
        In [0, 1], above 0 where the floor is; 1 is complete. A class with `p_c ≤ floor` is complete whatever its map.

    Raises:
        CaseJaxError: for a floor outside [0, 1).

    Gupta, Saunshi, Yu, Lyu, Arora, New Definitions and Evaluations for Saliency Methods: Staying Intrinsic, Complete and Sound (NeurIPS 2022,
    arXiv 2211.02912), as evaluated by their public code, agup/soundness_saliency, `utils.py`. What wins it without merit: a map of the whole
    object for every class.
    """
    _require_floor(floor)
    known = probability > floor
    return jnp.where(known, jnp.minimum(jnp.maximum(shown, floor) / jnp.where(known, probability, 1.0), 1.0), 1.0)


def soundness(shown: Float[Array, "*n"], probability: Float[Array, "*n"], *, floor: float = 0.1) -> Float[Array, "*n"]:
    """How little a class's map can raise it above its probability in the image: `min(max(floor, p_c) / r_c, 1)`.

    Args:
        shown: r_c, from `shown_probability`.
        probability: p_c, the class's probability in the whole image.
        floor: rises below it do not count; 0.1 in the authors' evaluation.

    Returns:
        In [0, 1], above 0 where the floor is; 1 is sound: the region that the map marks does not make the class likelier than the image does (or than `floor`). Asked
        about the classes that the classifier did *not* predict. 1 where r_c is 0.

    Raises:
        CaseJaxError: for a floor outside [0, 1).

    Sources as `completeness`. There the mean over all wrong classes, the worst and the second likeliest are reported; here a random
    wrong class, which is unbiased for the first, and the second likeliest. What wins it without merit: a map that shows nothing of use for any class.
    """
    _require_floor(floor)
    return jnp.where(
        shown > 0, jnp.minimum(jnp.maximum(probability, floor) / jnp.where(shown > 0, shown, 1.0), 1.0), 1.0
    )


def _require_floor(floor: float) -> None:
    require(0 <= floor < 1, "floor", floor, "a probability in [0, 1)")


def soundness_columns(
    inputs: MetricInputs, *, steps: int = 20, fill: Fill = "mean", floor: float = 0.1
) -> dict[str, Array]:
    """Columns `completeness` (top-1), `soundness` and `raised` (random wrong class), `soundness_2` (top-2); NaN where the map is degenerate.

    `raised = r_c' − p_c'`, unclipped, for the random class c'.
    """

    def shown(asked):
        return shown_probability(inputs.view, *asked, steps=steps, fill=fill, black=inputs.black, key=inputs.key)

    first, second, other = jax.lax.map(shown, (inputs.maps[:3], inputs.targets[:3]))
    p = inputs.probabilities
    found = {
        "completeness": (0, completeness(first, p[0], floor=floor)),
        "soundness": (2, soundness(other, p[2], floor=floor)),
        "soundness_2": (1, soundness(second, p[1], floor=floor)),
        "raised": (2, other - p[2]),
    }
    return {name: jnp.where(inputs.degenerate[i], jnp.nan, value) for name, (i, value) in found.items()}

"""ROAD: fidelity with removed pixels imputed from their neighbours, so that the shape of the hole does not reveal the class."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from case_jax._checks import require
from case_jax.imageops import require_pictures
from case_jax.metric_column import MetricColumn
from case_jax.metrics.imputation import impute
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.perturb import perturbed_probabilities
from case_jax.ranking import pixel_count, places
from case_jax.tap.view import View

ROAD_PERCENTS = (20, 40, 60, 80)

COLUMNS = (
    MetricColumn(
        "road",
        "ROAD",
        "half the difference between the mean drops of probability when the most and when the least relevant pixels are imputed; "
        "high: the ranking separates what matters from what does not",
        better="high",
        correct=True,
        percent=False,
    ),
    MetricColumn(
        "road_drop_morf",
        "ROAD drop, most relevant first",
        "mean drop of the predicted class's probability when the map's top pixels are imputed; high: they were needed",
        better="high",
        correct=True,
        percent=False,
    ),
    MetricColumn(
        "road_drop_lerf",
        "ROAD drop, least relevant first",
        "mean drop of the predicted class's probability when the map's lowest pixels are imputed; low: they were not needed",
        better="low",
        correct=True,
        percent=False,
    ),
)


class Imputed(NamedTuple):
    """The target's probability after imputing pixels, for each percentage."""

    morf: Float[Array, " P"]
    """Most relevant first: the highest-ranked pixels are imputed."""
    lerf: Float[Array, " P"]
    """Least relevant first: the lowest-ranked pixels are imputed."""


def imputed_probabilities(
    view: View,
    saliency: Float[Array, "H W"],
    target: Int[Array, ""] | int,
    *,
    percents: Sequence[float] = ROAD_PERCENTS,
    noise: float = 0.01,
    key: Key[Array, ""] | None = None,
) -> Imputed:
    """The target's probability (by the model's link) after the most, and after the least relevant pixels are imputed (`impute`).

    With s the mean over percentages of `p' − p`, pytorch-grad-cam's `ROADMostRelevantFirstAverage` is s of `morf`,
    `ROADLeastRelevantFirstAverage` s of `lerf`, and `ROADCombined` `(s_lerf − s_morf) / 2`.

    Args:
        view: one image's view.
        saliency: one finished map of that image, at its resolution.
        target: the class whose probability is watched.
        percents: how many of the pixels are imputed, in percent.
        noise: standard deviation of the noise on imputed pixels, in normalised units; the same noise for every percentage.
        key: this image's random key, for the noise.

    Returns:
        Two probabilities per percentage. A degenerate map ranks by index alone: leave it out.

    Raises:
        CaseJaxError: for a percentage outside (0, 100), of less than a pixel or of all, a map of another size than the image, a negative noise,
            or noise without a key.

    Rong, Leemann, Borisov, Kasneci, Kasneci, A Consistent and Efficient Evaluation Strategy for Attribution Methods (arXiv 2202.00449). Exactly the
    given share is imputed, by the project's tie rule. pytorch-grad-cam imputes everything not below a percentile, so that of a map that
    is half zeros "the least relevant 20%" are those 50%; Quantus reports the accuracy after removal instead of a probability. What wins it
    without merit: scattered pixels on edges, which neighbours cannot restore, and a map of the whole object whatever the class.
    """
    require_pictures("ROAD's imputation of pixels", view.image.ndim - 1)
    shape = view.image.shape[:2]
    require(
        saliency.shape == shape, "saliency", f"shape {saliency.shape}", f"one finished map of the image's size {shape}"
    )
    pixels = shape[0] * shape[1]
    numbers = [pixel_count(p, shape) for p in percents]
    require(
        numbers and max(numbers) < pixels,
        "percents",
        list(percents),
        "percentages in (0, 100) that leave a pixel to impute from",
    )
    counts, place = jnp.asarray(numbers), places(saliency)

    def imputed(bounds):
        low, high = bounds
        return impute(view.image, (place >= low) & (place < high), noise=noise, key=key)

    bounds = (jnp.concatenate([0 * counts, pixels - counts]), jnp.concatenate([counts, 0 * counts + pixels]))
    found = perturbed_probabilities(view, imputed, bounds, target)
    return Imputed(found[: len(numbers)], found[len(numbers) :])


def road_columns(
    inputs: MetricInputs, *, percents: Sequence[float] = ROAD_PERCENTS, noise: float = 0.01
) -> dict[str, Array]:
    """Columns `road_drop_morf` and `road_drop_lerf`, mean `p − p'` of the top-1 class, and `road`, half their difference."""
    found = imputed_probabilities(
        inputs.view, inputs.maps[0], inputs.targets[0], percents=percents, noise=noise, key=inputs.key
    )
    morf, lerf = (inputs.probabilities[0] - side.mean() for side in found)
    columns = {"road_drop_morf": morf, "road_drop_lerf": lerf, "road": (morf - lerf) / 2}
    return {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in columns.items()}

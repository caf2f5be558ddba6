"""ARCC: one number for a map that is faithful, coherent and simple at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from case_jax._checks import CaseJaxError
from case_jax.imageops import is_degenerate
from case_jax.metric_column import MetricColumn
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.road import ROAD_PERCENTS, imputed_probabilities
from case_jax.ranking import correlation
from case_jax.tap.view import View

COLUMNS = (
    MetricColumn(
        "arcc",
        "ARCC",
        "harmonic mean of ROAD (twice it, 0 where negative), coherency and 1 − complexity; high: faithful, coherent and simple at once",
        better="high",
        correct=True,
        percent=False,
    ),
    MetricColumn(
        "coherency",
        "coherency",
        "correlation, from 0 to 1, of the map with the method's map of the image seen through it; high: the map explains itself",
        better="high",
        correct=True,
        percent=False,
    ),
    MetricColumn(
        "complexity",
        "complexity",
        "mean of the map, from 0 to 1; low: it marks little",
        better="low",
        correct=True,
        percent=False,
    ),
)


class Arcc(NamedTuple):
    """The composite and its three parts, each from 0 to 1."""

    arcc: Float[Array, ""]
    road: Float[Array, ""]
    coherency: Float[Array, ""]
    complexity: Float[Array, ""]


def coherency(saliency: Float[Array, "*space"], again: Float[Array, "*space"], *, space: int = 2) -> Float[Array, ""]:
    """How well a map agrees with the map of the image seen through it: `(ρ(E(x), E(x ⊙ E(x))) + 1) / 2`, ρ Pearson's correlation.

    Args:
        saliency: the finished map E(x).
        again: the finished map of the same class for the image times the map.
        space: how many axes a map has: 2 for pictures, 1 for signals, 3 for volumes.

    Returns:
        0 to 1; NaN where either map is degenerate, where the public code has 0.5.

    Raises:
        CaseJaxError: for maps of other shapes.

    Poppi, Cornia, Baraldi, Cucchiara, Revisiting the Evaluation of Class Activation Mapping for Explainability (arXiv 2104.10252). What wins it
    without merit: a map that does not depend on the image at all, a centre Gaussian say.
    """
    usable = ~is_degenerate(saliency, space=space) & ~is_degenerate(again, space=space)
    return jnp.where(usable, (correlation(saliency, again, space=space) + 1) / 2, jnp.nan)


def arcc(
    view: View,
    saliency: Float[Array, "H W"],
    target: Int[Array, ""] | int,
    explain: Callable[[Float[Array, "H W D"]], Float[Array, "H W"]],
    *,
    percents: Sequence[float] = ROAD_PERCENTS,
    noise: float = 0.01,
    key: Key[Array, ""] | None = None,
) -> Arcc:
    """The harmonic mean of a map's faithfulness, coherency and simplicity.

    `ARCC = 3 / (1/R + 1/Coherency + 1/(1 − Complexity))`, with `R = clip(2 · ROAD, 0, 1)`, ROAD the combined score of `imputed_probabilities`
    (−0.5 to 0.5), `coherency`, and `Complexity = mean |E(x)|`. 0 where one of the three is 0.

    Args:
        view: one image's view.
        saliency: the finished map E(x) of the target, in [0, 1], at the image's resolution.
        target: the class.
        explain: the method: a normalised image to the finished map of the target.
        percents: how many of the pixels ROAD imputes, in percent.
        noise: standard deviation of the noise on imputed pixels, in normalised units.
        key: this image's random key, for the noise.

    Returns:
        The composite, R, the coherency and the complexity. Coherency and ARCC are NaN where either map is degenerate.

    Raises:
        CaseJaxError: as `imputed_probabilities`.

    Domeniconi, Stramiglio, Lombardi, Salti, How to Evaluate and Refine your CAM (arXiv 2605.14641); the definition is that of `ARCC` in
    pytorch-grad-cam 1.5.7, whose docstring says geometric mean where its code, as the talk on the paper, has the harmonic one. It
    differs from ADCC (Poppi et al., above) in ROAD taking the place of 1 − average drop, for which the image was multiplied with the map.
    What wins it without merit: small compact blobs in the middle of the object, the same for every class.
    """
    found = imputed_probabilities(view, saliency, target, percents=percents, noise=noise, key=key)
    road = jnp.clip(found.lerf.mean() - found.morf.mean(), 0.0, 1.0)  # twice ROADCombined: the untouched image cancels
    complexity = jnp.abs(saliency).mean().astype(road.dtype)
    coherent = coherency(saliency, explain(view.image * saliency[..., None].astype(view.image.dtype))).astype(
        road.dtype
    )
    parts = jnp.stack([road, coherent, 1 - complexity])
    none = (parts == 0).any()
    mean = 3 / (1 / jnp.where(none, 1.0, parts)).sum()
    whole = jnp.where(jnp.isnan(coherent), jnp.nan, jnp.where(none, 0.0, mean))
    return Arcc(whole, road, coherent, complexity)


def arcc_columns(
    inputs: MetricInputs, *, percents: Sequence[float] = ROAD_PERCENTS, noise: float = 0.01
) -> dict[str, Array]:
    """Columns `arcc`, `coherency` and `complexity` of the top-1 map; needs `MetricInputs.explain`."""
    if inputs.explain is None:
        raise CaseJaxError(
            "explain: None was given; ARCC needs the method itself, an image to the top-1 class's finished map."
        )
    found = arcc(
        inputs.view, inputs.maps[0], inputs.targets[0], inputs.explain, percents=percents, noise=noise, key=inputs.key
    )
    columns = {"arcc": found.arcc, "coherency": found.coherency, "complexity": found.complexity}
    return {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in columns.items()}

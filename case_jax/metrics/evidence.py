"""Evidence: where known regions of the image speak for known classes, does a map lie on its own class's?"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from case_jax.metrics.inputs import MetricInputs
from case_jax.ranking import pixel_count, top_mask
from case_jax.source import SHARED


class EvidenceShares(NamedTuple):
    """How much of something lies on the evidence that is shared, the target's own, and another class's."""

    shared: Float[Array, ""]
    own: Float[Array, ""]
    other: Float[Array, ""]


def evidence_regions(
    regions: Bool[Array, "R *space"], classes: Int[Array, " R"], target: Int[Array, ""] | int
) -> Bool[Array, "3 *space"]:
    """The unions of the regions that speak for all candidate classes, for the target, and for another class."""
    kinds = jnp.stack([classes == SHARED, classes == target, (classes >= 0) & (classes != target)])
    return (regions[None] & jnp.expand_dims(kinds, tuple(range(2, regions.ndim + 1)))).any(1)


def evidence_shares(
    saliency: Float[Array, "*space"] | Bool[Array, "*space"],
    regions: Bool[Array, "R *space"],
    classes: Int[Array, " R"],
    target: Int[Array, ""] | int,
) -> EvidenceShares:
    """Shares of a map's mass on shared, own and other evidence.

    `share = Σ_{region} m / Σ m`; the three need not add up to one, the rest lies on no evidence.

    Args:
        saliency: a finished map, or a mask of its top pixels.
        regions: evidence regions of the image.
        classes: the class that each speaks for, `SHARED` or `NOBODY`.
        target: the map's class.

    Returns:
        Three shares; all NaN when no region speaks for the target or the map is all zero.

    What wins it without merit: subtracting the rival's map, which takes away the shared evidence whether the classifier uses it or not, and
    concentration: a map of a single pixel on the evidence has all its mass there.
    """
    mass = saliency.astype(jnp.float32)
    total = mass.sum()
    known = (classes == target).any() & (total > 0)
    inside = jnp.where(evidence_regions(regions, classes, target), mass, 0.0).sum(tuple(range(1, regions.ndim)))
    shares = inside / jnp.where(total > 0, total, 1.0)
    return EvidenceShares(*jnp.where(known, shares, jnp.nan))


def points_at_own(
    saliency: Float[Array, "*space"],
    regions: Bool[Array, "R *space"],
    classes: Int[Array, " R"],
    target: Int[Array, ""] | int,
) -> Float[Array, ""]:
    """1 if the map's highest-ranked pixel lies on the target's own evidence, else 0; NaN when there is none.

    What wins it without merit: evidence that lies where every map peaks, in the middle or on the highest contrast.
    """
    hit = (top_mask(saliency, 1) & evidence_regions(regions, classes, target)[1]).any()
    return jnp.where((classes == target).any(), hit.astype(jnp.float32), jnp.nan)


def evidence_columns(inputs: MetricInputs, *, percent: float = 5.0) -> dict[str, Array]:
    """Columns `mass_*` and `top_*` (shares of the top-1 map and of its top pixels) and `points_1`, `points_2`."""
    if inputs.regions.shape[0] == 0:
        return {}
    truth = (inputs.regions, inputs.region_classes)
    first, second = inputs.maps[0], inputs.maps[1]
    top = top_mask(first, pixel_count(percent, first.shape))
    mass = evidence_shares(first, *truth, inputs.targets[0])
    tops = evidence_shares(top, *truth, inputs.targets[0])
    of_first = {f"mass_{name}": value for name, value in mass._asdict().items()}
    of_first |= {f"top_{name}": value for name, value in tops._asdict().items()}
    of_first["points_1"] = points_at_own(first, *truth, inputs.targets[0])
    columns = {name: jnp.where(inputs.degenerate[0], jnp.nan, value) for name, value in of_first.items()}
    points = points_at_own(second, *truth, inputs.targets[1])
    return columns | {"points_2": jnp.where(inputs.degenerate[1], jnp.nan, points)}

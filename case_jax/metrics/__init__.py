"""Scores of maps: each metric turns one image's two finished maps into columns of its row; `METRICS` is the only dispatch."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from case_jax._checks import unknown
from case_jax.metrics.evidence import evidence_columns, evidence_shares, points_at_own
from case_jax.metrics.fidelity import PERCENTS, fidelity_columns, removed_probabilities
from case_jax.metrics.scored import Scored
from case_jax.metrics.sensitivity import Agreement, agreement, sensitivity_columns


class Metric(NamedTuple):
    """A metric and what it asks."""

    columns: Callable[..., dict[str, Array]]
    """`Scored` and keyword options to scalar columns."""
    question: str


METRICS: dict[str, Metric] = {
    "sensitivity": Metric(sensitivity_columns, "do the maps of the two likeliest classes mark different pixels?"),
    "fidelity": Metric(
        fidelity_columns, "does the predicted class lose its probability when the map's top pixels are removed?"
    ),
    "evidence": Metric(evidence_columns, "does the map lie on the evidence of its own class, where that is known?"),
}


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


__all__ = [
    "METRICS",
    "PERCENTS",
    "Agreement",
    "Metric",
    "Scored",
    "agreement",
    "evidence_shares",
    "metric",
    "points_at_own",
    "removed_probabilities",
]

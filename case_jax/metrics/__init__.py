"""Scores of maps: each metric turns one image's two finished maps into columns of its row; `METRICS` is the only dispatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from case_jax._checks import unknown
from case_jax.metric_column import MetricColumn
from case_jax.metrics.arcc import COLUMNS as ARCC_COLUMNS
from case_jax.metrics.arcc import Arcc, arcc, arcc_columns, coherency
from case_jax.metrics.deletion_insertion import COLUMNS as DELETION_INSERTION_COLUMNS
from case_jax.metrics.deletion_insertion import area_under, deletion_curve, deletion_insertion_columns, insertion_curve
from case_jax.metrics.evidence import evidence_columns, evidence_shares, points_at_own
from case_jax.metrics.faithfulness import COLUMNS as FAITHFULNESS_COLUMNS
from case_jax.metrics.faithfulness import Faithfulness, faithfulness, faithfulness_columns
from case_jax.metrics.fidelity import PERCENTS, fidelity_columns, removed_probabilities
from case_jax.metrics.fidelity import removal as fidelity_removal
from case_jax.metrics.imputation import impute
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.mask_complexity import COLUMNS as MASK_COMPLEXITY_COLUMNS
from case_jax.metrics.mask_complexity import entropy_complexity, gini, mask_complexity_columns
from case_jax.metrics.masked_accuracy import COLUMNS as MASKED_ACCURACY_COLUMNS
from case_jax.metrics.masked_accuracy import masked_accuracy_columns
from case_jax.metrics.masked_confidence import COLUMNS as MASKED_CONFIDENCE_COLUMNS
from case_jax.metrics.masked_confidence import MaskedConfidence, masked_confidence, masked_confidence_columns
from case_jax.metrics.random_logit import COLUMNS as RANDOM_LOGIT_COLUMNS
from case_jax.metrics.random_logit import random_logit_columns
from case_jax.metrics.relative_drop import COLUMNS as RELATIVE_DROP_COLUMNS
from case_jax.metrics.relative_drop import relative_drop_columns
from case_jax.metrics.relative_drop import removal as relative_drop_removal
from case_jax.metrics.removals import Removal
from case_jax.metrics.road import COLUMNS as ROAD_COLUMNS
from case_jax.metrics.road import Imputed, imputed_probabilities, road_columns
from case_jax.metrics.sensitivity import Agreement, agreement, sensitivity_columns
from case_jax.metrics.similarity import COLUMNS as SIMILARITY_COLUMNS
from case_jax.metrics.similarity import similarity_columns
from case_jax.metrics.soundness import COLUMNS as SOUNDNESS_COLUMNS
from case_jax.metrics.soundness import completeness, shown_probability, soundness, soundness_columns
from case_jax.metrics.specificity import COLUMNS as SPECIFICITY_COLUMNS
from case_jax.metrics.specificity import ClassSpecificDeletion, class_specific_deletion, of_image, specificity_columns
from case_jax.metrics.specificity import removal as specificity_removal
from case_jax.metrics.specificity_insertion import COLUMNS as SPECIFICITY_INSERTION_COLUMNS
from case_jax.metrics.specificity_insertion import (
    ClassSpecificInsertion,
    class_specific_insertion,
    specificity_insertion_columns,
)


class Metric(NamedTuple):
    """A metric and what it asks."""

    columns: Callable[..., dict[str, Array]]
    """`MetricInputs` and keyword options to scalar columns, whose names no other metric uses."""
    question: str
    described: tuple[MetricColumn, ...] = ()
    """How its columns are summed up and shown."""
    random_class: bool = False
    """Whether it needs the map of a random class beside those of the two likeliest."""
    explains: bool = False
    """Whether it needs `MetricInputs.explain` or `recursed`, the method itself, to be asked about altered images."""
    probability: bool = False
    """Whether it is made of probabilities, so that it refuses a model without (link `identity`)."""
    slow: bool = False
    """Whether it needs dozens of passes through the classifier per map: such a metric runs only when asked for by name."""
    of_image: Callable[..., Any] | None = None
    """`MetricInputs` without a map, and the same options, to the part of its work that does not depend on the method: made once an image
    and handed to `columns` as `MetricInputs.of_image`."""
    removal: Callable[..., Removal | None] | None = None
    """The same options to what it has removed from the image: made once for all metrics, and handed to `columns` as
    `MetricInputs.removed`."""


METRICS: dict[str, Metric] = {
    "sensitivity": Metric(sensitivity_columns, "do the maps of the two likeliest classes mark different pixels?"),
    "fidelity": Metric(
        fidelity_columns,
        "does the predicted class lose its probability when the map's top pixels are removed?",
        probability=True,
        removal=fidelity_removal,
    ),
    "masked_confidence": Metric(
        masked_confidence_columns,
        "what is left of the predicted class's probability when the image is multiplied with its map (average drop, gain, increase)?",
        MASKED_CONFIDENCE_COLUMNS,
        probability=True,
    ),
    "faithfulness": Metric(
        faithfulness_columns,
        "is the predicted class named under the map alone, and does it lose its probability under the rest?",
        FAITHFULNESS_COLUMNS,
        probability=True,
        slow=True,
    ),
    "relative_drop": Metric(
        relative_drop_columns,
        "does the predicted class lose more probability than its rival when the map's top pixels are removed?",
        RELATIVE_DROP_COLUMNS,
        probability=True,
        removal=relative_drop_removal,
    ),
    "mask_complexity": Metric(
        mask_complexity_columns, "how concentrated is the map, wherever it lies?", MASK_COMPLEXITY_COLUMNS
    ),
    "evidence": Metric(evidence_columns, "does the map lie on the evidence of its own class, where that is known?"),
    "specificity": Metric(
        specificity_columns,
        "does removing what each map marks hurt its own class, and more than removing as much elsewhere?",
        SPECIFICITY_COLUMNS,
        of_image=of_image,
        removal=specificity_removal,
    ),
    "similarity": Metric(
        similarity_columns, "how alike are the maps of the two likeliest classes, over all pixels?", SIMILARITY_COLUMNS
    ),
    "random_logit": Metric(
        random_logit_columns,
        "does the map change when the method is asked about a random other class?",
        RANDOM_LOGIT_COLUMNS,
        random_class=True,
    ),
    "deletion_insertion": Metric(
        deletion_insertion_columns,
        "how fast does the predicted class's probability fall when the map's top pixels are removed, and rise when they are added?",
        DELETION_INSERTION_COLUMNS,
        probability=True,
        slow=True,
    ),
    "specificity_insertion": Metric(
        specificity_insertion_columns,
        "does what each map marks, shown alone, speak for its own class?",
        SPECIFICITY_INSERTION_COLUMNS,
        slow=True,
    ),
    "road": Metric(
        road_columns,
        "do the map's top pixels matter more than its lowest when removed pixels are imputed from their neighbours?",
        ROAD_COLUMNS,
        probability=True,
        slow=True,
    ),
    "soundness": Metric(
        soundness_columns,
        "is the class still seen in its map's region, and is no class seen in a map's region that is not in the image?",
        SOUNDNESS_COLUMNS,
        random_class=True,
        probability=True,
        slow=True,
    ),
    "masked_accuracy": Metric(
        masked_accuracy_columns,
        "does the classifier name a class under masks made for that class, and also one that it did not see?",
        MASKED_ACCURACY_COLUMNS,
        random_class=True,
        explains=True,
        slow=True,
    ),
    "arcc": Metric(
        arcc_columns,
        "is the map faithful, coherent and simple at once?",
        ARCC_COLUMNS,
        explains=True,
        probability=True,
        slow=True,
    ),
}


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


def quick() -> tuple[str, ...]:
    """The names of the metrics that run when none are named: those that are not slow."""
    return tuple(name for name, entry in METRICS.items() if not entry.slow)


__all__ = [
    "METRICS",
    "PERCENTS",
    "Agreement",
    "Arcc",
    "ClassSpecificDeletion",
    "ClassSpecificInsertion",
    "Faithfulness",
    "Imputed",
    "MaskedConfidence",
    "Metric",
    "MetricColumn",
    "MetricInputs",
    "agreement",
    "arcc",
    "area_under",
    "class_specific_deletion",
    "class_specific_insertion",
    "coherency",
    "completeness",
    "deletion_curve",
    "entropy_complexity",
    "evidence_shares",
    "faithfulness",
    "gini",
    "impute",
    "imputed_probabilities",
    "insertion_curve",
    "masked_confidence",
    "metric",
    "points_at_own",
    "quick",
    "removed_probabilities",
    "shown_probability",
    "soundness",
]

"""Methods × metrics: is a map about its class, is it faithful, does it lie on the evidence? One row per image and method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from case_jax import parallel
from case_jax._checks import require, require_percent, unknown
from case_jax.evaluation.batches import Tile
from case_jax.evaluation.clusters import cluster_columns
from case_jax.evaluation.engine import Compiled, Found, Images, Program, Through
from case_jax.evaluation.identity import function_digest
from case_jax.evaluation.maps import Question
from case_jax.evaluation.studies.evaluate_step import Options, make_step
from case_jax.evaluation.subject import Subject
from case_jax.evaluation.why import Why
from case_jax.imageops import FILLS
from case_jax.metrics import METRICS, PERCENTS, Metric, metric, quick
from case_jax.metrics.specificity import PERCENTS as SPECIFICITY_PERCENTS
from case_jax.ranking import pixel_count
from case_jax.tap.link import require_probabilities
from case_jax.tap.view import TappedModel


@dataclass(frozen=True)
class Evaluate:
    """The class-sensitivity, fidelity and evidence tests, and every other metric.

    Rows hold `image_id`, `name`, `label`, `method`, `cluster_1`, … where images share something (see `source.Clustered`), `top1`, `top2`, `p1`, `p2`,
    `degenerate_1`, `degenerate_2`, why they are (`reason_1`, `reason_2`, the codes of `case_jax.reasons.Reason`), and the columns of every metric; with a
    random class also `random_class`, `degenerate_random` and `reason_random`. The label of an image of several true ones is `top1` where that is among them; `p1` and `p2`
    are by the model's link, NaN where it has no probabilities.
    """

    metrics: Sequence[str] | Mapping[str, Metric] = quick()
    """Names in `METRICS`, or metrics of one's own by name; by default all but the slow ones."""
    options: Options = field(default_factory=dict)
    """Keyword options of metrics, by name of the metric; they win over the three that follow."""
    agreement_percent: float = 5.0
    """k of the class-sensitivity diagnostic, in percent of the pixels."""
    fidelity_percents: Sequence[float] = PERCENTS
    """How much is removed in the fidelity test; must hold 50."""
    fill: str = "mean"
    """What is put in place of removed pixels."""

    name = "evaluate"
    unit = "images"
    scored = True
    """Maps of two classes of every image are held against each other: methods that need a pair run unnamed, too."""
    tile = 32
    part = 128

    def check(self, subject: Subject, images: Images) -> None:
        """Raise for unknown metrics, fills and options, metrics of probabilities where the model has none, and for percentages that are no number of pixels."""
        require(len(self.metrics) >= 1, "metrics", "none", f"at least one of {', '.join(METRICS)}")
        needing = [name for name, found in self._chosen().items() if found.probability]
        if needing:
            require_probabilities(subject.model.link, argument="metrics", asked=", ".join(needing))
        if self.fill not in FILLS:
            raise unknown("fill", self.fill, FILLS)
        shape = images.first.image.shape[:2]
        require_percent("agreement_percent", [self.agreement_percent])
        pixel_count(self.agreement_percent, shape)
        for name in self.options:
            if name not in self._chosen():
                raise unknown("metric_options", name, self._chosen())
        for name in self._chosen().keys() & {"specificity", "specificity_insertion"}:
            percents = self._all_options()[name]["percents"]
            require_percent(f"{name}.percents", percents)
            for percent in percents:
                pixel_count(percent, shape)
        if "fidelity" in self._chosen():
            _check_removed(self._all_options()["fidelity"]["percents"], shape)

    def program(self, question: Question, model: TappedModel, images: Images) -> Program:
        """One compiled step; its result is the columns."""
        step = parallel.over_devices(make_step(question, self._chosen(), self._all_options(), model))
        given = (model.params, question.carried())
        why = Why(model, question.methods, question.pixels)
        methods, ids = list(question.methods), len(images.first.clusters)

        def found(stream: Iterator[Tile], through: Through) -> Iterator[tuple[Tile, Found]]:
            for tile, columns in through(step, given, stream):
                yield tile, Found(_rows(tile, {**columns, **_reasons(why, tile, columns)}, methods, ids))

        return Program([Compiled(step, lambda batch: (given, batch))], found)

    def settings(self, subject: Subject) -> dict[str, Any]:
        """Metrics with their options, those of one's own with a digest, and how they describe their numbers."""
        chosen = self._chosen()
        own = {
            name: function_digest(found.columns, f"metric {name!r}")
            for name, found in chosen.items()
            if METRICS.get(name) is not found
        }
        described = {name: [m._asdict() for m in found.described] for name, found in chosen.items() if found.described}
        return {"metrics": self._all_options(), "own_metrics": own, "metric_columns": described}

    def _chosen(self) -> dict[str, Metric]:
        return dict(self.metrics) if isinstance(self.metrics, Mapping) else {n: metric(n) for n in self.metrics}

    def _all_options(self) -> dict[str, dict[str, Any]]:
        usual: dict[str, dict[str, Any]] = {
            "sensitivity": {"percent": float(self.agreement_percent)},
            "fidelity": {"percents": tuple(float(p) for p in self.fidelity_percents), "fill": self.fill},
            "evidence": {"percent": float(self.agreement_percent)},
            "relative_drop": {"fill": self.fill},
            "specificity": {"percents": SPECIFICITY_PERCENTS, "fill": self.fill},
            "specificity_insertion": {"percents": SPECIFICITY_PERCENTS, "fill": self.fill},
        }
        return {name: usual.get(name, {}) | dict(self.options.get(name, {})) for name in self._chosen()}


def _check_removed(percents: Sequence[float], shape: tuple[int, ...]) -> None:
    require_percent("fidelity_percents", percents)
    for percent in percents:
        pixel_count(percent, shape)
    accepted = "a list that holds 50, the paper's percentage, and every percentage once"
    proper = 50 in percents and len(set(percents)) == len(percents)
    require(proper, "fidelity_percents", list(percents), accepted)


def _reasons(why: Why, tile: Tile, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of reasons, more exact than maps alone tell."""
    names = {"top1": "reason_1", "top2": "reason_2", "random_class": "reason_random"}
    names = {target: reason for target, reason in names.items() if reason in columns}
    found = np.stack([columns[reason] for reason in names.values()], -1)
    targets = np.stack([columns[target] for target in names], -1)
    for slot, example in enumerate(tile.examples):
        if example is not None:
            found[slot] = why(np.asarray(example.image), targets[slot], found[slot])
    return dict(zip(names.values(), np.moveaxis(found, -1, 0), strict=True))


def _rows(tile: Tile, columns: Mapping[str, np.ndarray], methods: list[str], ids: int) -> dict[str, np.ndarray]:
    """One row per image and method, as columns; every image shares `ids` things with others."""
    slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
    examples = [example for example in tile.examples if example is not None]
    count = len(methods)

    def repeated(values: Sequence[Any], dtype: Any) -> np.ndarray:
        return np.repeat(np.asarray(values, dtype), count)

    labels = [e.label_for(top1) for e, top1 in zip(examples, columns["top1"][slots].tolist(), strict=True)]
    rows: dict[str, np.ndarray] = {
        "image_id": repeated([e.image_id for e in examples], np.int64),
        "name": repeated([e.name for e in examples], str),
        "label": repeated(labels, np.int32),
        "method": np.tile(np.asarray(methods, str), len(slots)),
        **{name: np.repeat(values, count) for name, values in cluster_columns(examples, ids).items()},
    }
    for name, values in columns.items():
        kept = values[slots]
        rows[name] = kept.ravel() if kept.ndim == 2 else np.repeat(kept, count)
    return rows

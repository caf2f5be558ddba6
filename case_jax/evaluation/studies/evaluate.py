"""Methods × metrics: is a map about its class, is it faithful, does it lie on the evidence? One row per image and method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from case_jax import parallel
from case_jax._checks import require, require_percent, unknown
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import Query
from case_jax.evaluation.batches import Batch, LabelledBatch, Tile, labelled, labelled_batch
from case_jax.evaluation.clusters import cluster_columns
from case_jax.evaluation.engine import Compiled, Found, Images, Program, Through
from case_jax.evaluation.identity import function_digest
from case_jax.evaluation.maps import (
    AGAIN,
    NOISE,
    RANDOM_CLASS,
    Question,
    image_key,
    maps_and_reasons,
    shown_probabilities,
    view_for_targets,
)
from case_jax.evaluation.subject import Subject
from case_jax.evaluation.why import Why
from case_jax.imageops import FILLS, finish_maps, normalise_image
from case_jax.methods import MapFunction, described, masked_rounds
from case_jax.metrics import METRICS, PERCENTS, Metric, MetricInputs, metric, quick
from case_jax.metrics.removals import merged, removed
from case_jax.metrics.specificity import PERCENTS as SPECIFICITY_PERCENTS
from case_jax.ranking import pixel_count
from case_jax.tap.link import require_probabilities
from case_jax.tap.view import Params, TappedModel, View

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Evaluate:
    """The class-sensitivity, fidelity and evidence tests, and every other metric.

    Rows hold `image_id`, `name`, `label`, `method`, `cluster_1`, … where images share something (see `source.Clustered`), `top1`, `top2`, `p1`, `p2`, `degenerate_1`, `degenerate_2`, why they are (`reason_1`,
    `reason_2`, the codes of `case_jax.reasons.Reason`), and the columns of every metric; with a random class also `random_class`,
    `degenerate_random` and `reason_random`. The label of an image of several true ones is `top1` where that is among them; `p1` and `p2`
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
        told = any(chosen.label for chosen in self._chosen().values())

        def found(stream: Iterator[Tile], through: Through) -> Iterator[tuple[Tile, Found]]:
            for tile, columns in through(step, given, map(labelled, stream) if told else stream):
                yield tile, Found(_rows(tile, {**columns, **_reasons(why, tile, columns)}, methods, ids))

        return Program([Compiled(step, lambda batch: (given, labelled_batch(batch) if told else batch))], found)

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


class ImageMaps(NamedTuple):
    """All methods' finished maps of one image's two likeliest classes and, where a metric needs one, of a random other."""

    maps: Float[Array, "M T H W"]
    degenerate: Bool[Array, "M T"]
    reasons: Int[Array, "M T"]
    targets: Int[Array, " T"]
    probabilities: Float[Array, " T"]


def other_class(key: Key[Array, ""], target: Int[Array, ""], num_classes: int) -> Int[Array, ""]:
    """A class drawn uniformly from all but the target."""
    drawn = jax.random.randint(key, (), 0, num_classes - 1, target.dtype)
    return drawn + (drawn >= target).astype(target.dtype)


def image_maps(
    question: Question,
    model: TappedModel,
    params: Params,
    image: Num[Array, "H W D"],
    image_id: Array,
    *,
    random: bool = False,
) -> tuple[View, ImageMaps]:
    """One image's view and all methods' maps of its two likeliest classes, and of a `random` other."""
    view = view_for_targets(model, params, normalise_image(image, *question.pixels))
    key = image_key(question.seed, image_id)
    targets = jax.lax.top_k(view.logits, 2)[1]
    if random:
        drawn = other_class(jax.random.fold_in(key, RANDOM_CLASS), targets[0], model.num_classes)
        targets = jnp.append(targets, drawn)
    found = maps_and_reasons(question, view, targets, key)
    return view, ImageMaps(*found, targets, shown_probabilities(view.logits, view.link)[targets])


def make_step(question: Question, metrics: Mapping[str, Metric], options: Options, model: TappedModel) -> Any:
    """The step of an evaluation.

    Returns:
        A pure function `((params, question.carried()), batch) → columns`, where a metric needs labels of a `LabelledBatch`: `top1`, `top2`, `p1`, `p2` of shape (B,), and of shape (B, M)
        `degenerate_1`, `degenerate_2`, `reason_1`, `reason_2` and the columns of every metric; with a random class also `random_class`,
        `degenerate_random` and `reason_random`. Replaced parameters of the same shapes do not retrace it.
    """
    random = any(metric.random_class for metric in metrics.values())
    plain = {name: found for name, found in metrics.items() if not found.explains}
    explaining = {name: found for name, found in metrics.items() if found.explains}
    wanted = merged(found.removal(**options.get(name, {})) for name, found in plain.items() if found.removal)

    def one(
        params: Params,
        question: Question,
        image: Array,
        image_id: Array,
        regions: Array,
        classes: Array,
        label: Array | int = -1,
    ) -> dict[str, Array]:
        view, found = image_maps(question, model, params, image, image_id, random=random)
        key = image_key(question.seed, image_id)
        black, noise = question.pixels.black(), jax.random.fold_in(key, NOISE)
        again = jax.random.fold_in(key, AGAIN)  # a random map that is drawn anew is another map

        def inputs(maps: Array, degenerate: Array) -> MetricInputs:
            probabilities = found.probabilities
            return MetricInputs(
                maps, degenerate, view, found.targets, probabilities, regions, classes, black, noise, label=label
            )

        without_map = inputs(found.maps[0, :0], found.degenerate[0, :0])
        of_image = {
            name: metric.of_image(without_map, **options.get(name, {}))
            for name, metric in metrics.items()
            if metric.of_image is not None
        }

        blind = [described(name, method).class_blind for name, method in question.methods.items()]
        left = removed(view, found.maps, blind, wanted, black=black, key=noise)

        def score(method: tuple[Array, Array, Any]) -> dict[str, Array]:
            maps, degenerate, without = method
            return _columns(inputs(maps, degenerate)._replace(removed=without), plain, options, of_image)

        def score_explaining(number: int, name: str, method: MapFunction) -> dict[str, Array]:
            def asked(seen: View, target: Int[Array, ""]) -> Query:
                likeliest, second = found.targets[:2]
                rival = jnp.where(target == likeliest, second, likeliest)
                targets = jnp.stack([target, rival]) if described(name, method).pair else target[None]
                return ask(seen, targets, question.contrast, key=again)

            def explain(altered: Float[Array, "H W D"]) -> Float[Array, "H W"]:
                other = view_for_targets(model, params, altered)
                return finish_maps(method(other, asked(other, found.targets[0])), altered.shape[:2])[0]

            def recursed(target: Int[Array, ""], rounds: int) -> Float[Array, "rounds C"]:
                return masked_rounds(view, asked(view, target), method, rounds).logits

            known = inputs(found.maps[number], found.degenerate[number])
            known = known._replace(explain=explain, recursed=recursed)
            return _columns(known, explaining, options, of_image)

        again_scored = [score_explaining(i, *method) for i, method in enumerate(question.methods.items())]
        third = {
            "random_class": found.targets[2],
            "degenerate_random": found.degenerate[:, 2],
            "reason_random": found.reasons[:, 2],
        }
        return {
            "top1": found.targets[0],
            "top2": found.targets[1],
            "p1": found.probabilities[0],
            "p2": found.probabilities[1],
            "degenerate_1": found.degenerate[:, 0],
            "degenerate_2": found.degenerate[:, 1],
            "reason_1": found.reasons[:, 0],
            "reason_2": found.reasons[:, 1],
            **(third if len(found.targets) > 2 else {}),
            **jax.lax.map(score, (found.maps, found.degenerate, left)),
            **jax.tree.map(lambda *columns: jnp.stack(columns), *again_scored),
        }

    def step(given: tuple[Params, Mapping[str, MapFunction]], batch: Batch | LabelledBatch) -> dict[str, Array]:
        params, carried = given
        return jax.vmap(partial(one, params, question.carrying(carried)))(*batch)

    return step


def _columns(
    inputs: MetricInputs, metrics: Mapping[str, Metric], options: Options, of_image: Mapping[str, Any]
) -> dict[str, Array]:
    """The columns of these metrics for one map."""
    columns: dict[str, Array] = {}
    for name, known in metrics.items():
        found = known.columns(inputs._replace(of_image=of_image.get(name)), **options.get(name, {}))
        twice = sorted(columns.keys() & found.keys())
        require(
            not twice,
            "metrics",
            f"columns {', '.join(twice)} from {name!r} and from another",
            "column names of its own",
        )
        columns |= found
    return columns


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

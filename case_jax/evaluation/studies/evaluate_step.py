"""The step of an evaluation: a batch of images to the maps of every method and the columns of every metric."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from case_jax._checks import require
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import Query
from case_jax.evaluation.batches import Batch
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
from case_jax.imageops import finish_maps, normalise_image
from case_jax.methods import MapFunction, described, masked_rounds
from case_jax.metrics import Metric, MetricInputs
from case_jax.metrics.removals import merged, removed
from case_jax.tap.view import Params, TappedModel, View

Options = Mapping[str, Mapping[str, Any]]
"""Keyword options of metrics, by name of the metric."""


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


class _Again(NamedTuple):
    """A method that metrics ask again, about the same classes of altered images."""

    model: TappedModel
    params: Params
    question: Question
    name: str
    method: MapFunction
    view: View
    targets: Int[Array, " T"]
    key: Key[Array, ""]
    """A random map that is drawn anew is another map."""

    def query(self, seen: View, target: Int[Array, ""]) -> Query:
        """What is asked about one class, and, of a method that needs a pair, about its rival."""
        likeliest, second = self.targets[:2]
        rival = jnp.where(target == likeliest, second, likeliest)
        asked = jnp.stack([target, rival]) if described(self.name, self.method).pair else target[None]
        return ask(seen, asked, self.question.contrast, key=self.key)

    def explain(self, altered: Float[Array, "H W D"]) -> Float[Array, "H W"]:
        """`MetricInputs.explain`."""
        other = view_for_targets(self.model, self.params, altered)
        return finish_maps(self.method(other, self.query(other, self.targets[0])), altered.shape[:2])[0]

    def recursed(self, target: Int[Array, ""], rounds: int) -> Float[Array, "rounds C"]:
        """`MetricInputs.recursed`."""
        return masked_rounds(self.view, self.query(self.view, target), self.method, rounds).logits


def make_step(question: Question, metrics: Mapping[str, Metric], options: Options, model: TappedModel) -> Any:
    """The step of an evaluation.

    Returns:
        A pure function `((params, question.carried()), batch) → columns`: `top1`, `top2`, `p1`, `p2` of shape (B,), and of shape (B, M)
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
        label: Array,
    ) -> dict[str, Array]:
        view, found = image_maps(question, model, params, image, image_id, random=random)
        key = image_key(question.seed, image_id)
        black, noise = question.pixels.black(), jax.random.fold_in(key, NOISE)
        again = jax.random.fold_in(key, AGAIN)
        maps, degenerate = found.maps, found.degenerate
        without_map = MetricInputs(
            maps[0, :0],
            degenerate[0, :0],
            view,
            found.targets,
            found.probabilities,
            regions,
            classes,
            black,
            noise,
            label=label,
        )
        of_image = {
            name: metric.of_image(without_map, **options.get(name, {}))
            for name, metric in metrics.items()
            if metric.of_image is not None
        }
        blind = [described(name, method).class_blind for name, method in question.methods.items()]
        left = removed(view, maps, blind, wanted, black=black, key=noise)

        def score(of_method: tuple[Array, Array, Any]) -> dict[str, Array]:
            maps, degenerate, without = of_method
            inputs = without_map._replace(maps=maps, degenerate=degenerate, removed=without)
            return _columns(inputs, plain, options, of_image)

        def score_explaining(number: int, name: str, method: MapFunction) -> dict[str, Array]:
            asked = _Again(model, params, question, name, method, view, found.targets, again)
            inputs = without_map._replace(maps=maps[number], degenerate=degenerate[number])
            inputs = inputs._replace(explain=asked.explain, recursed=asked.recursed)
            return _columns(inputs, explaining, options, of_image)

        scored = jax.lax.map(score, (maps, degenerate, left))
        explained = [score_explaining(i, *method) for i, method in enumerate(question.methods.items())]
        return _facts(found) | scored | jax.tree.map(lambda *columns: jnp.stack(columns), *explained)

    def step(given: tuple[Params, Mapping[str, MapFunction]], batch: Batch) -> dict[str, Array]:
        params, carried = given
        return jax.vmap(partial(one, params, question.carrying(carried)))(*batch)

    return step


def _facts(found: ImageMaps) -> dict[str, Array]:
    """What is known of an image's classes and maps before any metric."""
    facts = {
        "top1": found.targets[0],
        "top2": found.targets[1],
        "p1": found.probabilities[0],
        "p2": found.probabilities[1],
    }
    for number, name in enumerate(("1", "2", "random")[: len(found.targets)]):
        facts |= {f"degenerate_{name}": found.degenerate[:, number], f"reason_{name}": found.reasons[:, number]}
    return facts | ({"random_class": found.targets[2]} if len(found.targets) > 2 else {})


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

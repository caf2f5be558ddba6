"""The compiled part of sanity checks: the maps of one batch before and after every change of the classifier, compared."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from case_jax import parallel
from case_jax._checks import require, unknown
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import Query
from case_jax.evaluation.batches import Batch
from case_jax.evaluation.engine import Compiled
from case_jax.evaluation.maps import (
    AGAIN,
    Question,
    finished,
    finite_logits,
    image_key,
    raw_maps,
    view_for_targets,
)
from case_jax.imageops import normalise_image, resize_map
from case_jax.methods import described
from case_jax.metrics.similarity import TwoForms, map_similarities
from case_jax.tap.parameters import ParameterLayers, with_layers_of
from case_jax.tap.view import Params, TappedModel, at_least_float32

NOTHING_CHANGED, CASCADING, INDEPENDENT, LABELS = "nothing", "cascading", "independent", "labels"
KINDS = {
    CASCADING: "the layers from the logits down to this one are as before training",
    INDEPENDENT: "this layer alone is as before training",
    LABELS: "the whole classifier is one that was trained on shuffled labels",
}


class Change(NamedTuple):
    """Other parameters for some layers."""

    kind: str
    step: int
    """Counts the layers from the logits down, from 1."""
    layer: str
    chosen: Bool[np.ndarray, " L"]


class _Explained(NamedTuple):
    """All methods' maps of one image's target."""

    maps: TwoForms
    """Arrays (M, H, W)."""
    degenerate: Bool[Any, " M"]
    top1: Int[Any, ""]


def changes(layers: ParameterLayers, kinds: Sequence[str]) -> list[Change]:
    """What is changed, in order: first nothing, which shows what a method's own randomness costs.

    Raises:
        CaseJaxError: for an unknown kind, none, or one named twice.
    """
    require(kinds and len(set(kinds)) == len(kinds), "kinds", tuple(kinds), f"each once of {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kinds", kind, KINDS)
    number = np.arange(len(layers.names))
    found = [Change(NOTHING_CHANGED, 0, "", number < 0)]
    for step, name in enumerate(layers.names if CASCADING in kinds else (), start=1):
        found.append(Change(CASCADING, step, name, number < step))
    for step, name in enumerate(layers.names if INDEPENDENT in kinds else (), start=1):
        found.append(Change(INDEPENDENT, step, name, number == step - 1))
    if LABELS in kinds:
        found.append(Change(LABELS, 1, "all", number >= 0))
    return found


def make_sanity_step(
    question: Question, model: TappedModel, layers: ParameterLayers, listed: Sequence[Change]
) -> tuple[Callable[[Any, Batch], Any], list[Compiled]]:
    """A batch function for `through_devices`: the targets, and for every change the similarities of all methods' maps; and its parts.

    It runs three compiled programs: what is asked; the maps, once for the trained classifier and once for every change; their comparison.
    Which layers are changed is an argument, as parameters are, so nothing is traced twice.

    Args:
        question: methods, contrast sets, pixels and seed.
        model: the classifier, tapped.
        layers: its layers.
        listed: the changes.
    """

    def asked(params: Params, batch: Batch) -> Query:
        return jax.vmap(partial(_question, question, model, params))(batch.images)

    def explained(own: Params, other: Params, chosen: Array, draw: Array, batch: Batch, query: Query) -> _Explained:
        params = with_layers_of(own, other, layers, chosen)
        explain = partial(_explain, question, model, params, draw)
        return jax.vmap(explain)(batch.images, batch.image_ids, query)

    def compared(first: _Explained, second: _Explained) -> dict[str, Array]:
        return jax.vmap(_compare)(first, second)

    ask_all, explain, compare = (parallel.over_devices(f) for f in (asked, explained, compared))
    nothing, draw = np.zeros(len(layers.names), bool), np.int32(0)

    def of_question(batch: Batch) -> tuple[Any, ...]:
        return model.params, batch

    def of_maps(batch: Batch) -> tuple[Any, ...]:
        query = jax.eval_shape(asked, model.params, batch)
        return model.params, model.params, nothing, draw, batch, query

    def of_comparison(batch: Batch) -> tuple[Any, ...]:
        count, methods = len(batch.images), len(question.methods)
        maps: Any = np.zeros((count, methods, *batch.images.shape[1:3]), np.float32)
        one = _Explained(TwoForms(maps, maps), np.zeros((count, methods), bool), np.zeros(count, np.int32))
        return one, one

    arguments = [parallel.replicate((c.chosen, np.int32(i))) for i, c in enumerate(listed, start=1)]
    trained = parallel.replicate((nothing, draw))

    def step(params: Any, batch: Batch) -> tuple[Array, list[dict[str, Array]]]:
        own, untrained, *shuffled = params
        query = ask_all(own, batch)
        reference = explain(own, untrained, *trained, batch, query)
        found = []
        for change, (chosen, draw) in zip(listed, arguments, strict=True):
            other = shuffled[0] if change.kind == LABELS else untrained
            found.append(compare(reference, explain(own, other, chosen, draw, batch, query)))
        return query.targets, found

    count = len(listed)
    programs = [
        Compiled(ask_all, of_question),
        Compiled(explain, of_maps, 1 + count),
        Compiled(compare, of_comparison, count),
    ]
    return step, programs


def _question(question: Question, model: TappedModel, params: Params, image: Array) -> Query:
    """The trained classifier's likeliest class and its contrast set; the key comes later."""
    view = model.view(params, normalise_image(image, *question.pixels))
    return ask(view, view.logits.argmax(keepdims=True).astype(jnp.int32), question.contrast)


def _explain(
    question: Question, model: TappedModel, params: Params, draw: Array, image: Array, image_id: Array, query: Query
) -> _Explained:
    """All methods' maps of one image; equal parameters and draws give equal bits, because it is one compiled program."""
    view = view_for_targets(model, params, normalise_image(image, *question.pixels))
    again = jax.random.fold_in(image_key(question.seed, image_id), AGAIN)
    query, shape = query._replace(key=jax.random.fold_in(again, draw)), view.image.shape[:2]
    raws, maps, degenerate = [], [], []
    for name, method in question.methods.items():
        raw = at_least_float32(raw_maps(name, method, view, query))
        shown, flat = finished(raw, shape, finite_logits(view), rescaled=not described(name, method).mask)
        raws.append(resize_map(raw, shape)[0])
        maps.append(shown[0])
        degenerate.append(flat[0])
    return _Explained(TwoForms(jnp.stack(raws), jnp.stack(maps)), jnp.stack(degenerate), view.logits.argmax())


def _compare(first: _Explained, second: _Explained) -> dict[str, Array]:
    """The similarities of all methods' maps of one image, NaN where either is degenerate."""

    def one(pair: tuple[TwoForms, TwoForms, Bool[Array, ""]]) -> dict[str, Array]:
        a, b, unusable = pair
        return {name: jnp.where(unusable, jnp.nan, value) for name, value in map_similarities(a, b).items()}

    found = jax.lax.map(one, (first.maps, second.maps, first.degenerate | second.degenerate))
    marks = {"degenerate": first.degenerate, "degenerate_changed": second.degenerate, "top1": second.top1}
    return {**found, **marks}

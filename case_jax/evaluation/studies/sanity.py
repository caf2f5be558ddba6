"""Sanity checks: does a map change when what the classifier has learnt is taken away, layer by layer or all at once?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, *Sanity Checks for Saliency Maps*, NeurIPS 2018 (arXiv 1810.03292).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from case_jax._checks import require
from case_jax.evaluation.batches import Tile
from case_jax.evaluation.clusters import cluster_columns
from case_jax.evaluation.engine import Found, Images, Program, Through
from case_jax.evaluation.maps import Question
from case_jax.evaluation.studies.sanity_step import CASCADING, INDEPENDENT, LABELS, Change, changes, make_sanity_step
from case_jax.evaluation.subject import Subject
from case_jax.metrics.similarity import SIMILARITIES
from case_jax.results import fingerprint
from case_jax.tap.parameters import fitted, parameter_layers
from case_jax.tap.view import Params, TappedModel

SMALLEST = 12
"""Pixels on a side, for three cells of gradient histograms."""


@dataclass(frozen=True)
class Sanity:
    """Compare every method's map with the one that it gives when layers of the classifier are as before training.

    Both maps are of the class that the trained classifier predicts, with the same contrast set: the question stays, the classifier
    changes. Methods that draw random numbers draw new ones for every change, so that similarity which comes of equal draws is none;
    what they lose by that alone shows where nothing is changed. One compiled program makes the maps of all changes, those of
    the trained classifier too.

    One row per image, change and method: `kind`, `step`, `layer`; `target`, the trained classifier's class that both maps are of;
    `top1`, the changed classifier's class; the similarities; `degenerate` and `degenerate_changed`, with either of which similarities
    are NaN.
    """

    untrained: Params
    """The parameters that layers are changed to, of the same network: `models.initial.initial_params`, any newly initialised ones, or
    `tap.parameters.permuted` of the trained ones."""
    shuffled: Params | None = None
    """Parameters of the same network, trained on shuffled labels."""
    kinds: Sequence[str] | None = None
    """Names in `KINDS`; by default `cascading` and `independent`, and `labels` where there are `shuffled` parameters."""
    depth: int | None = None
    """What counts as a layer, see `parameter_layers`."""

    name = "sanity"
    unit = "images"
    scored = False
    tile = 8
    part = 8

    def check(self, subject: Subject, images: Images) -> None:
        """Raise for unknown kinds, `labels` without `shuffled` or these without it, parameters of another network, and small images."""
        changes(parameter_layers(subject.model, depth=self.depth), self._kinds())
        given = "no parameters of it" if self.shuffled is None else "such parameters without the kind"
        accepted = f"the kind {LABELS!r} together with parameters that were trained on shuffled labels"
        require((LABELS in self._kinds()) == (self.shuffled is not None), "shuffled", given, accepted)
        self._others(subject.model)
        height, width = images.first.image.shape[:2]
        accepted = f"{SMALLEST}×{SMALLEST} or more"
        require(min(height, width) >= SMALLEST, "source", f"images of {height}×{width} pixels", accepted)

    def program(self, question: Question, model: TappedModel, images: Images) -> Program:
        """What is asked, the maps once for every change, and their comparison: three compiled functions."""
        layers = parameter_layers(model, depth=self.depth)
        listed, params = changes(layers, self._kinds()), (model.params, *self._others(model))
        ids = len(images.first.clusters)
        step, compiled = make_sanity_step(question, model, layers, listed)

        def found(stream: Iterator[Tile], through: Through) -> Iterator[tuple[Tile, Found]]:
            for tile, (targets, compared) in through(step, params, stream):
                yield tile, Found(_rows(tile, targets[:, 0], compared, listed, tuple(question.methods), ids))

        return Program(compiled, found)

    def settings(self, subject: Subject) -> dict[str, Any]:
        """Kinds, layers, and digests of the other parameters."""
        prints = [fingerprint(jax.tree.leaves(params)) for params in self._others(subject.model)]
        layers = parameter_layers(subject.model, depth=self.depth)
        facts = {"kinds": list(self._kinds()), "layers": list(layers.names)}
        return {"sanity": facts | dict(zip(("untrained", "shuffled"), [*prints, None], strict=False))}

    def _kinds(self) -> Sequence[str]:
        return self.kinds or (CASCADING, INDEPENDENT, *([LABELS] if self.shuffled is not None else []))

    def _others(self, model: TappedModel) -> list[Params]:
        given = {"untrained": self.untrained, "shuffled": self.shuffled}
        return [fitted(model.params, params, name) for name, params in given.items() if params is not None]


def _rows(
    tile: Tile,
    targets: Int[np.ndarray, " B"],
    found: Sequence[Mapping[str, np.ndarray]],
    listed: Sequence[Change],
    methods: Sequence[str],
    ids: int,
) -> dict[str, np.ndarray]:
    """One row per image, change and method, as columns."""
    slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
    examples = [example for example in tile.examples if example is not None]
    shape = (len(slots), len(listed), len(methods))

    def columns(values: Sequence[Any] | np.ndarray, dtype: Any, axis: int) -> np.ndarray:
        """Values along one axis, repeated along the others."""
        along = np.asarray(values, dtype).reshape([-1 if a == axis else 1 for a in range(3)])
        return np.broadcast_to(along, shape).ravel()

    def stacked(name: str) -> np.ndarray:
        """(images, changes, …)"""
        return np.stack([of_change[name] for of_change in found], 1)[slots]

    similar = {name: stacked(name).astype(np.float32).ravel() for name in SIMILARITIES}
    return {
        "image_id": columns([e.image_id for e in examples], np.int64, 0),
        **{name: columns(values, np.int64, 0) for name, values in cluster_columns(examples, ids).items()},
        "kind": columns([c.kind for c in listed], str, 1),
        "step": columns([c.step for c in listed], np.int32, 1),
        "layer": columns([c.layer for c in listed], str, 1),
        "method": columns(methods, str, 2),
        "target": columns(targets[slots], np.int32, 0),
        "top1": np.repeat(stacked("top1").astype(np.int32).ravel(), len(methods)),
        **similar,
        "degenerate": stacked("degenerate").ravel(),
        "degenerate_changed": stacked("degenerate_changed").ravel(),
    }

"""The grid pointing game: mosaics of confidently classified images through a classifier, one score per cell and method."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from case_jax import parallel
from case_jax._checks import CaseJaxError, require
from case_jax.contrast.asking import ask
from case_jax.contrast.choice import ContrastChoice
from case_jax.contrast.sets import Query
from case_jax.evaluation.batches import Batch, Tile
from case_jax.evaluation.clusters import cluster_columns
from case_jax.evaluation.engine import Compiled, Found, Images, Program, Through
from case_jax.evaluation.maps import Question, image_key, raw_maps, view_for_targets
from case_jax.evaluation.studies.disconnected import disconnected
from case_jax.evaluation.studies.mosaics import Mosaics, confident_images, make_mosaics, require_confidence
from case_jax.evaluation.subject import Subject
from case_jax.imageops import is_degenerate, normalise_image, resize_map
from case_jax.metrics.grid_pointing import grid_pointing_scores, require_grid
from case_jax.source import stft_of
from case_jax.tap.view import TappedModel, View

GRIDPG, DIFULL = SETTINGS = ("GridPG", "DiFull")


def other_cells(logits: Float[Array, " C"], targets: Int[Array, " T"]) -> Int[Array, "T T-1"]:
    """The contrast set that a mosaic suggests: each class against those in the other cells; asked about all cells at once."""
    others = np.arange(len(targets) - 1) + (np.arange(len(targets) - 1) >= np.arange(len(targets))[:, None])
    return targets[others]


OTHER_CELLS = ContrastChoice("mosaic", other_cells)
"""The contrast that a mosaic suggests, see `other_cells`."""


def tap_at_mosaic_size(tap: Callable[[Float[Array, "H W 3"]], TappedModel], model: TappedModel, n: int) -> TappedModel:
    """The classifier tapped at the size of an n × n mosaic.

    Args:
        tap: taps the classifier for images of the given one's size.
        model: the same, tapped at the size of one image.
        n: rows and columns of the mosaic.

    Raises:
        CaseJaxError: for a network that does not take images of another size, or whose tapped map does not grow with them (as
            tokens on a grid of fixed size do not).
    """
    height, width, depth = model.image_shape
    accepted = "a network that takes images of any size: convolutions and a pooling of the whole map before the first dense layer"
    try:
        grown = tap(jnp.zeros((n * height, n * width, depth)))
    except (TypeError, ValueError) as error:
        raise CaseJaxError(
            f"model: cannot be tapped at layer {model.layer!r} for mosaics of {n * height}×{n * width} pixels, though it can for "
            f"images of {height}×{width}; accepted: {accepted}. ({error})"
        ) from error
    found, single = grown.activation_shape, model.activation_shape
    grows = all(
        f >= n * (s - 1) + 1 for f, s in zip(found[:2], single[:2], strict=True)
    )  # ⌈·⌉ may differ by one a cell
    require(
        grows and found[2] == single[2] and grown.num_classes == model.num_classes,
        "model",
        f"a map of {found} at layer {model.layer!r} for a mosaic of {n}×{n} images, which have one of {single} each",
        f"a layer whose map grows with the image, in {accepted}",
    )
    return grown


def of_mosaics(
    subject: Subject,
    tap: Callable[[Float[Array, "H W 3"]], TappedModel],
    *,
    n: int = 2,
    mosaics: int = 100,
    confidence: float | None = None,
    limit: int | None = None,
    stall: float | None = math.inf,
) -> Subject:
    """The subject with mosaics for images, and its classifier tapped at their size; one pass of the classifier over the images.

    Images are used once at most. As in the authors' code a class's image must be classified correctly with a probability of at
    least `confidence`.

    Args:
        subject: source, classifier and methods.
        tap: taps the classifier for images of the given one's size, for example `lambda x: tap_classifier(classifier, x)`.
        n: rows and columns of a mosaic.
        mosaics: how many; fewer are drawn, and that is counted, when the images do not suffice.
        confidence: least probability of an image's class, in (0, 1); by default 0.99, and 0.6 for scenes.
        limit: number of images to choose from, drawn by the seed; None takes all.
        stall: as `engine.run`.

    Raises:
        CaseJaxError: for a grid with more cells than classes, a confidence outside (0, 1), numbers below 1, images that do not
            suffice for one mosaic, sounds, or a classifier that does not take images of mosaic size.
    """
    require_grid(n)
    if confidence is not None:
        require_confidence(confidence)
    require(mosaics >= 1, "mosaics", mosaics, "a number of mosaics of at least 1")
    subject.check()
    model, source = subject.model, subject.source
    accepted = (
        "images: side by side, spectrograms would have times and frequencies that no classifier of sounds was trained on; "
        "whether maps of sounds lie on their class's evidence is what evaluate and localise ask"
    )
    require(stft_of(source) is None, "data", f"{source.name}, of sounds", accepted)
    require(n * n <= model.num_classes, "n", n, f"a grid of at most {model.num_classes} cells, one per class")
    grown = tap_at_mosaic_size(tap, model, n)
    chosen = confident_images(
        source, model, subject.pixels, confidence=confidence, limit=limit, seed=subject.seed, stall=stall
    )
    facts = {"images to choose from": len(chosen.indices), "classes among them": len(np.unique(chosen.classes))}
    chosen = chosen._replace(counts={**chosen.counts, **facts, "mosaics asked for": mosaics})
    drawn = make_mosaics(source, chosen, n=n, count=mosaics, seed=subject.seed, confidence=chosen.confidence)
    return subject._replace(source=drawn, model=grown, class_names=subject.names())


@dataclass(frozen=True)
class GridPointing:
    """GridPG: a mosaic of n² images of different classes goes through the whole network; the score of a class is the share of its
    map's positive mass in its own cell. DiFull: each cell is classified alone, see `disconnected`; a faithful map scores 1 there.

    Unlike in the authors' code, DiFull uses GridPG's mosaics and all their cells instead of one class shown in two corners,
    degenerate maps have no score instead of 0, and mass is counted at the map's own resolution: enlarging a map bilinearly moves some
    of it into the neighbouring cells, which `upsampled` does for comparison with published numbers.

    One row per mosaic, setting, method and cell: `image_id` of the mosaic, `cluster_1`, … where its images share something with those of
    others, `image` and `class` in the cell, `p_image` alone and
    `p_mosaic` there, `score`, NaN where the map is `degenerate`.
    """

    n: int = 2
    """Rows and columns of a mosaic."""
    difull: bool = True
    """Also run DiFull."""
    upsampled: bool = False
    """Score maps at input resolution."""

    name = "grid_pointing"
    unit = "mosaics"
    scored = False
    tile = 8
    part = 32

    def check(self, subject: Subject, images: Images) -> None:
        """Raise unless the images are mosaics of n × n."""
        _mosaics(subject, self.n)

    def program(self, question: Question, model: TappedModel, images: Images) -> Program:
        """Both settings in one compiled step."""
        game, settings = _Game(question, self.n, self.upsampled), {GRIDPG: partial(_gridpg, model=model)}
        if self.difull:
            height, width, depth = model.image_shape
            cell = dataclasses.replace(model, image_shape=(height // self.n, width // self.n, depth))
            settings[DIFULL] = partial(_difull, model=disconnected(cell, self.n))

        def one(params: Any, image: Array, image_id: Array, targets: Array) -> dict[str, dict[str, Array]]:
            normalised, key = normalise_image(image, *question.pixels), image_key(question.seed, image_id)
            return {name: setting(game, params, normalised, key, targets) for name, setting in settings.items()}

        def whole(params: Any, batch: Batch) -> Any:
            return jax.vmap(partial(one, params))(batch.images, batch.image_ids, batch.region_classes)

        step, drawn = parallel.over_devices(whole), images.source
        assert isinstance(drawn, Mosaics), "looked at by `check`"

        def found(stream: Iterator[Tile], through: Through) -> Iterator[tuple[Tile, Found]]:
            for tile, columns in through(step, model.params, stream):
                yield tile, Found(_rows(drawn, tile, columns, tuple(question.methods), len(images.first.clusters)))

        return Program([Compiled(step, lambda batch: (model.params, batch))], found)

    def settings(self, subject: Subject) -> dict[str, Any]:
        """All options, and how the mosaics came about."""
        drawn = _mosaics(subject, self.n)
        return {
            "grid_pointing": dataclasses.asdict(self)
            | {"confidence": drawn.chosen.confidence, "counts": {**drawn.chosen.counts, "mosaics drawn": len(drawn)}}
        }


def _mosaics(subject: Subject, n: int) -> Mosaics:
    source = subject.source
    proper = isinstance(source, Mosaics) and source.drawn.shape[1] == n * n
    require(proper, "source", source.name, f"mosaics of {n}×{n} images, see `of_mosaics`")
    assert isinstance(source, Mosaics)
    return source


@dataclass(frozen=True)
class _Game:
    """What decides the numbers of a step."""

    question: Question
    n: int
    upsampled: bool


def _scored(game: _Game, view: View, query: Query, cells: Int[Array, " T"]) -> dict[str, Array]:
    """Scores and degenerate maps (M, T), and the probability of each target (T,)."""
    finite = jnp.isfinite(view.logits).all()
    scores, degenerate = [], []
    for name, method in game.question.methods.items():
        maps = raw_maps(name, method, view, query)
        flat = is_degenerate(maps) | ~finite
        if game.upsampled:
            maps = resize_map(jax.nn.relu(maps), view.image.shape[:2])
        scores.append(jnp.where(flat, jnp.nan, grid_pointing_scores(maps, cells, game.n)).astype(jnp.float32))
        degenerate.append(flat)
    probability = view.probabilities()[query.targets].astype(jnp.float32)
    return {"score": jnp.stack(scores), "degenerate": jnp.stack(degenerate), "probability": probability}


def _gridpg(
    game: _Game, params: Any, image: Array, key: Array, targets: Array, *, model: TappedModel
) -> dict[str, Array]:
    """The mosaic through the whole network; maps of all classes present."""
    view = view_for_targets(model, params, image)
    return _scored(game, view, ask(view, targets, game.question.contrast, key=key), jnp.arange(len(targets)))


def _difull(
    game: _Game, params: Any, image: Array, key: Array, targets: Array, *, model: TappedModel
) -> dict[str, Array]:
    """Each cell through the network alone; the map of each class is asked of its own cell's head."""

    def of_cell(cell: Array) -> dict[str, Array]:
        view = view_for_targets(model, (params, cell), image)
        sets = game.question.contrast(view.logits, targets)[cell]  # asked about all cells, as `other_cells` must be
        found = _scored(game, view, Query(targets[cell][None], sets[None], key), cell[None])
        return {name: value[..., 0] for name, value in found.items()}

    found = jax.vmap(of_cell)(jnp.arange(len(targets), dtype=jnp.int32))
    return {name: jnp.moveaxis(value, 0, -1) for name, value in found.items()}


def _rows(
    drawn: Mosaics, tile: Tile, found: Mapping[str, Mapping[str, np.ndarray]], methods: tuple[str, ...], ids: int
) -> dict[str, np.ndarray]:
    """One row per mosaic, setting, method and cell, as columns; every mosaic shares `ids` things with others."""
    slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
    clusters = cluster_columns([example for example in tile.examples if example is not None], ids)
    numbers = np.array([e.image_id for e in tile.examples if e is not None], np.int64)
    settings = [name for name in SETTINGS if name in found]  # JAX sorts the keys of dictionaries
    at = drawn.drawn[numbers]
    cells = at.shape[1]
    shape = (len(slots), len(settings), len(methods), cells)

    def spread(values: np.ndarray, *axes: int) -> np.ndarray:
        """Values along these axes, repeated along the others."""
        return np.broadcast_to(values.reshape([shape[a] if a in axes else 1 for a in range(4)]), shape).ravel()

    def stacked(name: str) -> np.ndarray:
        return np.stack([found[setting][name][slots] for setting in settings], 1)

    return {
        "image_id": spread(numbers, 0),
        **{name: spread(column, 0) for name, column in clusters.items()},
        "setting": spread(np.array(settings), 1),
        "method": spread(np.array(methods), 2),
        "cell": spread(np.arange(cells), 3),
        "image": spread(drawn.chosen.indices[at], 0, 3),
        "class": spread(drawn.chosen.classes[at], 0, 3),
        "p_image": spread(drawn.chosen.probabilities[at], 0, 3),
        "p_mosaic": spread(stacked("probability"), 0, 1, 3),
        "score": stacked("score").ravel(),
        "degenerate": stacked("degenerate").ravel(),
    }

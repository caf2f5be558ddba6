"""The grid pointing game: mosaics of confidently classified images through a classifier, one score per cell and method."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, UInt8
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, require_seed
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import ContrastSet, Query
from case_jax.evaluation.disconnected import disconnected
from case_jax.evaluation.mosaics import Mosaics, confident_images, make_mosaics, require_confidence
from case_jax.evaluation.step import Pixels, Protocol, image_key, maps_of_view, view_for_targets
from case_jax.evaluation.stream import Tile, first_readable, load_tile, template, through_devices, tiles
from case_jax.imageops import is_degenerate, normalise_image, resize_map
from case_jax.methods import MapFunction
from case_jax.metrics.grid_pointing import grid_pointing_scores, require_grid
from case_jax.source import Source
from case_jax.tap.view import TappedModel, View, at_least_float32

GRIDPG, DIFULL = SETTINGS = ("GridPG", "DiFull")


class Shown(NamedTuple):
    """A few mosaics with all methods' maps of each cell's class, to be drawn."""

    images: UInt8[np.ndarray, "S H W 3"]
    targets: Int[np.ndarray, "S T"]
    """The class in each of the T = n² cells."""
    maps: Float[np.ndarray, "S M T H W"]
    """Finished: at input resolution, in [0, 1]; GridPG."""
    degenerate: Bool[np.ndarray, "S M T"]
    scores: Float[np.ndarray, "S M T"]


class GridPointing(NamedTuple):
    """What the game gave."""

    rows: pd.DataFrame
    """One row per setting, mosaic, cell and method: `score`, NaN where the map is `degenerate`."""
    counts: dict[str, int]
    """How many images and mosaics were used, left out, and why."""
    excluded: list[dict[str, Any]]
    """Mosaics that could not be read a second time."""
    methods: tuple[str, ...]
    n: int
    shown: Shown


class _Game(NamedTuple):
    """What decides the numbers of a step."""

    methods: Mapping[str, MapFunction]
    contrast: ContrastSet
    pixels: Pixels
    n: int
    seed: int
    upsampled: bool


def other_cells(logits: Float[Array, " C"], targets: Int[Array, " T"]) -> Int[Array, "T T-1"]:
    """The contrast set that a mosaic suggests: each class against those in the other cells; asked about all cells at once."""
    others = np.arange(len(targets) - 1) + (np.arange(len(targets) - 1) >= np.arange(len(targets))[:, None])
    return targets[others]


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


def _scored(game: _Game, view: View, query: Query, cells: Int[Array, " T"]) -> dict[str, Array]:
    """Scores and degenerate maps (M, T), and the probability of each target (T,)."""
    finite = jnp.isfinite(view.logits).all()
    scores, degenerate = [], []
    for name, method in game.methods.items():
        maps = method(view, query)
        proper = maps.ndim == 3 and len(maps) == len(query.targets)
        require(proper, f"method {name!r}", f"an output of shape {maps.shape}", "one map per target")
        flat = is_degenerate(maps) | ~finite
        if game.upsampled:
            maps = resize_map(jax.nn.relu(maps), view.image.shape[:2])
        scores.append(jnp.where(flat, jnp.nan, grid_pointing_scores(maps, cells, game.n)).astype(jnp.float32))
        degenerate.append(flat)
    probability = jax.nn.softmax(at_least_float32(view.logits))[query.targets].astype(jnp.float32)
    return {"score": jnp.stack(scores), "degenerate": jnp.stack(degenerate), "probability": probability}


def _gridpg(game: _Game, model: TappedModel, params: Any, image: Array, key: Array, targets: Array) -> dict[str, Array]:
    """The mosaic through the whole network; maps of all classes present."""
    view = view_for_targets(model, params, image)
    return _scored(game, view, ask(view, targets, game.contrast, key=key), jnp.arange(len(targets)))


def _difull(game: _Game, model: TappedModel, params: Any, image: Array, key: Array, targets: Array) -> dict[str, Array]:
    """Each cell through the network alone; the map of each class is asked of its own cell's head."""

    def of_cell(cell: Array) -> dict[str, Array]:
        view = view_for_targets(model, (params, cell), image)
        sets = game.contrast(view.logits, targets)[cell]  # asked about all cells, as `other_cells` must be
        found = _scored(game, view, Query(targets[cell][None], sets[None], key), cell[None])
        return {name: value[..., 0] for name, value in found.items()}

    found = jax.vmap(of_cell)(jnp.arange(len(targets), dtype=jnp.int32))
    return {name: jnp.moveaxis(value, 0, -1) for name, value in found.items()}


def require_game(*, n: int, mosaics: int, confidence: float, tile: int, seed: int) -> None:
    """Raise unless the game's numbers make sense, whatever the classifier and the images."""
    require_grid(n)
    require_seed(seed)
    require_confidence(confidence)
    require(tile >= 1, "tile", tile, "at least 1 mosaic per device and step")
    require(mosaics >= 1, "mosaics", mosaics, "a number of mosaics of at least 1")


def grid_pointing(
    source: Source,
    tap: Callable[[Float[Array, "H W 3"]], TappedModel],
    methods: Mapping[str, MapFunction],
    *,
    pixels: Pixels,
    contrast: ContrastSet = other_cells,
    n: int = 2,
    mosaics: int = 100,
    confidence: float = 0.99,
    limit: int | None = None,
    difull: bool = True,
    upsampled: bool = False,
    seed: int = 0,
    tile: int = 8,
    shown: int = 3,
    progress: bool | None = None,
) -> GridPointing:
    """Play the grid pointing game with every method on the same mosaics.

    GridPG: a mosaic of n² images of different classes goes through the whole network; the score of a class is the share of its
    map's positive mass in its own cell. DiFull: each cell is classified alone, see `disconnected`; a faithful map scores 1
    there. Images are used once at most. As in the authors' code a class's image must be classified correctly with a probability of at
    least `confidence`; unlike there, DiFull uses GridPG's mosaics and all their cells instead of one class shown in two
    corners, degenerate maps have no score instead of 0, and mass is counted at the map's own resolution: enlarging a map bilinearly
    moves some of it into the neighbouring cells, which `upsampled` does for comparison with published numbers.

    Args:
        source: the images, all of one size.
        tap: taps the classifier for images of the given one's size, for example `lambda x: tap_classifier(classifier, x)`.
        methods: map functions by name.
        pixels: how pixels are normalised.
        contrast: contrast sets of the contrastive methods; by default each class is contrasted with those in the other cells.
        n: rows and columns of a mosaic.
        mosaics: how many; fewer are drawn, and that is counted, when the images do not suffice.
        confidence: least probability of an image's class, in (0, 1).
        limit: number of images to choose from, drawn by the seed; None takes all.
        difull: also run DiFull.
        upsampled: score maps at input resolution.
        seed: for choosing images, drawing mosaics and random methods.
        tile: mosaics per device and step.
        shown: how many mosaics to keep with their maps.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The rows, what was left out, and some maps.

    Raises:
        CaseJaxError: for a grid with more cells than classes, a confidence outside (0, 1), numbers below 1, images that do not
            suffice for one mosaic, or a classifier that does not take images of mosaic size.
    """
    require_game(n=n, mosaics=mosaics, confidence=confidence, tile=tile, seed=seed)
    require(methods, "methods", "none", "at least one map function by name")
    require(shown >= 0, "shown", shown, "a number of mosaics of at least 0")
    size = first_readable(source, np.arange(len(source))).image.shape
    model = tap(jnp.zeros(size))
    require(n * n <= model.num_classes, "n", n, f"a grid of at most {model.num_classes} cells, one per class")
    grown = tap_at_mosaic_size(tap, model, n)
    chosen = confident_images(source, model, pixels, confidence=confidence, limit=limit, seed=seed)
    drawn = make_mosaics(source, chosen, n=n, count=mosaics, seed=seed, confidence=confidence)
    game = _Game(methods, contrast, pixels, n, seed, upsampled)
    settings = {GRIDPG: partial(_gridpg, game, grown)}
    if difull:
        settings[DIFULL] = partial(_difull, game, disconnected(model, n))

    def one(params: Any, image: Array, image_id: Array, _: Array, targets: Array) -> dict[str, dict[str, Array]]:
        normalised, key = normalise_image(image, *pixels), image_key(seed, image_id)
        return {name: setting(params, normalised, key, targets) for name, setting in settings.items()}

    step = parallel.over_devices(lambda params, batch: jax.vmap(partial(one, params))(*batch))
    rows, excluded = _stream(drawn, step, model.params, tuple(methods), tile, progress)
    counts = {
        **chosen.counts,
        "images to choose from": len(chosen.indices),
        "classes among them": len(np.unique(chosen.classes)),
        "mosaics asked for": mosaics,
        "mosaics drawn": len(drawn),
        "mosaics that could not be read again": len(excluded),
    }
    return GridPointing(rows, counts, excluded, tuple(methods), n, _shown(game, grown, drawn, rows, shown))


def _stream(
    drawn: Mosaics, step: Any, params: Any, methods: tuple[str, ...], tile: int, progress: bool | None
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """All mosaics through the compiled step."""
    indices = np.arange(len(drawn))
    empty = template(drawn, indices, tile)
    frames, excluded = [], []
    stream = tiles(drawn, indices, range(-(-len(indices) // tile)), empty, ahead=4)
    with tqdm(
        total=len(indices), unit=" mosaics", desc="grid pointing", disable=None if progress is None else not progress
    ) as bar:
        for read, found in through_devices(step, params, stream):
            excluded += read.excluded
            frames += list(_frames(drawn, read, found, methods))
            bar.update(sum(example is not None for example in read.examples) + len(read.excluded))
    return pd.concat(frames, ignore_index=True), excluded


def _frames(
    drawn: Mosaics, read: Tile, found: Mapping[str, Mapping[str, np.ndarray]], methods: tuple[str, ...]
) -> Iterator[pd.DataFrame]:
    """The rows of one tile: a frame per mosaic and setting, ordered by method, then cell."""
    for slot, example in enumerate(read.examples):
        if example is None:
            continue
        at = drawn.drawn[example.image_id]
        for setting in (name for name in SETTINGS if name in found):  # JAX sorts the keys of dictionaries
            columns = found[setting]
            scores, degenerate = columns["score"][slot], columns["degenerate"][slot]
            of_cell = {
                "cell": np.arange(len(at)),
                "image": drawn.chosen.indices[at],
                "class": drawn.chosen.classes[at],
                "p_image": drawn.chosen.probabilities[at],
                "p_mosaic": columns["probability"][slot],
            }
            yield pd.DataFrame(
                {
                    "setting": setting,
                    "mosaic": example.image_id,
                    **{name: np.tile(values, len(methods)) for name, values in of_cell.items()},
                    "method": np.repeat(methods, len(at)),
                    "score": scores.ravel(),
                    "degenerate": degenerate.ravel(),
                }
            )


def _shown(game: _Game, model: TappedModel, drawn: Mosaics, rows: pd.DataFrame, count: int) -> Shown:
    """The first mosaics with their maps, computed anew, one at a time."""
    protocol = Protocol(game.methods, game.contrast, {}, {}, game.pixels, game.seed)
    read = load_tile(drawn, np.arange(len(drawn)), 0, template(drawn, np.arange(len(drawn)), max(1, count)))
    kept = [slot for slot, example in enumerate(read.examples) if example is not None][:count]

    @jax.jit
    def finished(params: Any, image: Array, image_id: Array, targets: Array) -> tuple[Array, Array]:
        view = view_for_targets(model, params, normalise_image(image, *game.pixels))
        return maps_of_view(protocol, view, targets, image_key(game.seed, image_id))

    images, numbers, _, targets = (array[kept] for array in read.batch)
    size = (len(game.methods), game.n**2)
    maps = np.zeros((len(kept), *size, *images.shape[1:3]), np.float32)
    degenerate, scores = np.zeros((len(kept), *size), bool), np.zeros((len(kept), *size), np.float32)
    for place, number in enumerate(numbers):
        maps[place], degenerate[place] = finished(model.params, images[place], number, targets[place])
        of_mosaic = rows[(rows["setting"] == GRIDPG) & (rows["mosaic"] == number)]
        scores[place] = of_mosaic["score"].to_numpy().reshape(size)
    return Shown(images, targets, maps, degenerate, scores)

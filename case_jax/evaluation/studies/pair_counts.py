"""The compiled step of a sweep: top pixels that the maps of two classes share, summed over images as integers.

Maps are enlarged a few classes at a time and kept as packed masks, a bit a pixel: no array of classes × height × width is formed.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from case_jax import parallel
from case_jax._checks import require
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import Query
from case_jax.evaluation.batches import Batch
from case_jax.evaluation.maps import Question, finished, finite_logits, image_key, raw_maps
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.parallel.grid import Share, Step
from case_jax.ranking import shared_pixels, top_words
from case_jax.tap.cpu_convolutions import cpu_convolutions
from case_jax.tap.view import Params, TappedModel, View


class Counts(NamedTuple):
    """Sums on one device; int32, so they are fetched before they can overflow."""

    overlap: Int[Any, "M R C"]
    """Pixels shared by the tops of classes r and c; R are this device's rows."""
    images: Int[Any, "M R C"]
    """Images in which both maps were usable."""
    degenerate: Int[Any, " M"]


class Pairs(NamedTuple):
    """Which pairs of maps are compared, and what of them is in memory at once."""

    top: int
    """Pairs among this many likeliest classes of each image; all pairs when as many as there are classes."""
    pixels: int
    """How many pixels a top has."""
    at_once: int
    """Maps that are enlarged and ranked together."""
    asked: int
    """Classes of each image that a method is asked about together where it must not be asked about all."""
    kept: int
    """Pixels of one method's maps of an image at their own resolution up to which it is asked about all classes together."""


BYTES_A_PIXEL = 16
"""What a pixel of a map takes while it is ranked: its value, its rank, the halves of this, and masks that are not packed yet."""
CACHED = 1 << 20
"""Pixels that are ranked together on a CPU: what its caches hold."""


def pairs_in(
    memory: int, *, top: int, pixels: int, shape: tuple[int, ...], tile: int, methods: int, gradients: int
) -> Pairs:
    """What fits: half of the memory for maps at their own resolution, half for those at input resolution.

    Args:
        memory: bytes on one device.
        top: see `Pairs`.
        pixels: see `Pairs`.
        shape: height and width of the images.
        tile: images at once.
        methods: how many.
        gradients: most gradients at once, the model's `chunk`.

    Raises:
        CaseJaxError: when not even one map of every image fits.
    """
    one = shape[0] * shape[1] * BYTES_A_PIXEL
    accepted = f"at least {2 * tile * one} bytes, for a map of {shape[0]}×{shape[1]} pixels of each of {tile} images; or a smaller tile"
    require(memory >= 2 * tile * one, "memory", memory, accepted)
    fitting = memory // 2 // one
    cached = max(1, CACHED // (shape[0] * shape[1])) if parallel.platform() == "cpu" else fitting
    asked = max(1, min(fitting, gradients) // tile)
    return Pairs(top, pixels, min(fitting, cached), asked, memory // 2 // (4 * tile * methods))


class _Asked(NamedTuple):
    """What a device's maps of one tile are of."""

    targets: Int[Array, "B T"]
    """The classes asked about, on all devices that share the tile."""
    mine: Bool[Array, "B t"]
    """Which of this device's t maps count: not those of empty slots, nor those that only fill the share."""
    finite: Bool[Array, " B"]


Tops = tuple[UInt32[Array, "*b t W"], Bool[Array, "*b t"]]
"""Packed top pixels of maps, and which maps are degenerate."""


def empty_counts(methods: int, classes: int, shards: int) -> Counts:
    """The shapes of one device's counts; its rows are a share of the classes, the last may end beyond them."""
    matrix = jax.ShapeDtypeStruct((methods, -(-classes // shards), classes), jnp.int32)
    return Counts(matrix, matrix, jax.ShapeDtypeStruct((methods,), jnp.int32))


def make_counting_step(question: Question, model: TappedModel, pairs: Pairs) -> Step:
    """The step of a sweep, `(counts, params, batch, *, share) → (counts, images seen)`.

    A device makes the maps of its share of the classes and receives the packed tops of all the others. Slots without an image have a
    negative id and count nowhere.
    """

    def step(counts: Counts, params: Params, batch: Batch, *, share: Share) -> tuple[Counts, Array]:
        size, shape = -(-pairs.top // share.of), batch.images.shape[1:3]
        places = share.index * size + jnp.arange(size, dtype=jnp.int32)

        def of_image(image: Array, image_id: Array) -> tuple[Array, Array, list[Array | Tops]]:
            view = _view(question, model, params, normalise_image(image, *question.pixels), pairs.top, size)
            targets = jax.lax.top_k(view.logits, pairs.top)[1]
            query = ask(view, targets, question.contrast, key=image_key(question.seed, image_id))
            mine = _rows(query, jnp.minimum(places, pairs.top - 1))
            found = [_maps(view, mine, name, method, pairs) for name, method in question.methods.items()]
            return targets, finite_logits(view), found

        targets, finite, found = jax.vmap(of_image)(batch.images, batch.image_ids)
        real = batch.image_ids >= 0
        asked = _Asked(targets, real[:, None] & (places < pairs.top), finite)
        add = partial(_add, asked=asked, share=share, every=pairs.top == model.num_classes)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)  # maps of one shape: one program for all of them
        for number, maps in enumerate(found):
            if isinstance(maps, tuple):
                counts = add(counts, jnp.int32(number), maps)
            else:
                alike[maps.shape].append(number)
        for numbers in alike.values():

            def more(counts: Counts, one: tuple[Array, Array]) -> tuple[Counts, None]:
                return add(counts, one[0], _tops(one[1], shape, finite, pairs)), None

            stacked = jnp.stack([jnp.asarray(found[number]) for number in numbers])
            counts, _ = jax.lax.scan(more, counts, (jnp.asarray(numbers, jnp.int32), stacked))
        return counts, real.sum(dtype=jnp.int32)

    return step


def _view(question: Question, model: TappedModel, params: Params, image: Array, targets: int, mine: int) -> View:
    """A view with a table of all class weights, unless those of this device's targets and of their sets are fewer."""
    asked, dtype = jax.ShapeDtypeStruct((targets,), jnp.int32), model.activation_dtype
    sets = jax.eval_shape(question.contrast, jax.ShapeDtypeStruct((model.num_classes,), dtype), asked).shape[1]
    table = model.num_classes <= model.chunk or mine * (1 + sets) >= model.num_classes
    return model.view_all(params, image) if table else model.view(params, image)


def _rows(query: Query, places: Int[Array, " t"]) -> Query:
    """What is asked about some of the targets; their sets are those that they have among all of them."""
    contrast = None if query.contrast is None else query.contrast[places]
    return query._replace(targets=query.targets[places], contrast=contrast)


def _maps(view: View, query: Query, name: str, method: MapFunction, pairs: Pairs) -> Float[Array, "t h w"] | Tops:
    """One method's maps of an image at their own resolution, or only their tops where these are too many pixels to keep."""
    maps = raw_maps(name, method, view, query)
    if maps.size <= pairs.kept:
        return maps  # otherwise nobody uses them, and they are never computed

    def of_some(places: Array) -> Tops:
        raw = raw_maps(name, method, view, _rows(query, places))
        return _top(raw, view.image.shape[:2], finite_logits(view), pairs.pixels)

    return _in_chunks(cpu_convolutions(of_some), len(maps), pairs.asked)


def _tops(raw: Float[Array, "B t h w"], shape: tuple[int, ...], finite: Bool[Array, " B"], pairs: Pairs) -> Tops:
    """Tops of the maps of a tile, enlarged in chunks, whatever the image."""
    maps, whole = raw.reshape(-1, *raw.shape[2:]), jnp.repeat(finite, raw.shape[1])
    found = _in_chunks(lambda at: _top(maps[at], shape, whole[at], pairs.pixels), len(maps), pairs.at_once)
    return jax.tree.map(lambda a: a.reshape(*raw.shape[:2], *a.shape[1:]), found)


def _top(raw: Float[Array, "t h w"], shape: tuple[int, ...], finite: Bool[Array, "*t"], pixels: int) -> Tops:
    maps, degenerate = finished(raw, shape, finite)
    return jax.vmap(partial(top_words, count=pixels))(maps), degenerate


def _in_chunks(function: Callable[[Int[Array, " t"]], Any], count: int, chunk: int) -> Any:
    """`function(arange(count))`, of places in chunks of one size; the last place is repeated to fill the last chunk."""
    number = -(-count // chunk)
    size = -(-count // number)
    places = jnp.minimum(jnp.arange(number * size, dtype=jnp.int32), count - 1).reshape(number, size)
    if number == 1:
        return function(places[0])
    found = jax.lax.map(function, places)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], found)


def _add(counts: Counts, number: Int[Array, ""], tops: Tops, *, asked: _Asked, share: Share, every: bool) -> Counts:
    """Add one method's tops of a tile."""
    words, degenerate = tops
    usable = asked.mine & ~degenerate
    count = asked.targets.shape[1]
    words, usable = (share.gather(a, 1)[:, :count] for a in (words, usable))
    add_image = partial(_add_every if every else _add_some, share=share)
    start = counts.overlap[number], counts.images[number]
    overlap, images = jax.lax.scan(
        lambda sums, image: (add_image(sums, *image), None), start, (asked.targets, words, usable)
    )[0]
    return Counts(
        counts.overlap.at[number].set(overlap),
        counts.images.at[number].set(images),
        counts.degenerate.at[number].add((asked.mine & degenerate).sum(dtype=jnp.int32)),
    )


Sums = tuple[Int[Array, "R C"], Int[Array, "R C"]]


def _add_every(sums: Sums, targets: Int[Array, " C"], words: Array, usable: Array, *, share: Share) -> Sums:
    """All pairs of an image: the tops in the order of the classes, this device's rows with all."""
    height, classes = sums[0].shape
    order = jnp.argsort(targets)
    words, usable = _blank(words, usable)[order], usable[order]
    rows = share.index * height + jnp.arange(height, dtype=jnp.int32)
    own, at = rows < classes, jnp.minimum(rows, classes - 1)
    mine = jnp.where(own[:, None], words[at], jnp.uint32(0))
    return sums[0] + shared_pixels(mine, words), sums[1] + _together(own & usable[at], usable)


def _add_some(sums: Sums, targets: Int[Array, " T"], words: Array, usable: Array, *, share: Share) -> Sums:
    """Pairs of an image's own classes, added where they belong; what falls into other devices' rows is left to them."""
    height = len(sums[0])
    row = targets - share.index * height
    row = jnp.where((row >= 0) & (row < height), row, height)  # beyond the end: dropped
    at, words = (row[:, None], targets[None, :]), _blank(words, usable)
    return sums[0].at[at].add(shared_pixels(words, words), mode="drop"), sums[1].at[at].add(
        _together(usable, usable), mode="drop"
    )


def _blank(words: UInt32[Array, "t W"], usable: Bool[Array, " t"]) -> UInt32[Array, "t W"]:
    """Maps that do not count share no pixels with any."""
    return jnp.where(usable[:, None], words, jnp.uint32(0))


def _together(rows: Bool[Array, " r"], columns: Bool[Array, " c"]) -> Int[Array, "r c"]:
    return (rows[:, None] & columns).astype(jnp.int32)

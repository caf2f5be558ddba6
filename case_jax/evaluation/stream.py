"""Images from a source through a compiled function on all local devices, in fixed tiles.

Tile t holds positions [t·size, (t+1)·size) of the selected images, always in the same slots, and a step takes one tile per
device. What a tile's rows are therefore does not depend on the number of devices, nor on where a run was interrupted.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, require_seed
from case_jax.evaluation.step import Batch, empty_batch
from case_jax.source import NOBODY, Example, Source, UnreadableImageError

LOADERS = 4


class Tile(NamedTuple):
    """One device's share of a step."""

    number: int
    examples: list[Example | None]
    """One per slot; None where the slot is empty or the image could not be read."""
    excluded: list[dict[str, Any]]
    batch: Batch


def select(source: Source, limit: int | None, seed: int) -> Int[np.ndarray, " N"]:
    """Which images are evaluated: all, or `limit` of them drawn once by the seed, in ascending order.

    Raises:
        CaseJaxError: for a limit below 1 or above the number of images.
    """
    require_seed(seed)
    if limit is None or limit == len(source):
        return np.arange(len(source))
    require(
        1 <= limit <= len(source),
        "limit",
        limit,
        f"a number of images from 1 to {len(source)}, the size of {source.name}",
    )
    return np.sort(np.random.default_rng(seed).permutation(len(source))[:limit])


def first_readable(source: Source, indices: Int[np.ndarray, " N"]) -> Example:
    """The first image that can be read.

    Raises:
        CaseJaxError: when none can be read, or the image is not uint8 of shape (H, W, 3).
    """
    first_error = None
    for index in indices:
        try:
            example = source[int(index)]
        except UnreadableImageError as error:
            first_error = first_error or error
            continue
        image = np.asarray(example.image)
        require(
            image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8,
            f"source {source.name!r}, image {example.name!r}",
            f"shape {image.shape}, dtype {image.dtype}",
            "uint8 of shape (height, width, 3)",
        )
        return example
    raise CaseJaxError(
        f"data: none of the {len(indices)} images of {source.name} could be read; the first: {first_error}."
    )


def template(source: Source, indices: Int[np.ndarray, " N"], size: int) -> Batch:
    """An empty batch of `size` images of the source's shapes."""
    require(size >= 1, "tile", size, "at least 1 image per device and step")
    example = first_readable(source, indices)
    evidence = 0 if example.evidence is None else len(example.evidence.classes)
    return Batch(
        np.zeros((size, *example.image.shape), np.uint8),
        np.full(size, -1, np.int32),
        np.zeros((size, evidence, *example.image.shape[:2]), bool),
        np.full((size, evidence), NOBODY, np.int32),
    )


def load_tile(source: Source, indices: Int[np.ndarray, " N"], number: int, empty: Batch) -> Tile:
    """Read one tile; images that cannot be read leave their slot empty and are listed."""
    size = len(empty.image_ids)
    batch = Batch(*(a.copy() for a in empty))
    examples: list[Example | None] = [None] * size
    excluded = []
    for slot, index in enumerate(indices[number * size : (number + 1) * size]):
        try:
            example = source[int(index)]
        except UnreadableImageError as error:
            excluded.append({"index": int(index), "name": error.name, "reason": error.reason})
            continue
        _check(example, source, empty)
        examples[slot] = example
        batch.images[slot], batch.image_ids[slot] = example.image, example.image_id
        if example.evidence is not None:
            batch.regions[slot], batch.region_classes[slot] = example.evidence
    return Tile(number, examples, excluded, batch)


def _check(example: Example, source: Source, empty: Batch) -> None:
    """Every image must fit the first one's shapes, have an id that int32 holds, and a label that exists."""
    image, evidence, expected = f"image {example.name!r}", example.evidence, empty.regions.shape[1:]
    pixels, accepted = np.asarray(example.image), f"uint8 of shape {empty.images.shape[1:]} like the first image"
    proper = pixels.shape == empty.images.shape[1:] and pixels.dtype == np.uint8
    require(proper, image, f"shape {pixels.shape}, dtype {pixels.dtype}", accepted)
    regions = (0, *expected[1:]) if evidence is None else np.shape(evidence.regions)
    require(
        regions == expected, image, f"evidence of shape {regions}", f"{expected} like the first image; pad with NOBODY"
    )
    require(0 <= example.image_id < 2**31, image, f"id {example.image_id}", "a stable id from 0 to 2³¹ − 1")
    if source.class_names is not None:
        known = len(source.class_names)
        require(
            -1 <= example.label < known,
            image,
            f"label {example.label}",
            f"a class from 0 to {known - 1}, or −1 for none",
        )


def tiles(
    source: Source, indices: Int[np.ndarray, " N"], numbers: Iterable[int], empty: Batch, *, ahead: int
) -> Iterator[Tile]:
    """Tiles in the given order, read by background threads, at most `ahead` in advance."""
    with ThreadPoolExecutor(LOADERS) as pool:
        waiting: deque[Future[Tile]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(load_tile, source, indices, number, empty))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def through_devices(
    step: Callable[[Any, Batch], Any], params: Any, stream: Iterable[Tile]
) -> Iterator[tuple[Tile, Any]]:
    """Run a compiled batch function on every tile, one tile per local device at a time.

    The next step is dispatched before the last one's results are fetched, so the devices do not wait for the host's rows.

    Args:
        step: `(params, batch)` to a pytree of arrays with leading axis B, under `parallel.over_devices`.
        params: the step's parameters; replicated once.
        stream: tiles; the last step is padded with empty ones.

    Yields:
        Each tile with its results as NumPy arrays, in order.
    """
    count = parallel.device_count()
    params = parallel.replicate(params)
    pending: tuple[list[Tile], Any] | None = None
    for group in groups(stream, count):
        batches = [tile.batch for tile in group]
        batches += [empty_batch(batches[0])] * (count - len(batches))
        stacked = parallel.shard(jax.tree.map(lambda *a: np.stack(a), *batches))
        dispatched = (group, step(params, stacked))
        if pending is not None:
            yield from _fetch(pending)
        pending = dispatched
    if pending is not None:
        yield from _fetch(pending)


def groups(stream: Iterable[Tile], count: int) -> Iterator[list[Tile]]:
    """`count` tiles at a time, as many as one step takes; fewer at the end."""
    group: list[Tile] = []
    for tile in stream:
        group.append(tile)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def _fetch(pending: tuple[Sequence[Tile], Any]) -> Iterator[tuple[Tile, Any]]:
    group, results = pending
    host = jax.tree.map(np.asarray, results)
    for device, tile in enumerate(group):
        yield tile, jax.tree.map(lambda a, d=device: a[d], host)

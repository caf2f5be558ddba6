"""Images from a source in fixed tiles, read by threads.

Tile t holds positions [t·size, (t+1)·size) of the selected images, always in the same slots, and a step takes one tile per
device. What a tile's rows are therefore does not depend on the number of devices, nor on where a run was interrupted.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Num

from case_jax._checks import CaseJaxError, require, require_seed
from case_jax.source import NOBODY, Example, Source, UnreadableImageError

LOADERS = min(32, max(4, os.cpu_count() or 1))
"""Threads that read images; decoding leaves the interpreter to the others."""


class Batch(NamedTuple):
    """Images on their way to a device, with what is known about them."""

    images: Num[Any, "B H W D"]
    image_ids: Int[Any, " B"]
    """−1 where a slot is empty."""
    regions: Bool[Any, "B R H W"]
    region_classes: Int[Any, "B R"]
    labels: Int[Any, " B"]
    """−1 where unknown."""


class Tile(NamedTuple):
    """One device's share of a step."""

    number: int
    examples: list[Example | None]
    """One per slot; None where the slot is empty or the image could not be read."""
    excluded: list[dict[str, Any]]
    batch: Any
    """What a step takes of it: a `Batch`, or another named tuple of arrays with leading axis B."""

    @property
    def changed(self) -> Counter[str]:
        """How many images had to be changed to be shown, by what was done to them."""
        return Counter(change for example in self.examples if example is not None for change in example.changes)

    def __str__(self) -> str:
        """Its name in messages."""
        return f"tile {self.number}"


@dataclass
class Pace:
    """What reading images and computing took, each for itself: which of the two bounds a run."""

    images: int = 0
    reading: float = 0.0
    """Seconds of all threads together."""
    computed: int = 0
    computing: float = 0.0
    """Seconds in which the devices were at work; compiling is not among them."""
    _ready: float = 0.0

    def watch(self, images: int, dispatched: float, results: Any) -> None:
        """Wait for a step's results, and count what it took since it was dispatched or the one before was ready."""
        jax.block_until_ready(results)
        now = time.perf_counter()
        self.computing += now - max(dispatched, self._ready)
        self._ready = now
        self.computed += images

    def rates(self) -> dict[str, float | str | None]:
        """Images a second that each alone would reach, and which one is slower; None where nothing was measured."""
        host = self.images * LOADERS / self.reading if self.reading else None
        devices = self.computed / self.computing if self.computing else None
        slower = None if host is None or devices is None else "reading" if host < devices else "devices"
        return {"reading_images_per_s": host, "devices_images_per_s": devices, "bottleneck": slower}

    def __str__(self) -> str:
        """One line for the log."""
        host, devices, slower = self.rates().values()
        if slower is None:
            return "too short to say whether reading or the devices bound it"
        return f"reading could give {host:,.0f} images/s ({LOADERS} threads), the devices {devices:,.0f}: bound by {slower}"


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
        CaseJaxError: when none can be read, or the image is neither uint8 nor float32 of shape (H, W, channels).
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
            image.ndim == 3 and image.dtype in (np.uint8, np.float32),
            f"source {source.name!r}, image {example.name!r}",
            f"shape {image.shape}, dtype {image.dtype}",
            "uint8, or float32 in units of its own, of shape (height, width, channels)",
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
        np.zeros((size, *example.image.shape), example.image.dtype),
        np.full(size, -1, np.int32),
        np.zeros((size, evidence, *example.image.shape[:2]), bool),
        np.full((size, evidence), NOBODY, np.int32),
        np.full(size, -1, np.int32),
    )


def load_tile(source: Source, indices: Int[np.ndarray, " N"], number: int, empty: Batch) -> Tile:
    """Read one tile; images that cannot be read leave their slot empty and are listed."""
    chosen = indices[number * len(empty.image_ids) :][: len(empty.image_ids)]
    return _tile(number, [_read(source, int(index), empty) for index in chosen], empty)


class _Read(NamedTuple):
    """An image, or why there is none, and the seconds it took."""

    example: Example | None
    excluded: dict[str, Any] | None
    seconds: float


def _read(source: Source, index: int, empty: Batch) -> _Read:
    start = time.perf_counter()
    try:
        example = source[index]
    except UnreadableImageError as error:
        excluded = {"index": index, "name": error.name, "reason": error.reason}
        return _Read(None, excluded, time.perf_counter() - start)
    _check(example, source, empty)
    return _Read(example, None, time.perf_counter() - start)


def _tile(number: int, found: Sequence[_Read], empty: Batch) -> Tile:
    batch = Batch(*(a.copy() for a in empty))
    examples: list[Example | None] = [None] * len(empty.image_ids)
    for slot, (example, _, _) in enumerate(found):
        if example is None:
            continue
        examples[slot] = example
        batch.images[slot], batch.image_ids[slot], batch.labels[slot] = example.image, example.image_id, example.label
        if example.evidence is not None:
            batch.regions[slot], batch.region_classes[slot] = example.evidence
    return Tile(number, examples, [r.excluded for r in found if r.excluded is not None], batch)


def _check(example: Example, source: Source, empty: Batch) -> None:
    """Every image must fit the first one's shapes, have an id that int32 holds, and a label that exists."""
    image, evidence, expected = f"image {example.name!r}", example.evidence, empty.regions.shape[1:]
    pixels, like = np.asarray(example.image), empty.images
    accepted = f"{like.dtype} of shape {like.shape[1:]} like the first image"
    proper = pixels.shape == like.shape[1:] and pixels.dtype == like.dtype
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
        several = all(0 <= label < known for label in example.labels)
        require(several, image, f"labels {example.labels}", f"classes from 0 to {known - 1}")
    if example.labels:
        accepted = "`label` among `labels`, each once"
        proper = example.label in example.labels and len(set(example.labels)) == len(example.labels)
        require(proper, image, f"label {example.label}, labels {example.labels}", accepted)


def tiles(
    source: Source,
    indices: Int[np.ndarray, " N"],
    numbers: Iterable[int],
    empty: Batch,
    *,
    ahead: int,
    pace: Pace | None = None,
) -> Generator[Tile, None, None]:
    """Tiles in the given order, their images read by background threads, at most `ahead` tiles in advance."""
    size = len(empty.image_ids)
    waiting: deque[tuple[int, list[Future[_Read]]]] = deque()

    def next_tile() -> Tile:
        number, futures = waiting.popleft()
        found = [future.result() for future in futures]
        if pace is not None:
            pace.images += len(found)
            pace.reading += sum(read.seconds for read in found)
        return _tile(number, found, empty)

    pool = ThreadPoolExecutor(LOADERS)
    try:
        for number in numbers:
            chosen = indices[number * size : (number + 1) * size]
            waiting.append((number, [pool.submit(_read, source, int(index), empty) for index in chosen]))
            if len(waiting) > ahead:
                yield next_tile()
        while waiting:
            yield next_tile()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

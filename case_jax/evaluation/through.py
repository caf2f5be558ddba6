"""Tiles through a compiled step on all local devices."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from case_jax import parallel
from case_jax.evaluation.batches import Pace, Tile


def through_devices(
    step: Callable[[Any, Any], Any], params: Any, stream: Iterable[Tile], *, pace: Pace | None = None
) -> Iterator[tuple[Tile, Any]]:
    """Run a compiled batch function on every tile, one tile per local device at a time.

    Double-buffered: the next step's images are sent and the step is dispatched before the last one's results are fetched, so the devices
    do not wait for the host, unless it is slower than they are.

    Args:
        step: `(params, batch)` to a pytree of arrays with leading axis B, under `parallel.over_devices`.
        params: the step's parameters; replicated once.
        stream: tiles; the last step is padded with empty ones.
        pace: counts here what the devices took.

    Yields:
        Each tile with its results as NumPy arrays, in order.
    """
    count = parallel.device_count()
    params = parallel.replicate(params)
    pending: tuple[list[Tile], Any] | None = None
    with ThreadPoolExecutor(1) as watch:
        for group in groups(stream, count):
            batches = [tile.batch for tile in group]
            batches += [empty_batch(batches[0])] * (count - len(batches))
            results = step(params, parallel.shard(jax.tree.map(lambda *a: np.stack(a), *batches)))
            if pace is not None:
                images = sum(e is not None for tile in group for e in tile.examples)
                watch.submit(pace.watch, images, time.perf_counter(), results)
            if pending is not None:
                yield from _fetch(pending)
            pending = (group, results)
        if pending is not None:
            yield from _fetch(pending)


def empty_batch(like: Any) -> Any:
    """Padding: an all-zero batch of the same shapes and kind (`Batch`, or another named tuple), whose rows are thrown away."""
    return like._make(np.zeros_like(a) for a in like)


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

"""How many images a device holds: temporary memory of compiled steps, asked of the compiler."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from case_jax import parallel
from case_jax._checks import require

Calls = Sequence[tuple[Any, tuple[Any, ...]]]
"""Functions under `parallel.over_devices`, each with one device's arguments."""


def memory_bound() -> int:
    """Bytes that a step may take: 0.8 of a device's memory, or of this machine's where the devices are its processors."""
    known = parallel.device_memory()
    if known is None:
        known = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // parallel.device_count()
    return int(0.8 * known)


def temporary_bytes(calls: Calls) -> int | None:
    """Temporary memory of the function that needs most, on one device; None where the compiler does not say."""
    known = []
    for function, arguments in calls:
        facts = parallel.trace(function, *arguments).compile().memory_analysis()
        known += [] if facts is None else [int(facts.temp_size_in_bytes)]
    return max(known, default=None)


def largest_tile(calls: Callable[[int], Calls], params: Any, *, memory: int, most: int) -> int:
    """The largest power of two of images per device and step whose temporary arrays and parameters stay below a bound.

    Compiled for 1 and for 2 images; memory grows by the difference with every image.

    Args:
        calls: the functions of a step of so many images.
        params: of the classifier; every device holds them.
        memory: bytes per device.
        most: no more images than this.

    Raises:
        CaseJaxError: when one image alone needs more.
    """
    used = [temporary_bytes(calls(size)) or 0 for size in (1, 2)]
    fixed = sum(np.asarray(a).nbytes for a in jax.tree.leaves(params))
    each = max(used[1] - used[0], 1)
    room = memory - fixed - used[0]
    accepted = f"at least {fixed + used[0]:,}, what the parameters and one image need"
    require(room >= 0, "memory", f"{memory:,} bytes", accepted)
    return 2 ** int(math.log2(min(most, 1 + room // each)))

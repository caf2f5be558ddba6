"""How long compiled functions take beside each other, and what memory they ask for."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def interleaved(
    functions: dict[str, Callable[[], Any]], repeats: int, *, seconds: float = float("inf")
) -> dict[str, float]:
    """Median seconds of each function, taking turns so that all meet the same disturbances.

    Args:
        functions: each is called once before it is timed.
        repeats: rounds.
        seconds: fewer rounds, at least one, where this many do not fit.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    begun = time.perf_counter()
    for number in range(1, repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
        if (time.perf_counter() - begun) * (number + 1) / number > seconds:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def temporary_bytes(compiled: Any) -> float:
    """Temporary memory of a compiled program; NaN where the compiler does not say."""
    return float(getattr(compiled.memory_analysis(), "temp_size_in_bytes", "nan"))


def peak_bytes() -> int | None:
    """The most that the first device has had in use since the process began; None where it does not say (processors)."""
    found = jax.local_devices()[0].memory_stats()
    return found.get("peak_bytes_in_use") if found else None

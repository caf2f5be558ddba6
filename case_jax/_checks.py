"""Errors that name the argument, what was given, what is accepted and what to do."""

import difflib
import math
from collections.abc import Iterable, Sequence


class CaseJaxError(ValueError):
    """Bad input, found before any long work starts."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, most similar to `name` first."""
    return sorted(known, key=lambda other: (-difflib.SequenceMatcher(None, name, other).ratio(), other))


def unknown(argument: str, given: str, known: Iterable[str], *, shown: int = 12) -> CaseJaxError:
    """The error for a name that is not among the known ones, which are listed nearest first."""
    names = nearest(given, known)
    if not names:
        return CaseJaxError(f"{argument}: {given!r} was given, but there is nothing to choose from.")
    more = f", … ({len(names)} in all)" if len(names) > shown else ""
    return CaseJaxError(
        f"{argument}: {given!r} is unknown. Did you mean {names[0]!r}? Known, nearest first: {', '.join(names[:shown])}{more}."
    )


def require(condition: object, argument: str, given: object, accepted: str) -> None:
    """Raise unless the condition holds."""
    if not condition:
        raise CaseJaxError(f"{argument}: got {given}; accepted: {accepted}.")


def require_number(argument: str, given: float, *, above: float | None = None, least: float | None = None) -> None:
    """Raise unless a number is finite, and above one bound or at least the other."""
    words = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
    inside = (above is None or given > above) and (least is None or given >= least)
    require(math.isfinite(given) and inside, argument, given, f"a finite number{words}")


def require_seed(seed: int) -> None:
    """Raise unless the seed is one that NumPy and JAX tell apart from all others."""
    require(0 <= seed < 2**32, "seed", seed, "an integer from 0 to 2³² − 1")


def require_percent(argument: str, values: Sequence[float]) -> None:
    """Raise unless every value lies in (0, 100]."""
    for value in values:
        require(0 < value <= 100, argument, value, "a percentage of the pixels in (0, 100], for example 5 for 5%")

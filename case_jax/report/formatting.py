"""Numbers and lists as a reader wants them."""

import math
from collections.abc import Sequence


def percent(value: float, *, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}%"


def interval(value: float, low: float, high: float) -> str:
    """A share and, on a second line, its interval, in percent; a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}\n{_limits(100 * low, 100 * high, '.1f')}"


def plain_interval(value: float, low: float, high: float) -> str:
    """A number and, on a second line, its interval; a dash where it is undefined."""
    return plain(value) if math.isnan(value) else f"{plain(value)}\n{_limits(low, high, '.3g')}"


def plain(value: float) -> str:
    """A number to three digits; a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")


def _limits(low: float, high: float, form: str) -> str:
    return "[unknown]" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]".replace("-", "−")


def p_value(p: float) -> str:
    """A p value, never as an exact zero."""
    if math.isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def listed(names: Sequence[str], *, shown: int = 6) -> str:
    """Names as a phrase: `a, b and c`; long lists end in a count."""
    names = list(names)
    if len(names) > shown:
        names = [*names[: shown - 1], f"{len(names) - shown + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 method`, `1,000 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def unit_words(unit: str, images: int, clusters: int, *, noun: str = "image") -> str:
    """By what intervals and tests are, and how many images share how many of them.

    Args:
        unit: what the images are independent in, in the plural.
        images: how many.
        clusters: how many of the unit they share; 0 where images are independent.
        noun: what an image is called.
    """
    if not clusters:
        return f"Intervals and tests by {noun}: {counted(images, noun)}, taken as independent."
    return f"Intervals and tests by {unit.removesuffix('s')}: {counted(images, noun)} share {clusters:,} {unit}."


def signed(value: float, form: str) -> str:
    """A number with a typographic minus; a dash where it is undefined."""
    return "–" if math.isnan(value) else format(value, form).replace("-", "−")

"""One line of the parity table: how far a quantity lies from its reference, and how far it may."""

from typing import Any, NamedTuple

import numpy as np


class Line(NamedTuple):
    """One quantity of one network."""

    network: str
    quantity: str
    absolute: float
    """Largest difference."""
    relative: float
    """The same as a share of the reference's largest magnitude."""
    bound: str
    verdict: str
    """`pass`, `FAIL`, or why it was not compared."""


def _errors(found: Any, expected: Any) -> tuple[float, float]:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shapes {found.shape} and {expected.shape}")
    difference = np.abs(found - expected)
    absolute = float(np.where(np.isnan(difference), np.inf, difference).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0.0))
    return absolute, absolute / scale if scale > 0 else absolute


def relative(network: str, quantity: str, found: Any, expected: Any, bound: float, *, scale: float = 0.0) -> Line:
    """Compare to a share of the largest magnitude: of the reference, or `scale` where that is larger."""
    absolute, share = _errors(found, expected)
    share = absolute / scale if scale > np.abs(expected).max(initial=0.0) else share
    return Line(network, quantity, absolute, share, f"{bound:.1e} relative", _verdict(share <= bound))


def absolute(network: str, quantity: str, found: Any, expected: Any, bound: float) -> Line:
    """Compare to an absolute bound."""
    difference, share = _errors(found, expected)
    return Line(network, quantity, difference, share, f"{bound:.1e} absolute", _verdict(difference <= bound))


def exact(network: str, quantity: str, found: Any, expected: Any) -> Line:
    """Compare class lists, masks and counts: equal or not."""
    difference, share = _errors(found, expected)
    return Line(network, quantity, difference, share, "exact", _verdict(difference == 0))


def pixels(network: str, quantity: str, found: Any, expected: Any, count: int) -> Line:
    """Compare shares of so many pixels by the numbers of pixels that they mean, equal or not: the shares themselves differ by rounding.

    A share that means no whole number fails.
    """
    numbers = [np.asarray(shares, np.float64) * count for shares in (found, expected)]
    whole = [np.where(np.abs(n - n.round()) < 0.01, n.round(), np.nan) for n in numbers]
    return exact(network, f"{quantity}, pixels", *whole)


def not_compared(network: str, quantity: str, reason: str) -> Line:
    """A quantity that is shown and not judged."""
    return Line(network, quantity, float("nan"), float("nan"), "–", reason)


def _verdict(within: bool) -> str:
    return "pass" if within else "FAIL"

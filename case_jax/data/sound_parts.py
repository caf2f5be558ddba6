"""What a sound scene is made of: five bodies, patterns of low tones, and five markers, short figures in a band of frequencies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BODIES = ("chord", "rise", "fall", "pulse", "trill")
MARKERS = ("up", "down", "tremolo", "clicks", "warble")
BODY_SECONDS, MARKER_SECONDS, MARKER_BAND = 0.5, 0.22, 700.0
ROOTS, MARKER_LOW = (320.0, 700.0), (150.0, 3150.0)
"""Hertz: a body's lowest tone, and the lower edge of a marker's band."""
FADE = 0.012
"""Seconds in which every tone swells and dies."""
BEATS, CLICK, WARBLE = 4, 0.0012, 14.0
"""How often a tremolo and clicks sound, the width of a click in seconds, and how often a second a warble goes up and down."""
_PATTERNS: dict[str, tuple[tuple[float, ...], ...]] = {
    "chord": ((1, 1.25, 1.5),),
    "rise": ((1,), (1.25,), (1.5,)),
    "fall": ((1.5,), (1.25,), (1,)),
    "pulse": ((1, 1.5), (), (1, 1.5), (), (1, 1.5), (), (1, 1.5)),
    "trill": ((1,), (1.5,), (1,), (1.5,), (1,), (1.5,)),
}
"""The tones of each equal step of a body, in multiples of its root."""


class Box(NamedTuple):
    """Where a part sounds, in seconds and hertz."""

    start: float
    stop: float
    low: float
    high: float

    def apart(self, other: "Box", seconds: float, hertz: float) -> bool:
        """Whether so much time or so many frequencies lie between the two."""
        in_time = self.start - other.stop >= seconds or other.start - self.stop >= seconds
        return in_time or self.low - other.high >= hertz or other.low - self.high >= hertz


def body_box(rng: np.random.Generator, seconds: float) -> Box:
    """A random place of a body in a scene of so many seconds."""
    start, root = rng.uniform(FADE, seconds - BODY_SECONDS - FADE), np.exp(rng.uniform(*np.log(ROOTS)))
    return Box(start, start + BODY_SECONDS, root, 1.5 * root)


def marker_box(rng: np.random.Generator, seconds: float) -> Box:
    """A random place of a marker."""
    start, low = rng.uniform(FADE, seconds - MARKER_SECONDS - FADE), rng.uniform(*MARKER_LOW)
    return Box(start, start + MARKER_SECONDS, low, low + MARKER_BAND)


def body(kind: str, box: Box, rate: int) -> Float[np.ndarray, " L"]:
    """The samples of a body from its start to its stop, of root mean square 1."""
    steps = _PATTERNS[kind]
    edges = np.linspace(box.start, box.stop, len(steps) + 1)
    times = _times(box, rate)
    sound = np.zeros_like(times)
    for start, stop, tones in zip(edges[:-1], edges[1:], steps, strict=True):
        here = slice(*np.searchsorted(times, (start, stop)))
        for tone in tones:
            sound[here] += _swell(times[here], start, stop) * np.sin(2 * np.pi * box.low * tone * (times[here] - start))
    return _levelled(sound)


def marker(kind: str, box: Box, rate: int) -> Float[np.ndarray, " L"]:
    """The samples of a marker from its start to its stop, of root mean square 1."""
    times = _times(box, rate)
    t, last = times - box.start, box.stop - box.start
    middle, band = (box.low + box.high) / 2, box.high - box.low
    strength = _swell(times, box.start, box.stop)
    if kind in ("up", "down"):
        first, slope = (box.low, band / last) if kind == "up" else (box.high, -band / last)
        phase = first * t + slope * t**2 / 2
    elif kind == "warble":
        phase = middle * t - band / 2 * np.cos(2 * np.pi * WARBLE * t) / (2 * np.pi * WARBLE)
    else:
        phase = middle * t
        if kind == "tremolo":
            strength = strength * np.sin(np.pi * BEATS * t / last) ** 2
        else:
            beats = (np.arange(BEATS) + 0.5) / BEATS * last
            strength = strength * np.exp(-0.5 * ((t[:, None] - beats) / CLICK) ** 2).sum(1)
    return _levelled(strength * np.sin(2 * np.pi * phase))


def placed(part: Float[np.ndarray, " n"], box: Box, rate: int, length: int) -> Float[np.ndarray, " L"]:
    """A part in the silence of a whole scene."""
    first = int(np.ceil(box.start * rate))
    return np.pad(part, (first, length - first - len(part)))


def coloured_noise(rng: np.random.Generator, length: int) -> Float[np.ndarray, " L"]:
    """Noise of root-mean-square 1 whose power falls as 1/f^a, a between 0 (white) and 1 (pink)."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-rng.uniform(0.0, 1.0) / 2)
    noise = np.fft.irfft(spectrum, length)
    return noise / np.sqrt(np.mean(noise**2))


def _swell(times: np.ndarray, start: float, stop: float) -> np.ndarray:
    """1 from start to stop with raised cosines at both ends, 0 elsewhere."""
    inside = np.minimum(times - start, stop - times)
    return np.sin(np.pi / 2 * np.clip(inside / FADE, 0, 1)) ** 2


def _times(box: Box, rate: int) -> np.ndarray:
    """When the samples of a box are taken."""
    return np.arange(np.ceil(box.start * rate), box.stop * rate) / rate


def _levelled(sound: np.ndarray) -> np.ndarray:
    return sound / np.sqrt(np.mean(sound**2))

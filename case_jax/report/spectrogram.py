"""How spectrograms are drawn: time to the right, frequency upwards, both with numbers."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes

from case_jax.audio import Stft

SOUND_TICKS = 3
"""Numbers along each axis."""


def upright(array: Shaped[np.ndarray, "*n T F"]) -> Shaped[np.ndarray, "*n F T"]:
    """(frames, frequencies), the last two axes, as a picture: rows from the highest frequency down, columns in time."""
    return np.swapaxes(array, -1, -2)[..., ::-1, :]


def lying(array: Shaped[np.ndarray, "*n F T"]) -> Shaped[np.ndarray, "*n T F"]:
    """The way back: `lying(upright(array))` is the array."""
    return np.swapaxes(array[..., ::-1, :], -1, -2)


def upright_pixels(image: Shaped[np.ndarray, "*n T F 3"]) -> Shaped[np.ndarray, "*n F T 3"]:
    """The same for pictures, whose last axis is colour."""
    return np.moveaxis(upright(np.moveaxis(image, -1, 0)), 0, -1)


def as_drawn(
    pixels: Shaped[np.ndarray, "T F 3"], maps: Shaped[np.ndarray, "*n t f"], how: Stft | None
) -> tuple[Shaped[np.ndarray, "F T 3"], Shaped[np.ndarray, "*n f t"]]:
    """An image and its maps as they are drawn: spectrograms upright, others, without `how`, as they are."""
    return (pixels, maps) if how is None else (upright_pixels(pixels), upright(maps))


def ticks(how: Stft, shape: tuple[int, int]) -> tuple[Mapping[float, str], Mapping[float, str]]:
    """Places along an upright spectrogram in its pixels, x to the right and y down, with seconds and hertz.

    Args:
        how: the spectrogram is made; frame t is at t · hop / rate seconds, bin k at k · rate / n_fft hertz.
        shape: (frequencies, frames) of the picture.
    """
    bins, frames = shape
    seconds = (frames - 1) * how.hop / how.rate
    across = {(frames - 1) * share: f"{seconds * share:.2g} s" for share in np.linspace(0, 1, SOUND_TICKS)}
    down = {(bins - 1) * (1 - share): f"{how.rate / 2 * share:g} Hz" for share in np.linspace(0, 1, SOUND_TICKS)}
    return across, down


def draw_ticks(panel: Axes, how: Stft, shape: tuple[int, int], *, across: bool = True, down: bool = True) -> None:
    """Seconds below and hertz beside a panel that shows an upright spectrogram of this shape."""
    for wanted, places, put in zip(
        (across, down), ticks(how, shape), (panel.set_xticks, panel.set_yticks), strict=True
    ):
        if wanted:
            put(list(places), list(places.values()), fontsize=7)

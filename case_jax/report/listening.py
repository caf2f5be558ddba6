"""Sounds in a page: what a map keeps of a sound and what it leaves, to be played."""

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from case_jax.audio import Stft, masked_sound
from case_jax.audio.wav import write_wav


class Clip(NamedTuple):
    """A sound as a player's address, and what it is in words."""

    words: str
    uri: str


class Players(NamedTuple):
    """One sound with what maps keep and leave of it."""

    name: str
    whole: Clip
    masked: Sequence[tuple[str, Clip, Clip]]
    """In words whose map of which class, the sound masked in, and the sound masked out."""


def clip(words: str, sound: Float[np.ndarray, " L"], rate: int) -> Clip:
    """A sound as a WAV file inside the page."""
    return Clip(words, f"data:audio/wav;base64,{base64.b64encode(write_wav(sound, rate)).decode()}")


def players_of(
    name: str, sound: Float[np.ndarray, " L"], maps: Mapping[str, Float[np.ndarray, "T F"]], how: Stft
) -> Players:
    """The players of one sound.

    Args:
        name: of the sound.
        sound: its samples; where they leave [−1, 1] all its players are turned down alike.
        maps: finished maps in [0, 1], (frames, frequencies), by whose map of which class they are; each is taken as a mask on the logarithmic
            spectrogram, see `audio.masked_sound`.
        how: the spectrogram is made.
    """
    masked, level = [], 1 / max(1.0, float(np.abs(sound).max()))
    for words, found in maps.items():
        mask = np.clip(np.nan_to_num(np.asarray(found, np.float64)), 0, 1)
        kept, left = (
            level * np.asarray(masked_sound(np.asarray(sound, np.float64), part, how)) for part in (mask, 1 - mask)
        )
        masked.append(
            (words, clip(f"masked in: {words}", kept, how.rate), clip(f"masked out: {words}", left, how.rate))
        )
    return Players(name, clip(f"{name}, the whole sound", level * sound, how.rate), masked)

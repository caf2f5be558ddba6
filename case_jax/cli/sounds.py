"""The sounds of `case-jax explain`: WAV files and sound scenes, read for a classifier of sounds."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from case_jax._checks import CaseJaxError, require
from case_jax.audio import spectrogram
from case_jax.data import SoundScenes, open_sounds, read_sound
from case_jax.models import SoundPreprocessing
from case_jax.source import Example, UnreadableImageError

SCENE, SUFFIX = "sound_scenes:", ".wav"
"""Before the index of a scene, and at the end of a file's name."""
OTHERS = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
"""Ends of the names of sounds that are not read."""


class Heard(NamedTuple):
    """What a classifier hears of a sound, and the sound."""

    example: Example
    sound: Float[np.ndarray, " L"]


def are_sounds(names: Sequence[str]) -> bool:
    """Whether these are sounds, by their names alone.

    Raises:
        CaseJaxError: for sounds among images, or a sound that is no WAV file.
    """
    for name in names:
        wanted = f"a WAV file, which for example ffmpeg makes of it: ffmpeg -i {name} {Path(name).stem}{SUFFIX}"
        require(not name.lower().endswith(OTHERS), "images", f"{name}, a sound that is not read", wanted)
    sounds = [name for name in names if name.startswith(SCENE) or name.lower().endswith(SUFFIX)]
    require(len(sounds) in (0, len(names)), "images", f"{sounds[:1]} among images", "images alone, or sounds alone")
    return bool(sounds)


def heard(names: Sequence[str], facts: SoundPreprocessing) -> list[Heard]:
    """What a classifier of sounds hears of WAV files and of scenes written `sound_scenes:INDEX`.

    Raises:
        CaseJaxError: for a file that is missing or no WAV file, or an index that there is not; names it.
    """
    return [_scene(name, facts) if name.startswith(SCENE) else _file(i, name, facts) for i, name in enumerate(names)]


def _scene(name: str, facts: SoundPreprocessing) -> Heard:
    index = name.removeprefix(SCENE)
    proper = index.isascii() and index.isdigit() and len(index) < 10
    require(proper, "images", repr(name), "sound_scenes:INDEX with an index of at least 0")
    how = {"stft": facts.stft, "samples": facts.samples}
    scenes = open_sounds("sound_scenes", None, **how, size=int(index) + 1)
    assert isinstance(scenes, SoundScenes)
    return Heard(scenes[int(index)], scenes.sound(int(index)))


def _file(number: int, name: str, facts: SoundPreprocessing) -> Heard:
    try:
        sound, changes = read_sound(Path(name), facts.stft, facts.samples)
    except UnreadableImageError as error:
        raise CaseJaxError(
            f"images: {name} cannot be read ({error.reason}); give a WAV file or sound_scenes:INDEX."
        ) from error
    image = spectrogram(sound, facts.stft)
    return Heard(Example(number, Path(name).name, image, -1, changes=changes), sound)

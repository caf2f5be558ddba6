"""From the names that the shell accepts to data sets, preprocessed for a classifier."""

from pathlib import Path
from typing import Any

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.audio import Stft
from case_jax.data.crops import CachedCrops
from case_jax.data.decoding import Exif
from case_jax.data.digit_scenes import SPLITS, DigitScenes
from case_jax.data.folder import ImageFolder, LabelledFolder
from case_jax.data.photos import MOSAICS, PhotoMosaics, Photos
from case_jax.data.scene_options import options_of
from case_jax.data.sound_folder import SoundFolder
from case_jax.data.sound_scenes import SAMPLES, SOUND, SoundScenes
from case_jax.data.tfds_images import TfdsImages
from case_jax.source import Source

SCENES = 600
"""Digit scenes, where nobody says how many: a test set of any size is arranged from 287 strokes, and more scenes narrow intervals little."""
SOUNDS = 200
"""Sound scenes, where nobody says how many: each is drawn by itself, and each costs seven times as many pixels."""

DATASETS: dict[str, str] = {
    "digit_scenes": "real handwritten digits arranged in scenes with known class evidence; digit_scenes:SPLIT for another split, digit_scenes:SPLIT,OPTION=VALUE,… for other scenes (`case-jax guide tests` has the options)",
    "sound_scenes": "made sounds of one second with known class evidence in time and frequency; sound_scenes:SPLIT for another split",
    "folder": "folder:PATH, any folder of images, or of WAV files for a classifier of sounds; sub-folders, when there are any, are the labels (ImageNet's also as synsets or indices), or labels.csv (file,label; several rows for several labels)",
    "photos": "the photographs that come with scikit-learn, matplotlib and scikit-image; photos:mosaics for 2×2 mosaics of them, each class in its known cell",
    "tfds": "tfds:NAME:SPLIT, prepared as array_record: imagenet2012 and cifar100 by case-jax prepare, others by tensorflow-datasets",
}


def open_source(
    data: str,
    class_names: tuple[str, ...] | None,
    *,
    resize: int,
    crop: int,
    interpolation: str = "bilinear",
    exif: Exif = "ignore",
    channels: int = 3,
    size: int | None = None,
    seed: int = 0,
) -> Source:
    """The data set of this name, preprocessed for a classifier.

    Args:
        data: `digit_scenes`, `digit_scenes:SPLIT`, `digit_scenes:SPLIT,OPTION=VALUE,…` with the options of `DigitScenes`, `folder:PATH`, `photos`, `photos:mosaics` or `tfds:NAME:SPLIT`.
        class_names: the classifier's classes; None takes the data's own.
        resize: shorter side in pixels.
        crop: side of the central crop in pixels.
        interpolation: `bilinear` or `bicubic`.
        exif: `apply` turns photographs as their EXIF orientation says; `ignore` does not, as torchvision.
        channels: 3, or 1 for grey images.
        size: number of digit scenes or mosaics; other data sets have their own size.
        seed: which digit scenes or mosaics.

    Raises:
        CaseJaxError: for an unknown name or split, a missing or empty folder, or data that do not fit the classifier.
    """
    kind, _, rest = data.partition(":")
    accepted = "1 (grey) or 3 (RGB) channels, to read image files; for others a source of your own, of uint8 (height, width, channels)"
    require(channels in (1, 3), "data", f"{data} for a classifier of {channels} channels", accepted)
    how: dict[str, Any] = {
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "exif": exif,
        "channels": channels,
    }
    if kind == "digit_scenes":
        require(channels == 3, "data", f"digit scenes for a classifier of {channels} channels", "one of 3 channels")
        return _digit_scenes(rest, crop, size, seed)
    if kind == "folder":
        return ImageFolder(_path(rest), class_names, **how)
    if data == "photos":
        return Photos(class_names, **how)
    if data == "photos:mosaics":
        facts = {"crop": crop, "interpolation": interpolation, "channels": channels}
        return PhotoMosaics(class_names, MOSAICS if size is None else size, seed=seed, **facts)
    if kind == "tfds":
        return TfdsImages(*_tfds_name(data), **how)
    accepted = "--model sound_cnn, or one of your own for sounds"
    require(kind != "sound_scenes", "data", f"{data} for a classifier of images", accepted)
    raise unknown("data", data, ["photos", "photos:mosaics"] if kind == "photos" else DATASETS)


def _digit_scenes(rest: str, side: int, size: int | None, seed: int) -> DigitScenes:
    split, _, words = (rest or "test").partition(",")
    if split not in SPLITS:
        raise unknown("data", f"digit_scenes:{split}", [f"digit_scenes:{s}" for s in SPLITS])
    scenes = DigitScenes(split, SCENES if size is None else size, seed=seed, **options_of(words))
    require_side(scenes, side)
    return scenes


def _tfds_name(data: str) -> tuple[str, str]:
    name, _, split = data.removeprefix("tfds:").rpartition(":")
    if not name:
        raise CaseJaxError(
            f"data: {data!r} has no split; give tfds:NAME:SPLIT, for example tfds:imagenet2012:validation."
        )
    return name, split


def open_sounds(
    data: str,
    class_names: tuple[str, ...] | None,
    *,
    stft: Stft,
    samples: int,
    size: int | None = None,
    seed: int = 0,
) -> Source:
    """The sounds of this name, as spectrograms for a classifier.

    Args:
        data: `sound_scenes`, `sound_scenes:SPLIT`, or `folder:PATH` of WAV files.
        class_names: the classifier's classes; None takes the data's own.
        stft: how the classifier's spectrograms are made.
        samples: how long its sounds are.
        size: number of sound scenes; a folder has its own size.
        seed: which sound scenes.

    Raises:
        CaseJaxError: for another kind of data, an unknown split, a missing or empty folder, or scenes for a classifier of other spectrograms.
    """
    kind, _, rest = data.partition(":")
    if kind == "folder":
        return SoundFolder(_path(rest), class_names, stft=stft, samples=samples)
    accepted = "sound_scenes, sound_scenes:SPLIT, or folder:PATH of WAV files; or a --model of images"
    require(kind == "sound_scenes", "data", f"{data} for a classifier of sounds", accepted)
    split = rest or "test"
    if split not in SPLITS:
        raise unknown("data", data, [f"sound_scenes:{s}" for s in SPLITS])
    scenes = SoundScenes(split, SOUNDS if size is None else size, seed=seed)
    given = f"sound scenes for a classifier of {samples} samples and {stft}"
    require((stft, samples) == (SOUND, SAMPLES), "data", given, f"one of {SAMPLES} samples and {SOUND}")
    return scenes


def _path(rest: str) -> str:
    if not rest:
        raise CaseJaxError("data: 'folder:' has no path; give folder:PATH.")
    return rest


def alike(data: str, source: Source) -> str:
    """The data set of this name with the options of a source, where both are digit scenes and the name has none of its own.

    What is counted on other scenes than those that are looked at would be about them.
    """
    scenes: Any = source
    while hasattr(scenes, "source"):  # crops of scenes, mosaics of scenes
        scenes = scenes.source
    follows = isinstance(scenes, DigitScenes) and scenes.options.changed and data.startswith("digit_scenes:")
    return f"{data},{scenes.options}" if follows and "," not in data else data


def require_side(scenes: DigitScenes, crop: int) -> None:
    """Raise unless these scenes are as large as what the classifier sees."""
    side = scenes.options.side
    given = f"{side}×{side} digit scenes for a classifier of {crop}×{crop} images"
    require(side == crop, "data", given, f"side={crop}, with a classifier of digit scenes of that side")


def require_outside(folder: Path, source: Source) -> None:
    """Raise when a run would write its figures into the folder of images that it reads.

    Raises:
        CaseJaxError: names the run folder.
    """
    plain = source.source if isinstance(source, CachedCrops) else source
    if isinstance(plain, LabelledFolder):
        inside = folder.resolve().is_relative_to(plain.root.resolve())
        accepted = "a folder elsewhere: the run's figures are images"
        require(not inside, "out", f"{folder}, inside the data folder", accepted)

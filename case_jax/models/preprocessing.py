"""How an image file becomes a classifier's input: facts that belong to weights, not to architectures."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from case_jax._checks import CaseJaxError, require
from case_jax.audio import Stft
from case_jax.data.preprocess import INTERPOLATIONS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Preprocessing(NamedTuple):
    """How an image file becomes the classifier's input."""

    resize: int
    """Length of the shorter side after resizing, in pixels."""
    crop: int
    """Side of the central square that is kept, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    """PIL's filter for the resizing: `bilinear` or `bicubic`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the classifier's input."""
        return self.crop, self.crop, 3

    def __str__(self) -> str:
        """In a few words, for people."""
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"shorter side {self.resize} ({self.interpolation}), crop {self.crop}, mean {mean}, sd {std}"


class SoundPreprocessing(NamedTuple):
    """How a sound becomes the classifier's input: `log(1 + magnitude)` of its spectrogram, an image (frames, frequencies, 1) in units of its own."""

    stft: Stft
    samples: int
    """How long a sound is; shorter ones are followed by silence, longer ones cut."""
    mean: tuple[float] = (0.0,)
    std: tuple[float] = (1.0,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the classifier's input."""
        return self.stft.frames(self.samples), self.stft.bins, 1

    def __str__(self) -> str:
        """In a few words, for people."""
        rate, n_fft, window, hop = self.stft
        return (
            f"{self.samples / rate:g} s at {rate:,} Hz, n_fft {n_fft}, window {window}, hop {hop}, log(1 + magnitude)"
        )


def checked(facts: Mapping[str, Any], source: str) -> Preprocessing | SoundPreprocessing:
    """Facts read from a file, refused unless they are whole and make sense; those of sounds have the parameters of their spectrogram, `stft`.

    Raises:
        CaseJaxError: for a missing, unknown or unusable fact; names it and the source.
    """
    return _checked_sound(facts, source) if "stft" in facts else _checked_image(facts, source)


def _checked_sound(facts: Mapping[str, Any], source: str) -> SoundPreprocessing:
    stft, samples = facts["stft"], facts.get("samples", 0)
    whole = isinstance(stft, list | tuple) and [type(v) for v in stft] == [int] * 4
    require(whole, f"preprocessing, stft of {source}", stft, "rate, n_fft, window and hop, four whole numbers")
    require(type(samples) is int and samples >= 1, f"preprocessing, samples of {source}", samples, "at least 1")
    mean, std = (facts.get(name, default) for name, default in (("mean", [0.0]), ("std", [1.0])))
    proper = all(isinstance(v, list | tuple) and len(v) == 1 and _finite(v[0]) for v in (mean, std)) and std[0] > 0
    require(
        proper, f"preprocessing, mean and std of {source}", (mean, std), "one finite number each, the second above 0"
    )
    return SoundPreprocessing(Stft(*stft).check(), samples, (float(mean[0]),), (float(std[0]),))


def _checked_image(facts: Mapping[str, Any], source: str) -> Preprocessing:
    known = set(Preprocessing._fields)
    missing, strange = sorted(known - {"interpolation"} - facts.keys()), sorted(facts.keys() - known)
    if missing or strange:
        raise CaseJaxError(
            f"preprocessing: {source} lacks {', '.join(missing) or 'nothing'} and has the unknown {', '.join(strange) or 'nothing'}; "
            f"accepted: {', '.join(Preprocessing._fields)}."
        )
    for name in ("resize", "crop"):
        whole = isinstance(facts[name], int) and not isinstance(facts[name], bool) and facts[name] >= 1
        require(whole, f"preprocessing, {name} of {source}", facts[name], "a number of pixels of at least 1")
    require(
        facts["crop"] <= facts["resize"],
        f"preprocessing, crop of {source}",
        facts["crop"],
        f"at most the resized shorter side, {facts['resize']}",
    )
    colours: dict[str, tuple[float, float, float]] = {}
    for name, accepted in (("mean", "three finite numbers"), ("std", "three finite numbers above 0")):
        given = facts[name]
        numbers = isinstance(given, list | tuple) and len(given) == 3 and all(_finite(v) for v in given)
        require(
            numbers and (name == "mean" or all(v > 0 for v in given)),
            f"preprocessing, {name} of {source}",
            given,
            accepted,
        )
        red, green, blue = (float(v) for v in given)
        colours[name] = (red, green, blue)
    interpolation = facts.get("interpolation", "bilinear")
    require(
        isinstance(interpolation, str) and interpolation in INTERPOLATIONS,
        f"preprocessing, interpolation of {source}",
        repr(interpolation),
        " or ".join(INTERPOLATIONS),
    )
    return Preprocessing(facts["resize"], facts["crop"], colours["mean"], colours["std"], interpolation)


def _given(facts: Mapping[str, Any], name: str, default: Any) -> Any:
    return default if facts.get(name) is None else facts[name]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json` in timm's format, its two generations made one: the facts lie in `pretrained_cfg`.

    Raises:
        CaseJaxError: when the file is no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaseJaxError(
            f"weights: {path} cannot be read ({error}); repair it, or move it away to do without its facts."
        ) from error
    inner = config.get("pretrained_cfg", config) if isinstance(config, dict) else None
    if not isinstance(inner, dict):
        raise CaseJaxError(f"weights: {path} holds no JSON object of facts; repair it, or move it away to do without.")
    names = config.get("label_names", inner.get("label_names", config.get("labels")))
    return {"architecture": config.get("architecture"), "label_names": names, "pretrained_cfg": inner}


def from_timm(facts: Mapping[str, Any], source: str) -> Preprocessing | None:
    """The preprocessing that timm derives from a `pretrained_cfg`: shorter side ⌊crop / crop_pct⌋, then the central crop.

    Args:
        facts: with `input_size` (3, side, side), and `crop_pct`, `interpolation`, `mean`, `std` where they are not timm's defaults
            (0.875, bicubic, ImageNet's).
        source: where they are from; errors name it.

    Returns:
        The facts; None when there is no `input_size`, so that the file speaks of something else.

    Raises:
        CaseJaxError: for facts that are damaged, an input that is no square of three channels, or another crop than the central one.
    """
    if facts.get("input_size") is None:
        return None
    size, share = facts["input_size"], _given(facts, "crop_pct", 0.875)
    require(
        isinstance(size, list | tuple) and len(size) == 3 and size[0] == 3 and size[1] == size[2],
        f"preprocessing, input_size of {source}",
        size,
        "[3, side, side]",
    )
    require(
        _finite(share) and 0.01 <= share <= 1,
        f"preprocessing, crop_pct of {source}",
        share,
        "a share of the side from 0.01 to 1",
    )
    require(
        (facts.get("crop_mode") or "center") == "center",
        f"preprocessing, crop_mode of {source}",
        repr(facts.get("crop_mode")),
        "'center', the central crop after resizing the shorter side; change the file to crop so",
    )
    require(_finite(size[1]), f"preprocessing, input_size of {source}", size, "[3, side, side]")
    found = {
        "resize": math.floor(size[1] / share),
        "crop": size[1],
        "mean": _given(facts, "mean", IMAGENET_MEAN),
        "std": _given(facts, "std", IMAGENET_STD),
        "interpolation": _given(facts, "interpolation", "bicubic"),
    }
    return _checked_image(found, source)

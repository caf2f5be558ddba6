"""Sound scenes: made sounds in which the evidence for every class is known, the twin of digit scenes.

A scene of one second has one *body* (a pattern of low tones) and two short *markers*, one louder than the other, in coloured noise. A class
is the pair (body, marker), so the two candidate classes of a scene share the body and differ in the marker. What a classifier is given is
the spectrogram, an image (frames, frequencies, 1).
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from case_jax._checks import require, require_seed, unknown
from case_jax.audio import Stft, magnitude, spectrogram, stft
from case_jax.data.scene_layout import TARGETS
from case_jax.data.sound_parts import (
    BODIES,
    MARKERS,
    Box,
    body,
    body_box,
    coloured_noise,
    marker,
    marker_box,
    placed,
)
from case_jax.data.strokes import SPLITS, Split
from case_jax.source import SHARED, Evidence, Example, Truth

SOUND = Stft(rate=8000, n_fft=256, window=256, hop=64)
SAMPLES = 8000
CLASS_NAMES = tuple(f"{b}·{m}" for b in BODIES for m in MARKERS)
REGIONS = ("body", "loud marker", "soft marker")
BODY_LEVEL, LOUD, SOFT, NOISE = 0.2, 0.2, 0.09, 0.03
"""Root mean squares of the parts while they last, and of the noise."""
LEVELS = (0.7, 1.4)
"""By how much a whole scene is turned down or up."""
BETWEEN = 0.03, 150.0
"""Seconds or hertz that lie between two parts at least."""
HEARD = 0.1
"""A part is where its own magnitude exceeds this share (−20 dB) of its largest."""
TRUTHS = {"union": [0, 1], "body": [0], "marker": [1]}
"""Which parts are the object that a scene's label names."""


class SoundScene(NamedTuple):
    """One scene with its ground truth; regions in the order of `REGIONS`."""

    image: Float[np.ndarray, "T F 1"]
    """`log(1 + magnitude)`, float32."""
    sound: Float[np.ndarray, " L"]
    clean: Float[np.ndarray, " L"]
    """The same without noise."""
    label: int
    """The class of the body and the loud marker."""
    target: Float[np.ndarray, "25"]
    """The training target: 0.7 on the label, 0.3 on the class of the body and the soft marker."""
    masks: Bool[np.ndarray, "3 T F"]
    """Where each part sounds: its own magnitude is above a tenth of its largest."""
    boxes: Int[np.ndarray, "3 4"]
    """Tight boxes of the masks, half-open (first frame, last, lowest bin, highest)."""
    classes: Int[np.ndarray, "3"]
    """The class that each region speaks for, `SHARED` for the body."""


class _Drawn(NamedTuple):
    """All that is random about a scene."""

    body: int
    markers: tuple[int, int]
    parts: list[Float[np.ndarray, " L"]]
    noise: Float[np.ndarray, " L"]


class SoundScenes:
    """A reproducible set of sound scenes; scene i depends on (split, seed, i) alone.

    Nothing is shared between scenes: every scene has tones, places and noise of its own, and a split is another stream of random
    numbers, not another pool of recordings.

    Args:
        split: `train`, `confusion`, `validation` or `test`: no scene is in two of them.
        size: number of scenes.
        seed: another seed gives other scenes.

    Raises:
        CaseJaxError: for an unknown split, or a size below 1.
    """

    class_names = CLASS_NAMES
    truths = tuple(TRUTHS)
    regions = REGIONS
    stft = SOUND

    def __init__(self, split: Split = "test", size: int = 1000, *, seed: int = 0):
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        require(size >= 1, "size", size, "a number of scenes of at least 1")
        require_seed(seed)
        self.split, self.size, self.seed = split, size, seed
        self.name = f"sound_scenes/{split}"

    @property
    def fingerprint(self) -> str:
        """A digest of what decides a scene: a longer set starts with the shorter one."""
        recipe = (self.split, self.seed, SOUND, BODY_LEVEL, LOUD, SOFT, NOISE, LEVELS, BETWEEN, HEARD, 1)
        return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Number of scenes."""
        return self.size

    def _kinds(self, index: int) -> tuple[np.random.Generator, int, tuple[int, int]]:
        """Body and markers of a scene, the louder first, and what draws the rest of it."""
        rng = np.random.default_rng([8000, self.seed, SPLITS.index(self.split), index])
        first, second = rng.permutation(len(MARKERS))[:2].tolist()
        return rng, int(rng.integers(len(BODIES))), (first, second)

    def labels_of(self, indices: Int[np.ndarray, " n"], /) -> Int[np.ndarray, " n"]:
        """The labels of these scenes, which are not made for that."""
        kinds = (self._kinds(i) for i in indices.tolist())
        return np.array([class_of(body, markers[0]) for _, body, markers in kinds], np.int64)

    def _drawn(self, index: int) -> _Drawn:
        rng, which, markers = self._kinds(index)
        boxes = _apart(rng, SAMPLES / SOUND.rate)
        level = np.exp(rng.uniform(*np.log(LEVELS)))
        loud, soft = (marker(MARKERS[kind], box, SOUND.rate) for kind, box in zip(markers, boxes[1:], strict=True))
        made = [BODY_LEVEL * body(BODIES[which], boxes[0], SOUND.rate), LOUD * loud, SOFT * soft]
        parts = [placed(level * part, box, SOUND.rate, SAMPLES) for part, box in zip(made, boxes, strict=True)]
        return _Drawn(which, markers, parts, level * NOISE * coloured_noise(rng, SAMPLES))

    def sound(self, index: int) -> Float[np.ndarray, " L"]:
        """What scene `index` sounds like, at `stft.rate` samples a second; loud scenes leave [−1, 1], which a WAV file would clip."""
        drawn = self._drawn(index)
        return _mixed([*drawn.parts, drawn.noise])

    def image(self, index: int) -> Float[np.ndarray, "T F 1"]:
        """The spectrogram of scene `index` alone, which is all that training needs."""
        return spectrogram(self.sound(index), SOUND)

    def clean(self, index: int) -> Float[np.ndarray, "T F 1"]:
        """The spectrogram of scene `index` without its noise."""
        return spectrogram(_mixed(self._drawn(index).parts), SOUND)

    def target(self, index: int) -> Float[np.ndarray, "25"]:
        """The training target of scene `index`."""
        _, which, markers = self._kinds(index)
        target = np.zeros(len(CLASS_NAMES), np.float32)
        target[[class_of(which, kind) for kind in markers]] = TARGETS[2]
        return target

    def scene(self, index: int) -> SoundScene:
        """Scene number `index` with its full ground truth."""
        drawn = self._drawn(index)
        classes = [class_of(drawn.body, kind) for kind in drawn.markers]
        masks = np.stack([_sounding(part) for part in drawn.parts])
        boxes = np.array([_tight(mask) for mask in masks], np.int32)
        sound = _mixed([*drawn.parts, drawn.noise])
        speaks_for = np.array([SHARED, *classes], np.int32)
        image, clean = spectrogram(sound, SOUND), _mixed(drawn.parts)
        return SoundScene(image, sound, clean, classes[0], self.target(index), masks, boxes, speaks_for)

    def without(self, index: int, region: int) -> Float[np.ndarray, "T F 1"]:
        """The spectrogram of scene `index` made again without one of its parts; all else sounds as it did.

        Raises:
            CaseJaxError: for a region that these scenes do not have.
        """
        require(0 <= region < len(REGIONS), "region", region, f"a number from 0 to 2: {', '.join(REGIONS)}")
        drawn = self._drawn(index)
        return spectrogram(_mixed([*(part for r, part in enumerate(drawn.parts) if r != region), drawn.noise]), SOUND)

    def __getitem__(self, index: int) -> Example:
        """Scene `index` as an example; its evidence regions are the boxes, filled."""
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} of {self.size}")
        scene = self.scene(index)
        regions = np.zeros_like(scene.masks)
        for region, (first, last, low, high) in zip(regions, scene.boxes, strict=True):
            region[first:last, low:high] = True
        evidence = Evidence(regions, scene.classes)
        return Example(index, f"sound-{index:06d}", scene.image, scene.label, evidence, scene.target)

    def truth(self, index: int, kind: str, /) -> Truth:
        """Where the body, the loud marker (`marker`), or both (`union`) sound, with one tight box around it.

        Raises:
            CaseJaxError: for another kind.
        """
        if kind not in TRUTHS:
            raise unknown("truth", kind, TRUTHS)
        masks = [_sounding(part) for part in np.array(self._drawn(index).parts)[TRUTHS[kind]]]
        whole = np.logical_or.reduce(masks)
        return Truth(np.array([_tight(whole)]), whole)


def class_of(body: int, marker: int) -> int:
    """The class of a scene with this body and marker, an index into `CLASS_NAMES`."""
    return len(MARKERS) * body + marker


def _apart(rng: np.random.Generator, seconds: float) -> list[Box]:
    """Places of the body and of two markers, none of which touch, uniformly among all such (by rejection)."""
    while True:
        boxes = [body_box(rng, seconds), marker_box(rng, seconds), marker_box(rng, seconds)]
        if all(a.apart(b, *BETWEEN) for i, a in enumerate(boxes) for b in boxes[:i]):
            return boxes


def _mixed(sounds: list[Float[np.ndarray, " L"]]) -> Float[np.ndarray, " L"]:
    return np.sum(sounds, axis=0).astype(np.float32)


def _sounding(part: Float[np.ndarray, " L"]) -> Bool[np.ndarray, "T F"]:
    strength = np.asarray(magnitude(stft(part, SOUND)))
    return strength > HEARD * strength.max()


def _tight(mask: Bool[np.ndarray, "T F"]) -> tuple[int, int, int, int]:
    frames, bins = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(frames[0]), int(frames[-1]) + 1, int(bins[0]), int(bins[-1]) + 1

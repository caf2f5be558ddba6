"""Digit scenes: real handwriting, arranged so that the evidence for every class is known.

A 48×48 scene has one large *body* digit (0–4) and two small *marker* digits (5–9), one brighter than the other. A class is
the pair (body, marker), so the two candidate classes of a scene share the body and differ in the marker. Options make scenes
in which other parts decide, or in which more is to be seen than what decides.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from case_jax._checks import require, require_seed, unknown
from case_jax.data.scene_layout import (
    CLASS_NAMES,
    DISTRACTOR_INK,
    DISTRACTOR_SIZE,
    Candidates,
    Part,
    Square,
    candidates_of,
    class_of,
    place,
    place_beside,
    scaled,
    target_of,
)
from case_jax.data.scene_options import SIDE, Background, SceneOptions
from case_jax.data.strokes import SPLITS, Split, bent, digits, enlarged, strokes_of
from case_jax.source import NOBODY, Evidence, Example, Truth

NOISE = 0.05
INK_THRESHOLD = 0.25
TEXTURE_INK, TEXTURE_GRID = 0.4, 12
"""A texture's darkest and brightest ink differ by this at most; it is drawn at this many places along a side."""
TRUTHS = {"union": [0, 1], "body": [0], "marker": [1]}
"""Which parts are the object that a scene's label names."""


class Scene(NamedTuple):
    """One scene with its ground truth; regions in the order of `DigitScenes.regions`."""

    image: UInt8[np.ndarray, "S S 3"]
    label: int
    """The class of the body and the bright marker; where bodies decide, of the bright body and the marker."""
    target: Float[np.ndarray, "25"]
    """The training target: 0.7 on the brightest candidate class and 0.3 on the other (0.55, 0.3 and 0.15 of three), or one-hot."""
    masks: Bool[np.ndarray, "R S S"]
    """The ink of each region; empty where the region is absent."""
    boxes: Int[np.ndarray, "R 4"]
    """Tight boxes of the ink as half-open (top, bottom, left, right); zeros where the region is absent."""
    classes: Int[np.ndarray, " R"]
    """The class that each region speaks for, `SHARED` for what all candidates share, `NOBODY` for absent or misleading ones."""
    strokes: Int[np.ndarray, " R"]
    """Which of scikit-learn's digits each region is, −1 where it is absent; whichever part it is, and bent or not, an id is the same stroke."""


class _Drawn(NamedTuple):
    """All that is random about a scene."""

    candidates: Candidates
    squares: list[Square]
    strokes: list[np.ndarray]
    """The ink of each part in its square, between 0 and 1; all zero where the part is absent."""
    ids: list[int]
    """Which of scikit-learn's digits each is; −1 where the part is absent."""
    background: np.ndarray
    noise: np.ndarray


class DigitScenes:
    """A reproducible set of digit scenes; scene i depends on (split, seed, i) and the options alone.

    An option changes what it names and nothing else: the same digits stand in the same places, unless more parts need room.

    Args:
        split: which of the four disjoint pools of handwritten digits the scenes are made of.
        size: number of scenes.
        seed: another seed gives other scenes from the same pool.
        hard_labels: one-hot training targets; the candidates then do not compete.
        second_body: add a dimmer body of another digit, which speaks for no candidate class.
        dim_marker: False leaves the dim marker out: one object.
        third_marker: add a faint marker: three candidate classes.
        body_decides: two bodies, one brighter, and one marker, which both candidate classes share.
        background: `plain`, or `texture`: smooth random grey behind all parts.
        distractors: number of small digits 0–4, drawn without regard to anything, which speak for no class.
        elastic: bend every stroke by a smooth random field, another one in each scene; it counts as the same stroke.
        side: of the scenes in pixels; their parts grow with it.

    Raises:
        CaseJaxError: for an unknown split, a size below 1, or options that are not accepted or do not go together.
    """

    class_names = CLASS_NAMES
    truths = tuple(TRUTHS)
    unit = "handwritten strokes"
    """A test set of 1,000 scenes is arranged from 143 body and 144 marker strokes."""

    def __init__(
        self,
        split: Split = "test",
        size: int = 1000,
        *,
        seed: int = 0,
        hard_labels: bool = False,
        second_body: bool = False,
        dim_marker: bool = True,
        third_marker: bool = False,
        body_decides: bool = False,
        background: Background = "plain",
        distractors: int = 0,
        elastic: bool = False,
        side: int = SIDE,
    ):
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        require(size >= 1, "size", size, "a number of scenes of at least 1")
        require_seed(seed)
        self.split, self.size, self.seed = split, size, seed
        self.options = SceneOptions(
            hard_labels, second_body, dim_marker, third_marker, body_decides, background, distractors, elastic, side
        )
        self.options.check()

    @property
    def name(self) -> str:
        """The source's name in run folders and reports: the split, and the options that are not as usual."""
        return f"digit_scenes/{self.split}" + (f",{self.options}" if self.options.changed else "")

    @property
    def fingerprint(self) -> str:
        """A digest of the handwriting used and of every option but the size: a longer set starts with the shorter one."""
        first = ("hard_labels", "second_body", "dim_marker")
        recipe = (self.split, self.seed, *(getattr(self.options, name) for name in first), 1)
        later = {name: value for name, value in self.options.changed.items() if name not in first}
        digest = hashlib.sha256(repr((*recipe, later) if later else recipe).encode())
        digest.update(digits()[0].tobytes())
        return digest.hexdigest()[:16]

    @property
    def regions(self) -> tuple[str, ...]:
        """What the regions of every scene are called, in their order."""
        return tuple(part.name for part in self._drawn(0).candidates.parts)

    def __len__(self) -> int:
        """Number of scenes."""
        return self.size

    def _digits_of(self, index: int) -> tuple[np.random.Generator, list[int], list[int]]:
        """Bodies and markers of a scene, brightest first, and what draws the rest of it."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        return rng, rng.permutation(5).tolist(), (5 + rng.permutation(5)).tolist()

    def labels_of(self, indices: Int[np.ndarray, " n"], /) -> Int[np.ndarray, " n"]:
        """The labels of these scenes, which are not made for that."""
        found = (self._digits_of(i) for i in indices.tolist())
        return np.array([class_of(bodies[0], markers[0]) for _, bodies, markers in found], np.int64)

    def _drawn(self, index: int) -> _Drawn:
        """Scene `index` before it is put together. What the options add has random numbers of its own."""
        side, options = self.options.side, self.options
        rng, bodies, markers = self._digits_of(index)
        more, texture, bends = (
            np.random.default_rng([self.seed, SPLITS.index(self.split), index, stream]) for stream in (1, 2, 3)
        )
        parts, classes = candidates_of(options, bodies, markers)
        small = scaled(DISTRACTOR_SIZE, side)
        while True:
            squares = place(rng, [part.size for part in parts], side)
            beside = place_beside(more, squares, options.distractors, small, side)
            if len(beside) == options.distractors:
                break
        inked = [self._stroke(part, rng, bends) for part in parts]
        noise = rng.normal(0.0, NOISE, (side, side))
        added = [Part("distractor", int(more.integers(5)), small, DISTRACTOR_INK, NOBODY) for _ in beside]
        inked += [self._stroke(part, more, bends) for part in added]
        ids, strokes = map(list, zip(*inked, strict=True))
        background = np.zeros((side, side), np.float32)
        if options.background == "texture":
            grid = texture.uniform(0.0, TEXTURE_INK, (TEXTURE_GRID, TEXTURE_GRID))
            background = np.clip(enlarged(grid, side), 0.0, TEXTURE_INK)
        return _Drawn(Candidates(parts + added, classes), squares + beside, strokes, ids, background, noise)

    def _stroke(self, part: Part, rng: np.random.Generator, bends: np.random.Generator) -> tuple[int, np.ndarray]:
        """Id and ink of the sample that a part shows."""
        pool = strokes_of(self.split, part.digit, part.size)
        chosen = rng.integers(len(pool.ids))
        ink = bent(pool.ink[chosen], bends) if self.options.elastic else pool.ink[chosen]
        return (int(pool.ids[chosen]), ink) if part.ink else (-1, np.zeros_like(ink))

    def scene(self, index: int) -> Scene:
        """Scene number `index` with its full ground truth."""
        drawn = self._drawn(index)
        parts, classes = drawn.candidates
        side = self.options.side
        masks, boxes = np.zeros((len(parts), side, side), bool), np.zeros((len(parts), 4), np.int32)
        for r, ((top, left, n), stroke) in enumerate(zip(drawn.squares, drawn.strokes, strict=True)):
            masks[r, top : top + n, left : left + n] = stroke > INK_THRESHOLD
            if masks[r].any():
                rows, columns = np.flatnonzero(masks[r].any(1)), np.flatnonzero(masks[r].any(0))
                boxes[r] = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        speaks_for = np.array([part.speaks_for for part in parts], np.int32)
        target, strokes = target_of(self.options, classes), np.array(drawn.ids)
        return Scene(_rendered(drawn), classes[0], target, masks, boxes, speaks_for, strokes)

    def without(self, index: int, region: int) -> UInt8[np.ndarray, "S S 3"]:
        """Scene `index` made again without one of its regions: all else is as it was, to the last bit of background and noise.

        Raises:
            CaseJaxError: for a region that these scenes do not have.
        """
        drawn = self._drawn(index)
        count = len(drawn.strokes)
        require(0 <= region < count, "region", region, f"a number from 0 to {count - 1}: {', '.join(self.regions)}")
        strokes = [np.zeros_like(stroke) if r == region else stroke for r, stroke in enumerate(drawn.strokes)]
        return _rendered(drawn._replace(strokes=strokes))

    def __getitem__(self, index: int) -> Example:
        """Scene `index` as an example; its evidence regions are the boxes, filled."""
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} of {self.size}")
        scene = self.scene(index)
        regions = np.zeros_like(scene.masks)
        for region, (top, bottom, left, right) in zip(regions, scene.boxes, strict=True):
            region[top:bottom, left:right] = True
        evidence = Evidence(regions, scene.classes)
        clusters = tuple(scene.strokes.tolist())
        name = f"scene-{index:06d}"
        return Example(index, name, scene.image, scene.label, evidence, scene.target, clusters=clusters)

    def truth(self, index: int, kind: str, /) -> Truth:
        """The ink of the body, of the marker that the label names (`marker`), or of both (`union`), with one tight box around it.

        Raises:
            CaseJaxError: for another kind.
        """
        if kind not in TRUTHS:
            raise unknown("truth", kind, TRUTHS)
        scene, regions = self.scene(index), TRUTHS[kind]
        boxes = scene.boxes[regions]
        first, last = boxes.min(0), boxes.max(0)
        return Truth(np.array([[first[0], last[1], first[2], last[3]]]), np.logical_or.reduce(scene.masks[regions]))


def _rendered(drawn: _Drawn) -> UInt8[np.ndarray, "S S 3"]:
    """The parts' ink laid over the background, and noise over all."""
    canvas = drawn.background.copy()
    for part, (top, left, n), stroke in zip(drawn.candidates.parts, drawn.squares, drawn.strokes, strict=True):
        behind = canvas[top : top + n, left : left + n]
        canvas[top : top + n, left : left + n] = behind * (1.0 - stroke) + part.ink * stroke
    canvas += drawn.noise
    return np.repeat((np.clip(canvas, 0.0, 1.0) * 255).round().astype(np.uint8)[..., None], 3, axis=-1)

"""Digit scenes: real handwriting, arranged so that the evidence for every class is known.

A 48×48 scene has one large *body* digit (0–4) and two small *marker* digits (5–9), one brighter than the other. A class is
the pair (body, marker), so the two candidate classes of a scene share the body and differ in the marker.
"""

import gzip
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from case_jax._checks import require, require_seed, unknown
from case_jax.source import NOBODY, SHARED, Evidence, Example, Truth

Split = Literal["train", "confusion", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SHARES = {"train": 0.60, "confusion": 0.14, "validation": 0.10, "test": 0.16}

SIZE = 48
BODY_SIZE, MARKER_SIZE = 22, 12
BODY_INK, BRIGHT_INK, DIM_INK, SECOND_BODY_INK = 0.8, 1.0, 0.7, 0.4
NOISE = 0.05
BRIGHT_SHARE = 0.7
INK_THRESHOLD = 0.25
MARKERS_PER_BODY = 5
CLASS_NAMES = tuple(f"{body}·{marker}" for body in range(5) for marker in range(5, 10))
REGIONS = ("body", "bright marker", "dim marker", "second body")
TRUTHS = {"union": [0, 1], "body": [0], "marker": [1]}
"""Which regions are the object that a scene's label names."""


class Scene(NamedTuple):
    """One scene with its ground truth; regions in the order of `REGIONS`."""

    image: UInt8[np.ndarray, "48 48 3"]
    label: int
    """The class of the body and the bright marker."""
    target: Float[np.ndarray, "25"]
    """The training target: 0.7 on the bright marker's class and 0.3 on the dim one's, or one-hot."""
    masks: Bool[np.ndarray, "R 48 48"]
    """The ink of each region; empty where the region is absent."""
    boxes: Int[np.ndarray, "R 4"]
    """Tight boxes of the ink as half-open (top, bottom, left, right); zeros where the region is absent."""
    classes: Int[np.ndarray, " R"]
    """The class that each region speaks for, `SHARED` for the body, `NOBODY` for absent or misleading ones."""
    strokes: Int[np.ndarray, " R"]
    """Which of scikit-learn's digits each region is, −1 where it is absent; markers are of one pool, whichever is brighter."""


@lru_cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits and their labels, read from its file: importing the package takes a second that nothing here uses."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8) / 16.0, table[:, -1].astype(int)


@lru_cache
def _pools(split: Split) -> tuple[Int[np.ndarray, " n"], ...]:
    """For each digit 0–9 which of scikit-learn's digits are the split's own; none is in two splits."""
    labels = _digits()[1]
    first = sum(_SHARES[s] for s in SPLITS[: SPLITS.index(split)])
    out = []
    for digit in range(10):
        members = np.random.default_rng([1797, digit]).permutation(np.flatnonzero(labels == digit))
        start, stop = round(first * len(members)), round((first + _SHARES[split]) * len(members))
        out.append(members[start:stop])
    return tuple(out)


@lru_cache
def _strokes(split: Split, size: int) -> tuple[np.ndarray, ...]:
    """For each digit 0–9 the split's own handwritten samples, in the order of `_pools`, enlarged to size × size."""
    images, out = _digits()[0], []
    for members in _pools(split):
        enlarged = [
            np.asarray(Image.fromarray(images[i].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
            for i in members
        ]
        out.append(np.clip(np.stack(enlarged), 0.0, 1.0))
    return tuple(out)


def _overlap(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    (ay, ax, an), (by, bx, bn) = a, b
    return ay < by + bn and by < ay + an and ax < bx + bn and bx < ax + an


def _place(rng: np.random.Generator, sizes: list[int]) -> list[tuple[int, int, int]]:
    """Disjoint squares, uniformly among all arrangements that fit (by rejection)."""
    while True:
        squares = [(int(rng.integers(0, SIZE - n + 1)), int(rng.integers(0, SIZE - n + 1)), n) for n in sizes]
        if not any(_overlap(a, b) for i, a in enumerate(squares) for b in squares[:i]):
            return squares


def class_of(body: int, marker: int) -> int:
    """The class of a scene with this body and marker, an index into `CLASS_NAMES`."""
    return MARKERS_PER_BODY * body + marker - 5


class DigitScenes:
    """A reproducible set of digit scenes; scene i depends on (split, seed, i) and the options alone.

    Args:
        split: which of the four disjoint pools of handwritten digits the scenes are made of.
        size: number of scenes.
        seed: another seed gives other scenes from the same pool.
        hard_labels: one-hot training targets; the two markers then do not compete.
        second_body: add a dimmer body of another digit, which speaks for no candidate class.
        dim_marker: False leaves the dim marker out.

    Raises:
        CaseJaxError: for an unknown split or a size below 1.
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
    ):
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        require(size >= 1, "size", size, "a number of scenes of at least 1")
        require_seed(seed)
        self.split, self.size, self.seed = split, size, seed
        self.hard_labels, self.second_body, self.dim_marker = hard_labels, second_body, dim_marker

    @property
    def name(self) -> str:
        """The source's name in run folders and reports."""
        return f"digit_scenes/{self.split}"

    @property
    def fingerprint(self) -> str:
        """A digest of the handwriting used and of every option but the size: a longer set starts with the shorter one."""
        recipe = (self.split, self.seed, self.hard_labels, self.second_body, self.dim_marker, 1)
        digest = hashlib.sha256(repr(recipe).encode())
        digest.update(_digits()[0].tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of scenes."""
        return self.size

    def _digits_of(self, index: int) -> tuple[np.random.Generator, list[int]]:
        """Body, bright and dim marker and second body of a scene, and what draws the rest of it."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        body, other_body = (int(d) for d in rng.permutation(5)[:2])
        bright, dim = (int(d) for d in 5 + rng.permutation(5)[:2])
        return rng, [body, bright, dim, other_body]

    def labels_of(self, indices: Int[np.ndarray, " n"], /) -> Int[np.ndarray, " n"]:
        """The labels of these scenes, which are not made for that."""
        digits = (self._digits_of(i)[1] for i in indices.tolist())
        return np.array([class_of(body, bright) for body, bright, *_ in digits], np.int64)

    def scene(self, index: int) -> Scene:
        """Scene number `index` with its full ground truth."""
        rng, digits = self._digits_of(index)
        body, bright, dim, _ = digits
        inks = [BODY_INK, BRIGHT_INK, DIM_INK * self.dim_marker, SECOND_BODY_INK * self.second_body]
        sizes = [BODY_SIZE, MARKER_SIZE, MARKER_SIZE] + [BODY_SIZE] * self.second_body
        canvas = np.zeros((SIZE, SIZE), np.float32)
        count = 3 + self.second_body
        masks, boxes = np.zeros((count, SIZE, SIZE), bool), np.zeros((count, 4), np.int32)
        strokes = np.full(count, -1)
        for r, (top, left, n) in enumerate(_place(rng, sizes)):
            pool = _strokes(self.split, n)[digits[r]]
            drawn = rng.integers(len(pool))
            if inks[r] == 0:
                continue
            stroke, strokes[r] = pool[drawn], _pools(self.split)[digits[r]][drawn]
            canvas[top : top + n, left : left + n] += inks[r] * stroke
            masks[r, top : top + n, left : left + n] = stroke > INK_THRESHOLD
            rows, columns = np.flatnonzero(masks[r].any(1)), np.flatnonzero(masks[r].any(0))
            boxes[r] = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        canvas += rng.normal(0.0, NOISE, canvas.shape)
        image = np.repeat((np.clip(canvas, 0.0, 1.0) * 255).round().astype(np.uint8)[..., None], 3, axis=-1)
        label, rival = (class_of(body, marker) for marker in (bright, dim))
        target = np.zeros(len(CLASS_NAMES), np.float32)
        soft = self.dim_marker and not self.hard_labels
        target[label] = BRIGHT_SHARE if soft else 1.0
        if soft:
            target[rival] = 1.0 - BRIGHT_SHARE
        classes = np.array([SHARED, label, rival if self.dim_marker else NOBODY, NOBODY][:count], np.int32)
        return Scene(image, label, target, masks, boxes, classes, strokes)

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
        """The ink of the body, of the bright marker (`marker`), or of both (`union`), with one tight box around it.

        Raises:
            CaseJaxError: for another kind.
        """
        if kind not in TRUTHS:
            raise unknown("truth", kind, TRUTHS)
        scene, regions = self.scene(index), TRUTHS[kind]
        boxes = scene.boxes[regions]
        first, last = boxes.min(0), boxes.max(0)
        return Truth(np.array([[first[0], last[1], first[2], last[3]]]), np.logical_or.reduce(scene.masks[regions]))

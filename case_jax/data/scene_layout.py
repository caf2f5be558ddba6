"""What a digit scene is made of, which class each part speaks for, and where the parts stand."""

from typing import NamedTuple

import numpy as np

from case_jax.data.scene_options import SIDE, SceneOptions
from case_jax.source import NOBODY, SHARED

BODY_SIZE, MARKER_SIZE, DISTRACTOR_SIZE = 22, 12, 8
"""In pixels of scenes of the usual side; all grow with it."""
BODY_INK, BRIGHT_INK, DIM_INK, FAINT_INK, SECOND_BODY_INK, DISTRACTOR_INK = 0.8, 1.0, 0.7, 0.45, 0.4, 0.8
TARGETS = {2: (0.7, 0.3), 3: (0.55, 0.3, 0.15)}
"""Training targets of the candidate classes, brightest first, by their number."""
MARKERS_PER_BODY = 5
CLASS_NAMES = tuple(f"{body}·{marker}" for body in range(5) for marker in range(5, 10))

Square = tuple[int, int, int]
"""Top, left, side."""


class Part(NamedTuple):
    """One digit of a scene."""

    name: str
    digit: int
    size: int
    ink: float
    """0 leaves it out; its place stays empty."""
    speaks_for: int
    """A class, or `SHARED`, or `NOBODY`."""


class Candidates(NamedTuple):
    """The parts of a scene, and the classes that they leave possible, brightest first."""

    parts: list[Part]
    classes: list[int]


def class_of(body: int, marker: int) -> int:
    """The class of a scene with this body and marker, an index into `CLASS_NAMES`."""
    return MARKERS_PER_BODY * body + marker - 5


def scaled(size: int, side: int) -> int:
    """A length in pixels of the usual side, in scenes of another."""
    return round(size * side / SIDE)


def candidates_of(options: SceneOptions, bodies: list[int], markers: list[int]) -> Candidates:
    """The parts of a scene with these digits, brightest first; the object that the label names is the first two.

    Where markers decide, the body is shared and each marker speaks for its own class; where bodies decide, the marker is shared.
    """
    body, other_body = bodies[:2]
    bright, dim, faint = markers[:3]
    large, small = scaled(BODY_SIZE, options.side), scaled(MARKER_SIZE, options.side)
    if options.body_decides:
        classes = [class_of(body, bright), class_of(other_body, bright)]
        parts = [
            Part("bright body", body, large, BRIGHT_INK, classes[0]),
            Part("marker", bright, small, BODY_INK, SHARED),
            Part("dim body", other_body, large, DIM_INK, classes[1]),
        ]
        return Candidates(parts, classes)
    classes = [class_of(body, marker) for marker in (bright, dim, faint)]
    rival = classes[1] if options.dim_marker else NOBODY
    parts = [
        Part("body", body, large, BODY_INK, SHARED),
        Part("bright marker", bright, small, BRIGHT_INK, classes[0]),
        Part("dim marker", dim, small, DIM_INK * options.dim_marker, rival),
    ]
    if options.third_marker:
        parts.append(Part("faint marker", faint, small, FAINT_INK, classes[2]))
    if options.second_body:
        parts.append(Part("second body", other_body, large, SECOND_BODY_INK, NOBODY))
    return Candidates(parts, classes[: 1 + options.dim_marker + options.third_marker])


def target_of(options: SceneOptions, classes: list[int]) -> np.ndarray:
    """What a classifier is trained to answer: a share for each candidate class, or the label alone."""
    target = np.zeros(len(CLASS_NAMES), np.float32)
    shares = (1.0,) if options.hard_labels or len(classes) == 1 else TARGETS[len(classes)]
    target[classes[: len(shares)]] = shares
    return target


def overlap(a: Square, b: Square) -> bool:
    """Whether two squares share a pixel."""
    (ay, ax, an), (by, bx, bn) = a, b
    return ay < by + bn and by < ay + an and ax < bx + bn and bx < ax + an


def place(rng: np.random.Generator, sizes: list[int], side: int) -> list[Square]:
    """Disjoint squares, uniformly among all arrangements that fit (by rejection)."""
    while True:
        squares = [(int(rng.integers(0, side - n + 1)), int(rng.integers(0, side - n + 1)), n) for n in sizes]
        if not any(overlap(a, b) for i, a in enumerate(squares) for b in squares[:i]):
            return squares


def place_beside(rng: np.random.Generator, taken: list[Square], count: int, size: int, side: int) -> list[Square]:
    """That many squares more, one after the other, each uniformly among the places that are left; fewer where none is."""
    found: list[Square] = []
    for _ in range(count):
        free = np.ones((side - size + 1, side - size + 1), bool)
        for top, left, n in taken + found:
            free[max(top - size + 1, 0) : top + n, max(left - size + 1, 0) : left + n] = False
        places = np.flatnonzero(free)
        if not len(places):
            break
        top, left = divmod(int(rng.choice(places)), free.shape[1])
        found.append((top, left, size))
    return found

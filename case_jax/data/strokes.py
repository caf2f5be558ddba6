"""Strokes: scikit-learn's real handwritten digits, shared out to splits that have none in common."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

Split = Literal["train", "confusion", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SHARES = {"train": 0.60, "confusion": 0.14, "validation": 0.10, "test": 0.16}
BEND, BEND_GRID = 0.05, 4
"""Standard deviation of a bent stroke's displacement, in shares of its side, and how many are drawn along a side."""


class Strokes(NamedTuple):
    """Handwritten samples of one digit."""

    ids: Int[np.ndarray, " n"]
    """Their numbers among scikit-learn's 1,797."""
    ink: Float[np.ndarray, "n S S"]
    """Between 0 and 1."""


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits and their labels, read from its file: importing the package takes a second that nothing here uses."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8) / 16.0, table[:, -1].astype(int)


@cache
def strokes_of(split: Split, digit: int, size: int) -> Strokes:
    """The split's own samples of a digit, enlarged to size × size; no sample is in two splits."""
    images, labels = digits()
    first = sum(_SHARES[s] for s in SPLITS[: SPLITS.index(split)])
    members = np.random.default_rng([1797, digit]).permutation(np.flatnonzero(labels == digit))
    start, stop = round(first * len(members)), round((first + _SHARES[split]) * len(members))
    ids = members[start:stop]
    return Strokes(ids, np.clip(np.stack([enlarged(images[i], size) for i in ids]), 0.0, 1.0))


def enlarged(values: Float[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "S S"]:
    """A small picture at size × size, bicubic; values may overshoot."""
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))


def bent(stroke: Float[np.ndarray, "S S"], rng: np.random.Generator) -> Float[np.ndarray, "S S"]:
    """The stroke after an elastic deformation, another one each time: `out[p] = stroke[p + u(p)]` with a smooth random u.

    It is the same person's same stroke: what is found on its deformations is not independent.
    """
    from scipy.ndimage import map_coordinates

    size = len(stroke)
    shifts = rng.normal(0.0, BEND * size, (2, BEND_GRID, BEND_GRID))
    places = np.indices(stroke.shape) + np.stack([enlarged(shift, size) for shift in shifts])
    return map_coordinates(stroke, places, order=1)

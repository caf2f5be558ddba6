"""What a count of pairs has found: the agreement of the maps of every two classes, and the pairs that are told apart least."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from case_jax.evaluation.studies.pair_sums import PairSums, read_sums, total
from case_jax.results import RunFolder

BLOCK = 1 << 22
"""Pairs in memory at once while the highest are looked for."""


class Agreements(NamedTuple):
    """What has been counted."""

    methods: tuple[str, ...]
    overlap: Int[np.ndarray, "M C C"]
    """Pixels shared by the tops of two classes, summed over images."""
    images: Int[np.ndarray, "M C C"]
    """In how many images both maps were there and usable."""
    pixels: int
    """How many pixels the top of a map has."""
    degenerate: Int[np.ndarray, " M"]
    """Maps left out because they rank nothing."""
    excluded: list[dict[str, Any]]
    """Images that could not be read."""
    counted: int
    """Images counted."""
    changed: Mapping[str, int] = {}
    """How many of them had to be changed to be shown, by what was done to them."""

    @property
    def agreement(self) -> Float[np.ndarray, "M C C"]:
        """Mean share of top pixels per pair of classes; NaN for pairs that never occurred."""
        return mean_agreement(self.overlap, self.images, self.pixels)


def mean_agreement(
    overlap: Int[np.ndarray, "*n"], images: Int[np.ndarray, "*n"], pixels: int
) -> Float[np.ndarray, "*n"]:
    """`overlap / images / pixels`, NaN where no image counts."""
    return np.where(images > 0, overlap / np.maximum(images, 1) / pixels, np.nan)


def of_sums(methods: tuple[str, ...], sums: PairSums, pixels: int) -> Agreements:
    """What sums say, where the top of a map has so many pixels."""
    counts = (sums.degenerate, sums.excluded, sums.counted, sums.changed)
    return Agreements(methods, sums.overlap, sums.images, pixels, *counts)


def agreements(path: Path) -> Agreements:
    """What a run has counted so far, read off its folder.

    Raises:
        CaseJaxError: for a folder without a run, or damaged sums.
    """
    folder = RunFolder(path)
    config = folder.config()
    methods = tuple(config["methods"])
    shape = (len(methods), config["model"]["classes"])
    sums = total(read_sums(folder, shape).values(), shape)
    return of_sums(methods, sums, config["pairs"]["pixels"])


def confused_pairs(found: Agreements, class_names: Sequence[str], *, most: int = 20) -> pd.DataFrame:
    """The pairs of classes that each method tells apart least: method, classes, mean agreement, images."""
    frames = []
    for name, overlap, images in zip(found.methods, found.overlap, found.images, strict=True):
        first, second, agreement, count = _highest(overlap, images, found.pixels, most)
        columns = {
            "method": name,
            "class_a": [class_names[int(i)] for i in first],
            "class_b": [class_names[int(i)] for i in second],
            "agreement": agreement,
            "images": count,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _highest(overlap: np.ndarray, images: np.ndarray, pixels: int, most: int) -> tuple[np.ndarray, ...]:
    """Pairs a < b by mean agreement, then by images, both descending, then in order; a block of rows at a time."""
    best: list[np.ndarray] = [np.empty(0, np.int64)] * 2 + [np.empty(0), np.empty(0, np.int64)]
    height = max(1, BLOCK // len(images))
    for start in range(0, len(images), height):
        rows = slice(start, start + height)
        first, second = np.nonzero(np.triu(images[rows] > 0, k=start + 1))
        count = images[rows][first, second]
        agreement = mean_agreement(overlap[rows][first, second], count, pixels)
        both = [np.concatenate(pair) for pair in zip(best, (first + start, second, agreement, count), strict=True)]
        order = np.lexsort((both[1], both[0], -both[3], -both[2]))[:most]
        best = [column[order] for column in both]
    return tuple(best)

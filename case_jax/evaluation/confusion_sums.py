"""Confusions counted so far, as integers: the sum of any parts, in any order, has the same bits.

Probabilities are summed as whole multiples of 2^−q.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass
class ConfusionSums:
    """Sums over the images of some tiles."""

    confused: Int[np.ndarray, "C C"]
    """Images by true class and predicted class."""
    probabilities: Int[np.ndarray, "C C"]
    """Probabilities by true class, in multiples of 2^−q."""
    tiles: list[int] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Images that were not counted: index in the source, name, reason, kind."""

    @classmethod
    def none(cls, classes: int) -> "ConfusionSums":
        """Nothing counted yet."""
        return cls(np.zeros((classes, classes), np.int64), np.zeros((classes, classes), np.int64))

    def add_images(
        self,
        labels: Int[np.ndarray, " n"],
        predicted: Int[np.ndarray, " n"],
        probabilities: Float[np.ndarray, "n C"],
        bits: int,
    ) -> None:
        """Add images by their labels, predicted classes and probabilities, these rounded to multiples of 2^−bits."""
        np.add.at(self.confused, (labels, predicted), 1)
        multiples = np.rint(np.ldexp(probabilities.astype(np.float64), bits)).astype(np.int64)
        np.add.at(self.probabilities, labels, multiples)

    def add(self, other: "ConfusionSums") -> None:
        """Add the sums over other tiles."""
        self.confused += other.confused
        self.probabilities += other.probabilities
        self.tiles = sorted([*self.tiles, *other.tiles])
        self.left_out = [*self.left_out, *other.left_out]

    def means(self, bits: int) -> Float[np.ndarray, "C C"]:
        """Mean probabilities by true class; zeros for classes without images."""
        sums = np.ldexp(self.probabilities.astype(np.float64), -bits)
        return sums / np.maximum(self.confused.sum(1, keepdims=True), 1)


def fraction_bits(images: int) -> int:
    """q: as many bits as an int64 has left for sums over so many probabilities; 2^−q is 2e-15 for 5,000 images."""
    return 62 - images.bit_length()


def total(held: Iterable[ConfusionSums], classes: int) -> ConfusionSums:
    """Everything together."""
    found = ConfusionSums.none(classes)
    for sums in held:
        found.add(sums)
    return found

"""Which images of a set are not independent, and sums over the pairs that are not (no JAX here)."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from case_jax._checks import require

MOST = 10
"""Ids of an image up to which groups are formed, whose number grows with two to that power; beyond, pairs are."""
PAIRS = 20_000_000
"""Most pairs that are formed."""


class Sharing(NamedTuple):
    """Which of n images share an id, ready for sums over pairs; made once for a set of images, see `sharing_of`."""

    ids: Int[np.ndarray, "n c"]
    """The ids of each image, −1 where it has fewer."""
    members: csr_array
    """(groups, n), 1 where an image is in a group; every group shares one, two, … ids, and has two images or more. Of images with many
    ids every dependent pair is a group."""
    signs: Float[np.ndarray, " groups"]
    """1 for a group that shares an odd number of ids, −1 for an even number."""

    def take(self, places: Int[np.ndarray, " k"]) -> "Sharing":
        """The same of some of the images, in this order."""
        if np.array_equal(places, np.arange(len(self.ids))):
            return self
        return Sharing(self.ids[places], self.members[:, places], self.signs)

    def pair_sum(self, values: Float[np.ndarray, " n"]) -> float:
        """`Σ e_i e_j` over all ordered pairs (i, j) that share an id, each image with itself among them.

        By inclusion and exclusion over the groups, `Σ_i e_i² + Σ_g ± ((Σ_{i∈g} e_i)² − Σ_{i∈g} e_i²)`, so that no matrix of pairs is
        formed.
        """
        squares = values**2
        return float(squares.sum() + self.signs @ ((self.members @ values) ** 2 - self.members @ squares))

    def known(self) -> Int[np.ndarray, " J"]:
        """The distinct ids."""
        return np.unique(self.ids[self.ids >= 0])

    def number(self) -> int:
        """The number of clusters: distinct ids, an image without one being its own, in the column that has fewest."""
        return min(len(np.unique(column[column >= 0])) + int((column < 0).sum()) for column in self.ids.T)


def sharing_of(clusters: Int[np.ndarray, "n c"]) -> Sharing:
    """Find the groups of images that share ids.

    Two images are dependent when they share any id, in whichever column; −1 is none. Time and memory grow with the number of images, not
    of pairs; where images have more than `MOST` ids (mosaics of scenes of several strokes each), with the number of dependent pairs.

    Args:
        clusters: ids of each image, from one id space.

    Raises:
        CaseJaxError: for an array of another rank, and for more than `MOST` ids an image that more than `PAIRS` pairs of images share.
    """
    ids = np.asarray(clusters)
    proper = ids.ndim == 2 and ids.shape[1] >= 1
    require(proper, "clusters", f"shape {ids.shape}", "(images, ids) with at least 1 id an image, −1 for none")
    if ids.shape[1] > MOST:
        return _by_pairs(ids)
    ordered = np.sort(ids, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1  # an id that an image has twice counts once
    ordered = np.sort(ordered, axis=1)
    images, groups, signs, start = [], [], [], 0
    for size in range(1, ids.shape[1] + 1):
        of_size = [(np.flatnonzero((ordered[:, c] >= 0).all(1)), c) for c in combinations(range(ids.shape[1]), size)]
        image = np.concatenate([rows for rows, _ in of_size])
        keys = np.concatenate([ordered[rows][:, columns] for rows, columns in of_size])
        _, group, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        shared = count > 1
        number = np.cumsum(shared) - 1 + start
        kept = shared[group.ravel()]
        images.append(image[kept])
        groups.append(number[group.ravel()[kept]])
        signs.append(np.full(shared.sum(), 1.0 if size % 2 else -1.0))
        start += int(shared.sum())
    rows, columns = np.concatenate(groups), np.concatenate(images)
    members = csr_array((np.ones(len(rows)), (rows, columns)), shape=(start, len(ids)))
    return Sharing(ids, members, np.concatenate(signs))


def _by_pairs(ids: Int[np.ndarray, "n c"]) -> Sharing:
    """Every dependent pair as a group: `(e_i + e_j)² − e_i² − e_j²` is what the two orders of a pair add."""
    images, columns = np.nonzero(ids >= 0)
    _, number, size = np.unique(ids[images, columns], return_inverse=True, return_counts=True)
    most, given = int((size.astype(np.int64) ** 2).sum()), f"{ids.shape[1]} ids an image"
    accepted = f"at most {MOST} ids where so many images share them, or fewer than {PAIRS:,} pairs"
    require(most <= 2 * PAIRS, "clusters", f"{given}, up to {most // 2:,} pairs that share one", accepted)
    holds = csr_array((np.ones(len(images)), (images, number.ravel())), shape=(len(ids), len(size)))
    first, second = (holds @ holds.T).tocoo().coords
    first, second = first[first < second], second[first < second]
    rows = np.repeat(np.arange(len(first)), 2)
    members = csr_array(
        (np.ones(len(rows)), (rows, np.stack([first, second], 1).ravel())), shape=(len(first), len(ids))
    )
    return Sharing(ids, members, np.ones(len(first)))


def independent(number: int) -> Sharing:
    """So many images that share nothing."""
    return sharing_of(np.full((number, 1), -1))


Clusters = Int[np.ndarray, "n c"] | Sharing | None
"""Ids of each image, the same made ready, or None where images are independent."""


def ready(clusters: Clusters) -> Sharing | None:
    """Clusters made ready, if there are any."""
    return clusters if clusters is None or isinstance(clusters, Sharing) else sharing_of(clusters)

"""Classes in groups: do a method's maps differ less within a super-class than between two?"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from case_jax._checks import CaseJaxError, require
from case_jax.evaluation.studies.pair_agreements import Agreements, mean_agreement

COLUMNS = ("class", "superclass")
ALL = "(all)"


class Hierarchy(NamedTuple):
    """The super-class of every class."""

    names: tuple[str, ...]
    """Super-classes, in the order in which the file names them first."""
    of_class: Int[np.ndarray, " C"]
    """An index into `names`."""

    def order(self) -> Int[np.ndarray, " C"]:
        """Classes sorted by super-class, inside one in their own order."""
        return np.argsort(self.of_class, kind="stable")

    def sizes(self) -> Int[np.ndarray, " S"]:
        """How many classes each super-class has."""
        return np.bincount(self.of_class, minlength=len(self.names))


class Blocks(NamedTuple):
    """Agreement of the classes of two super-classes, all pairs together; inside one, of different classes only."""

    agreement: Float[np.ndarray, "M S S"]
    """Mean over pairs and images: a pair counts as often as it was seen. NaN where none was."""
    images: Int[np.ndarray, "M S S"]
    """Over how many (pair, image) each mean is taken."""


def read_hierarchy(file: Path, class_names: Sequence[str]) -> Hierarchy:
    """Super-classes from a CSV file with the columns `class` and `superclass`; other columns are not read.

    Args:
        file: a row for every class.
        class_names: of the classifier.

    Raises:
        CaseJaxError: for a file that cannot be read, without these columns, or with an empty cell; for classes that are missing, unknown or
            listed twice (the first ten are named); and for fewer than two super-classes.
    """
    rows = _rows(file)
    given = Counter(name for name, _ in rows)
    accepted = f"every class of the classifier once, {len(class_names)} rows"
    for wrong, kind in (
        ([name for name in given if name not in set(class_names)], "unknown to the classifier, listed"),
        ([name for name in class_names if name not in given], "missing"),
        ([name for name, times in given.items() if times > 1], "listed more than once"),
    ):
        names = ", ".join(map(repr, wrong[:10])) + (", …" if len(wrong) > 10 else "")
        require(not wrong, "hierarchy", f"classes {kind} in {file}, {len(wrong)} in all: {names}", accepted)
    found = dict(rows)
    names = tuple(dict.fromkeys(found.values()))
    require(len(names) >= 2, "hierarchy", f"1 super-class in {file}, {names[0]!r}", "at least 2 super-classes")
    place = {name: number for number, name in enumerate(names)}
    return Hierarchy(names, np.array([place[found[name]] for name in class_names]))


def _rows(file: Path) -> list[tuple[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            header = tuple(reader.fieldnames or ())
            rows = [
                (number, *((row.get(column) or "").strip() for column in COLUMNS))
                for number, row in enumerate(reader, 2)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseJaxError(
            f"hierarchy: cannot read {file} ({error}); give a CSV file with the columns class,superclass."
        ) from error
    lacking = set(COLUMNS) - set(header)
    require(
        not lacking,
        "hierarchy",
        f"{file} with the columns {', '.join(header) or 'none'}",
        "a header with class,superclass",
    )
    empty = [number for number, *cells in rows if not all(cells)]
    require(
        not empty,
        "hierarchy",
        f"{file} with an empty cell in line {empty[:1]}",
        "a class and its super-class in every line",
    )
    return [(name, superclass) for _, name, superclass in rows]


def blocks(found: Agreements, hierarchy: Hierarchy) -> Blocks:
    """Sums over the pairs of two super-classes: `Σ |T_a ∩ T_b| / (k · number of (pair, image))`."""
    order, sizes = hierarchy.order(), hierarchy.sizes()
    starts = np.cumsum(sizes) - sizes
    shape = (len(found.methods), len(sizes), len(sizes))
    overlap, images = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for method in range(len(found.methods)):
        for sums, total in ((found.overlap, overlap), (found.images, images)):
            matrix = sums[method] - np.diag(np.diagonal(sums[method]))
            by_row = np.add.reduceat(matrix[order], starts, axis=0)
            total[method] = np.add.reduceat(by_row[:, order], starts, axis=1)
    agreement = mean_agreement(overlap, images, found.pixels)
    inside = np.eye(len(sizes), dtype=bool)
    return Blocks(agreement, np.where(inside, images // 2, images))  # inside, the matrix holds every pair twice


def superclass_table(found: Agreements, hierarchy: Hierarchy) -> pd.DataFrame:
    """Per method and super-class: mean agreement within it and with all others, and which other is nearest.

    A first row, `(all)`, has the means over all pairs of one and of two super-classes. Means count a pair as often as it was seen;
    those of super-classes without a pair are NaN.
    """
    cells = blocks(found, hierarchy)
    sizes, count = hierarchy.sizes(), len(hierarchy.names)
    inside = np.eye(count, dtype=bool)
    frames = []
    for method, agreement, images in zip(found.methods, *cells, strict=True):
        seen = np.where(images > 0, agreement, 0.0) * images

        def mean(where: np.ndarray, seen: np.ndarray = seen, images: np.ndarray = images) -> np.ndarray:
            total = np.where(where, images, 0).sum(-1)
            return np.where(total > 0, np.where(where, seen, 0.0).sum(-1) / np.maximum(total, 1), np.nan)

        others = np.where(inside | (images == 0), -np.inf, agreement)
        nearest, known = others.argmax(1), others.max(1) > -np.inf
        overall = [
            float(mean(where.ravel()[None], seen.ravel()[None], images.ravel()[None])[0]) for where in (inside, ~inside)
        ]
        columns = {
            "method": method,
            "superclass": [ALL, *hierarchy.names],
            "classes": [int(sizes.sum()), *sizes],
            "within": [overall[0], *mean(inside)],
            "between": [overall[1], *mean(~inside)],
            "nearest": ["", *(hierarchy.names[n] if k else "" for n, k in zip(nearest, known, strict=True))],
            "nearest_agreement": [np.nan, *np.where(known, others.max(1), np.nan)],
            "pairs_within": [int(np.where(inside, images, 0).sum()), *images.diagonal()],
            "pairs_between": [int(np.where(inside, 0, images).sum() // 2), *np.where(inside, 0, images).sum(1)],
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)

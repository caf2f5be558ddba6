"""Contrast sets: which classes N(c) a class c is contrasted with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, Num

from case_jax._checks import CaseJaxError, require

ContrastSet = Callable[[Float[Array, " C"], Int[Array, " T"]], Int[Array, "T k"]]
"""This image's logits and the targets to the k classes that each target is contrasted with; see also `HighestOthers.members`."""


class Query(NamedTuple):
    """What a saliency method is asked about one image."""

    targets: Int[Array, " T"]
    """Target classes; `jnp.arange(C)` asks about all."""
    contrast: Int[Array, "T k"] | None = None
    """The classes that each target is contrasted with; needed by contrastive methods only."""
    key: Key[Array, ""] | None = None
    """This image's random key; needed by random methods only."""
    members: Int[Array, " m"] | None = None
    """Optional: a superset of all contrast classes of this image; enables a faster path."""


class ConfusionSets(NamedTuple):
    """Contrast sets from a confusion matrix."""

    indices: Int[np.ndarray, "C k"]
    """Most confused class first."""
    filled: Int[np.ndarray, " C"]
    """How many entries of each row had no confusion and were filled by mean probability."""


def _require_classes(logits: Array, num_classes: int) -> None:
    found = logits.shape[-1]
    require(
        found == num_classes, "contrast", f"sets for {num_classes} classes", f"sets for the model's {found} classes"
    )


def require_set_size(k: int, num_classes: int) -> None:
    """Raise unless k other classes exist."""
    require(
        1 <= k < num_classes,
        "k",
        k,
        f"a contrast-set size from 1 to {num_classes - 1} (the model has {num_classes} classes)",
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FixedSets:
    """The contrast sets of `table`; a pytree."""

    indices: Int[Array, "C k"]

    def __call__(self, logits: Float[Array, " C"], targets: Int[Array, " T"]) -> Int[Array, "T k"]:
        """The targets' rows."""
        _require_classes(logits, len(self.indices))
        return self.indices[targets]


def table(indices: Int[Any, "C k"] | Sequence[Sequence[int]], num_classes: int) -> FixedSets:
    """A fixed set per class, the same for every image.

    Args:
        indices: row c lists the classes that class c is contrasted with; never c itself, and none twice.
        num_classes: C.

    Raises:
        CaseJaxError: for a table of another shape, or, outside of traces, a class outside [0, C), a class in its own set or one listed
            twice.
    """
    sets = indices if isinstance(indices, Tracer) else np.asarray(indices)
    require(
        sets.ndim == 2 and len(sets) == num_classes and sets.shape[1] >= 1 and np.issubdtype(sets.dtype, np.integer),
        "contrast",
        f"a table of shape {sets.shape} and type {sets.dtype}",
        f"integers of shape (C, k) = ({num_classes}, k), one row per class",
    )
    if isinstance(sets, Tracer):
        return FixedSets(sets.astype(jnp.int32))
    if sets.min() < 0 or sets.max() >= num_classes:
        row, column = np.argwhere((sets < 0) | (sets >= num_classes))[0]
        raise CaseJaxError(
            f"contrast: row {row} names class {sets[row, column]}; the model has classes 0 to {num_classes - 1}."
        )
    own = (sets == np.arange(num_classes)[:, None]).any(1)
    if own.any():
        raise CaseJaxError(f"contrast: the set of class {np.flatnonzero(own)[0]} contains the class itself; remove it.")
    twice = [c for c, row in enumerate(sets) if len(set(row.tolist())) < len(row)]
    if twice:
        raise CaseJaxError(f"contrast: the set of class {twice[0]} lists a class twice: {sets[twice[0]].tolist()}.")
    return FixedSets(jnp.asarray(sets, jnp.int32))


def explicit(indices: Sequence[Sequence[int]], num_classes: int) -> FixedSets:
    """The user's own sets, as `table`, with a plain error when rows differ in length."""
    lengths = sorted({len(row) for row in indices})
    require(
        len(lengths) == 1, "contrast", f"rows of {lengths} classes", "the same number of contrast classes in every row"
    )
    return table(np.asarray(indices), num_classes)


@jax.tree_util.register_static
@dataclass(frozen=True)
class HighestOthers:
    """The contrast set of `topk_logits`; a pytree without leaves."""

    k: int
    num_classes: int

    def members(self, logits: Float[Array, " C"]) -> Int[Array, " {self.k}+1"]:
        """The k + 1 likeliest classes, from which the sets of all targets are taken."""
        _require_classes(logits, self.num_classes)
        return jax.lax.top_k(logits, self.k + 1)[1]

    def __call__(self, logits: Float[Array, " C"], targets: Int[Array, " T"]) -> Int[Array, "T k"]:
        """One ranking for all targets, of which each leaves itself out."""
        best = self.members(logits)
        own = best == targets[:, None].astype(best.dtype)
        place = jnp.where(own.any(1), own.argmax(1), self.k)
        order = jnp.arange(self.k, dtype=place.dtype)
        return best[order + (order >= place[:, None]).astype(order.dtype)]


def topk_logits(k: int, num_classes: int) -> HighestOthers:
    """The k classes with the highest logits of this very image, other than the target itself.

    Raises:
        CaseJaxError: for k outside [1, C − 1].
    """
    require_set_size(k, num_classes)
    return HighestOthers(k, num_classes)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Against:
    """The contrast set of `against`; a pytree without leaves."""

    classes: tuple[int, ...]
    num_classes: int

    def require_others(self, targets: Int[np.ndarray, "*n"]) -> None:
        """Raise when a target is to be contrasted with itself."""
        own = sorted(set(np.ravel(targets).tolist()) & set(self.classes))
        require(not own, "against", f"class {own}, which is also a target", "other classes than the targets")

    def __call__(self, logits: Float[Array, " C"], targets: Int[Array, " T"]) -> Int[Array, "T k"]:
        """The same classes for every target."""
        _require_classes(logits, self.num_classes)
        return jnp.broadcast_to(jnp.asarray(self.classes, jnp.int32), (targets.shape[0], len(self.classes)))


def against(classes: int | Sequence[int], num_classes: int) -> Against:
    """These classes for every target: why the target rather than them.

    A target among them is an error where it is known. Where it is traced, its own weights are subtracted from it; with a single class its
    map is then degenerate.

    Raises:
        CaseJaxError: for no classes, a class outside [0, C), or one that is named twice.
    """
    chosen = tuple(int(c) for c in np.atleast_1d(np.asarray(classes, int)))
    proper = chosen and len(set(chosen)) == len(chosen) and all(0 <= c < num_classes for c in chosen)
    require(proper, "against", list(chosen), f"different classes from 0 to {num_classes - 1}, at least one")
    return Against(chosen, num_classes)


def random_sets(k: int, num_classes: int, *, seed: int = 0) -> Int[np.ndarray, "C k"]:
    """k uniformly drawn other classes for each class: a control.

    Raises:
        CaseJaxError: for k outside [1, C − 1].
    """
    require_set_size(k, num_classes)
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(num_classes - 1)[:k] for _ in range(num_classes)])
    return drawn + (drawn >= np.arange(num_classes)[:, None])


def all_sets(num_classes: int) -> Int[np.ndarray, "C k"]:
    """All other classes, for each class.

    Raises:
        CaseJaxError: when there is only one class.
    """
    require(num_classes >= 2, "num_classes", num_classes, "at least 2 classes to contrast")
    others = np.tile(np.arange(num_classes - 1), (num_classes, 1))
    return others + (others >= np.arange(num_classes)[:, None])


def confusion_sets(
    confusion: Num[Any, "C C"] | Sequence[Sequence[float]],
    k: int,
    *,
    mean_probabilities: Float[Any, "C C"] | Sequence[Sequence[float]] | None = None,
) -> ConfusionSets:
    """The k classes that the model confuses each class with most often.

    `N(c)` holds the largest off-diagonal entries of row c of the confusion matrix, in descending order. Among equal entries, and
    so also among classes without any confusion, the one with the higher mean probability for images of class c goes first, then the
    one with the lower index. `filled` says how many entries have no confusion.

    Args:
        confusion: counts or rates, rows = true class; from another split than the one to be evaluated.
        k: contrast classes per class.
        mean_probabilities: row c is the mean probability of every class over images of class c; needed where a row has fewer than k
            confused classes.

    Raises:
        CaseJaxError: for a matrix that is not square or has negative or non-finite entries, k outside [1, C − 1], or a row
            that must be filled while `mean_probabilities` is missing.
    """
    matrix = np.asarray(confusion, np.float64)
    require(
        matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and np.isfinite(matrix).all() and (matrix >= 0).all(),
        "confusion",
        f"an array of shape {matrix.shape}"
        + ("" if np.isfinite(matrix).all() and (matrix >= 0).all() else " with negative or non-finite entries"),
        "a square matrix of counts or rates ≥ 0, rows = true class",
    )
    num_classes = len(matrix)
    require_set_size(k, num_classes)
    confused = np.where(np.eye(num_classes, dtype=bool), 0.0, matrix)
    filled = np.maximum(k - (confused > 0).sum(1), 0)
    if mean_probabilities is None:
        if filled.any():
            raise CaseJaxError(
                f"mean_probabilities: {int((filled > 0).sum())} of {num_classes} rows have fewer than k = {k} confused classes "
                "and must be filled; give the mean probabilities per true class, or a smaller k."
            )
        probabilities = np.zeros_like(matrix)
    else:
        probabilities = np.asarray(mean_probabilities, np.float64)
        require(
            probabilities.shape == matrix.shape,
            "mean_probabilities",
            f"shape {probabilities.shape}",
            f"shape {matrix.shape}",
        )
    blank = np.flatnonzero((filled > 0) & (probabilities.sum(1) == 0))
    if len(blank):
        raise CaseJaxError(
            f"confusion: {len(blank)} of {num_classes} classes (the first: {blank[0]}) have no images in the split, so nothing "
            "is known of their confusions; give a split with images of every class, or use topk_logits."
        )
    index = np.broadcast_to(np.arange(num_classes), matrix.shape)
    order = np.lexsort((index, -probabilities, -confused, np.eye(num_classes)), axis=-1)
    return ConfusionSets(order[:, :k], filled)

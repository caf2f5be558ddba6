"""Contrast sets in whichever form they are given: by name (`topk_logits:3`, `explicit:FILE.json`, …), as a table, or as a function."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial, all_leaves
from jaxtyping import Float, Int

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.contrast.sets import (
    Against,
    ConfusionSets,
    ContrastSet,
    FixedSets,
    HighestOthers,
    all_sets,
    confusion_sets,
    explicit,
    random_sets,
    require_set_size,
    table,
    topk_logits,
)

CONTRASTS: dict[str, str] = {
    "confusion": "confusion:K, the K classes the model confuses each class with most often, counted on a split of its own",
    "topk_logits": "topk_logits:K, the K highest logits of the image other than the target",
    "random": "random:K, K uniformly drawn classes (a control)",
    "all": "all, every other class",
    "explicit": "explicit:FILE.json, one list of class indices per class",
}


class Confusions(NamedTuple):
    """What a classifier confuses, counted over a labelled split."""

    counts: Int[np.ndarray, "C C"]
    """Rows = true class, columns = predicted class."""
    mean_probabilities: Float[np.ndarray, "C C"]
    """Row c: mean probabilities over images of class c."""
    source: str
    fingerprint: str
    """Of that split: an evaluation on the same images is refused."""
    left_out: Sequence[Mapping[str, Any]] = ()
    """Images that were drawn and not counted: index in the source, name, reason, and which `kind` of reason."""
    unlabelled: int = 0
    """Images that were passed over when images were drawn, as they have no label."""

    def reasons(self) -> dict[str, int]:
        """How many images were left out, by kind of reason."""
        return dict(Counter(entry["kind"] for entry in self.left_out))


class Uncounted(NamedTuple):
    """What confusions would be counted on, for a plan, which counts nothing."""

    images: int
    source: str
    fingerprint: str


class ContrastChoice(NamedTuple):
    """Contrast sets with their name and, where they are the same for every image, their table."""

    name: str
    sets: ContrastSet
    table: Int[np.ndarray, "C k"] | None = None
    filled: Int[np.ndarray, " C"] | None = None
    """Entries per class that had no confusion and were filled by mean probability."""
    source: str | None = None
    """The split on which confusions were counted."""
    fingerprint: str | None = None
    """Of that split."""
    counted: Confusions | None = None
    """What was counted there."""
    uncounted: Uncounted | None = None
    """In a plan, whose sets are only stand-ins of the same shape: what a run would count first. A run refuses them."""


def _size(name: str, k: str) -> int:
    try:
        return int(k)
    except ValueError as error:
        raise CaseJaxError(
            f"contrast: {name!r} has no set size; write for example {name.partition(':')[0]}:5."
        ) from error


AnyContrast = str | Int[Any, "C k"] | Sequence[Sequence[int]] | ConfusionSets | ContrastSet | ContrastChoice
"""Every form in which contrast sets are accepted."""
ACCEPTED = (
    'a name such as "topk_logits:5", a table of shape (C, k) with one row of class indices per class, '
    "or a contrast set (topk_logits, table, explicit, random_sets, all_sets, confusion_sets, against)"
)


def default_contrast(num_classes: int, *, countable: bool) -> str:
    """The contrast sets when none are chosen: what the model confuses, where that can be counted, else its likeliest other classes."""
    return f"{'confusion' if countable else 'topk_logits'}:{min(5, num_classes - 1)}"


def choose_contrast(
    contrast: AnyContrast,
    num_classes: int,
    *,
    confusions: Callable[[], Confusions | Uncounted] | None = None,
    seed: int = 0,
) -> ContrastChoice:
    """The contrast sets that are meant.

    Args:
        contrast: one of `CONTRASTS` with its set size or file; a table (C, k), row c the classes that class c is contrasted with; what
            `topk_logits`, `table`, `explicit`, `random_sets`, `all_sets`, `confusion_sets` or `against` return; or a function of one's own,
            `(logits (C,), targets (T,)) -> (T, k)`.
        num_classes: C.
        confusions: counts the classifier's confusions, or for a plan says what would be counted; called for the name `confusion:K` only.
        seed: for the name `random:K`.

    Raises:
        CaseJaxError: for anything else, an unknown name, a size outside [1, C − 1], a table or file that is missing or does not fit, or
            `confusion:K` without data to count on.
    """
    if isinstance(contrast, str):
        return _named(contrast, num_classes, confusions, seed)
    if isinstance(contrast, ContrastChoice):
        return contrast
    if isinstance(contrast, ConfusionSets):
        name = f"confusion:{contrast.indices.shape[1]}"
        return _fixed(name, table(contrast.indices, num_classes), contrast.filled)
    if isinstance(contrast, FixedSets):
        return _fixed("table", contrast)
    if isinstance(contrast, HighestOthers):
        return ContrastChoice(f"topk_logits:{contrast.k}", contrast)
    if isinstance(contrast, Against):
        return ContrastChoice(f"against:{','.join(map(str, contrast.classes))}", contrast)
    if callable(contrast):
        sets: Any = Partial(contrast) if all_leaves([contrast]) else contrast  # a pytree, as the others are
        return ContrastChoice(getattr(contrast, "__qualname__", type(contrast).__name__), sets)
    rows = isinstance(contrast, list | tuple) and all(isinstance(row, list | tuple) for row in contrast) and contrast
    require(rows or hasattr(contrast, "ndim"), "contrast", repr(contrast), ACCEPTED)
    return _fixed("table", explicit(contrast, num_classes) if rows else table(contrast, num_classes))


def _fixed(name: str, sets: FixedSets, filled: Int[np.ndarray, " C"] | None = None) -> ContrastChoice:
    """Sets that are the same for every image, with their table where it is known."""
    indices = None if isinstance(sets.indices, Tracer) else np.asarray(sets.indices)
    return ContrastChoice(name, sets, indices, filled)


def _named(
    name: str, num_classes: int, confusions: Callable[[], Confusions | Uncounted] | None, seed: int
) -> ContrastChoice:
    kind, _, rest = name.partition(":")
    if kind == "confusion":
        k = _size(name, rest)
        if confusions is None:
            raise CaseJaxError(
                f"contrast: {name!r} needs labelled images to count confusions on; give contrast data, what confusion_sets "
                f"returns, or topk_logits:{k}."
            )
        require_set_size(k, num_classes)  # before the pass over the data
        counted = confusions()
        if isinstance(counted, Uncounted):
            return _stand_in(name, k, num_classes, counted)
        sets = confusion_sets(counted.counts, k, mean_probabilities=counted.mean_probabilities)
        members = table(sets.indices, num_classes)
        return ContrastChoice(name, members, sets.indices, sets.filled, counted.source, counted.fingerprint, counted)
    if kind == "topk_logits":
        return ContrastChoice(name, topk_logits(_size(name, rest), num_classes))
    if kind == "random":
        indices = random_sets(_size(name, rest), num_classes, seed=seed)
        return ContrastChoice(name, table(indices, num_classes), indices)
    if name == "all":
        indices = all_sets(num_classes)
        return ContrastChoice(name, table(indices, num_classes), indices)
    if kind == "explicit":
        try:
            lists = json.loads(Path(rest).read_text())
        except (OSError, ValueError) as error:
            raise CaseJaxError(
                f"contrast: cannot read {rest!r} ({error}); give explicit:FILE.json with one list of class indices per class."
            ) from error
        if not (isinstance(lists, list) and lists and all(isinstance(row, list) for row in lists)):
            raise CaseJaxError(f"contrast: {rest!r} holds no list of lists; give one list of class indices per class.")
        sets = explicit(lists, num_classes)
        return ContrastChoice(name, sets, np.asarray(lists))
    if name.isdecimal():
        raise CaseJaxError(
            f"contrast: {name!r} is a set size without a kind; write for example topk_logits:{name} or confusion:{name}."
        )
    raise unknown("contrast", name, CONTRASTS)


def _stand_in(name: str, k: int, num_classes: int, uncounted: Uncounted) -> ContrastChoice:
    """The k classes after each class, in place of those it is confused with: as many, and nothing else is right about them."""
    indices = (np.arange(num_classes)[:, None] + np.arange(1, k + 1)) % num_classes
    members, words = table(indices, num_classes), f"stand-in for {name}"
    return ContrastChoice(words, members, indices, None, uncounted.source, uncounted.fingerprint, uncounted=uncounted)


def require_counted(choice: ContrastChoice) -> None:
    """Raise for sets that only stand in for others, in a plan."""
    accepted = "sets that were counted: a stand-in is for looking at a plan alone"
    require(choice.uncounted is None, "contrast", f"a {choice.name}", accepted)

"""Which labelled images confusions are counted on: as many of each class as there are, as far as labels are known beforehand."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from case_jax._checks import CaseJaxError, require
from case_jax.evaluation.batches import select
from case_jax.source import Source

AT_ONCE = 1024
"""Labels that are asked for together."""


class Drawn(NamedTuple):
    """Images to be counted."""

    indices: Int[np.ndarray, " N"]
    """Their positions in the source, ascending."""
    unlabelled: int
    """Images that were looked at and passed over, as they have no label."""


def draw_by_class(source: Source, limit: int, seed: int, classes: int, *, progress: bool | None = None) -> Drawn:
    """At most `limit` images, the same number of each class as far as that can be.

    The images are put into an order by the seed. Every class's first image is taken, then every class's second, and so on, within such a
    round in that order, until `limit` are taken: classes with few images give all of them, the others share the rest evenly. Labels are
    asked for (`Labelled.labels_of`) until more of them could change nothing; no image is decoded. Images without a label are passed over.
    A source that does not know its labels beforehand gives the first `limit` images of the order.

    Args:
        source: the images.
        limit: how many; all of them where there are fewer.
        seed: of the order.
        classes: C, how many classes the classifier has.
        progress: show a bar where that takes longer than two seconds; None shows it in a terminal.

    Raises:
        CaseJaxError: where labels are known, and no image has one, one is no class, or a class has no image: nothing could be known of what
            it is confused with.
    """
    labels_of = getattr(source, "labels_of", None)
    if labels_of is None:
        return Drawn(select(source, min(limit, len(source)), seed), 0)
    order = np.random.default_rng(seed).permutation(len(source))
    labels = _labels(source, labels_of, order, limit, classes, progress)
    order, known = order[: len(labels)], labels >= 0
    _require_every_class(source, labels[known], classes)
    rounds = np.argsort(_ranks(labels[known]), kind="stable")[:limit]
    return Drawn(np.sort(order[known][rounds]), int((~known).sum()))


def _labels(
    source: Source,
    labels_of: Callable[[np.ndarray], np.ndarray],
    order: Int[np.ndarray, " N"],
    limit: int,
    classes: int,
    progress: bool | None,
) -> Int[np.ndarray, " n"]:
    """The labels of the first images of the order: of as many as could be drawn."""
    share, seen, found = -(-limit // classes), np.zeros(classes, np.int64), []
    starts = range(0, len(order), AT_ONCE)
    for start in tqdm(starts, desc="labels", delay=2, leave=False, disable=None if progress is None else not progress):
        labels = labels_of(order[start : start + AT_ONCE])
        highest = int(labels.max())
        accepted = f"labels from 0 to {classes - 1}, the classifier's classes, or −1 for none"
        require(highest < classes, "contrast_data", f"{source.name} with label {highest}", accepted)
        found.append(labels)
        seen += np.bincount(labels[labels >= 0], minlength=classes)
        if seen.min() >= share:
            break
    return np.concatenate(found)


def _require_every_class(source: Source, labels: Int[np.ndarray, " n"], classes: int) -> None:
    if not len(labels):
        raise CaseJaxError(
            f"contrast: none of the {len(source)} images of {source.name} has a label; confusions cannot be counted there."
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(missing):
        raise CaseJaxError(
            f"contrast_data: {len(missing)} of {classes} classes (the first: {missing[0]}) have no image in {source.name}, so nothing "
            "can be known of what they are confused with; give data with images of every class, or --contrast topk_logits:5."
        )


def _ranks(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The how-manieth of its label each entry is, from 0."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks

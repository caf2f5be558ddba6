"""Labelled images of a source for training: which come when is a pure function of the step, so that a killed run goes on exactly."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from case_jax._checks import CaseJaxError, require
from case_jax.source import Example, Source, UnreadableImageError

LOG = logging.getLogger(__name__)
MEMORY = 2 * 10**9
THREADS = 8


class LabelledImages(NamedTuple):
    """A batch on the host."""

    images: Num[np.ndarray, "B H W D"]
    labels: Int[np.ndarray, " B"]
    targets: Float[np.ndarray, "B C"]
    """What a classifier is trained to answer: the label, or a distribution where the source gives one."""
    clean: Float[np.ndarray, "B H W D"] | None = None
    """The images before noise was added, where they are asked for."""


class Examples:
    """Images of a source, some or all, in an endless order: every one once before any a second time, shuffled anew each time.

    Args:
        source: with labels.
        indices: which images; None takes all.
        seed: of the order.
        shuffled_labels: give every image a random class, always the same one, for the sanity check of data randomisation.
        augment: show images in random views, another one each time; the source must be `Photographs`.
        clean: read what the images were before noise was added, too; the source must have a method `clean(index)`, as sound scenes have.
        memory: bytes of images kept after their first reading.

    Raises:
        CaseJaxError: without images or labels, random views of a source that has none, or clean images of one that does not know them.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        seed: int = 0,
        shuffled_labels: bool = False,
        augment: bool = False,
        clean: bool = False,
        memory: int = MEMORY,
    ):
        require(source.class_names is not None, "data", source.name, "labelled images, in a sub-folder for each class")
        assert source.class_names is not None
        self.source, self.seed, self.classes = source, seed, len(source.class_names)
        self.indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
        require(len(self.indices) > 0, "data", f"{source.name} without images", "at least one image")
        require(
            not augment or hasattr(source, "random_view"),
            "augment",
            f"True for {source.name}",
            "photographs: a folder, or a data set of tensorflow-datasets",
        )
        known = hasattr(source, "clean")
        require(
            not clean or known, "guidance", f"by {source.name}", "data that know the clean sound: sound_scenes:train"
        )
        self._shuffled_labels, self._augment, self._clean = shuffled_labels, augment, clean
        self.unreadable: dict[str, str] = {}
        """Images that were met and could not be read, and why; others of their batch took their places."""
        self._kept: dict[int, LabelledImages] = {}
        self._room, self._lock = memory, Lock()
        self._order = lru_cache(4)(self._shuffled)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def _shuffled(self, time: int) -> np.ndarray:
        return np.random.default_rng([self.seed, time]).permutation(self.indices)

    def chosen(self, step: int, batch: int) -> Int[np.ndarray, " B"]:
        """Indices of the images of one step."""
        places = np.arange(step * batch, (step + 1) * batch)
        return np.array([self._order(int(p) // len(self))[int(p) % len(self)] for p in places])

    def read(self, index: int) -> LabelledImages | None:
        """One image, its label and target, as a batch of one; None, and noted in `unreadable`, when it cannot be read.

        Raises:
            CaseJaxError: when it has no label; names it.
        """
        with self._lock:
            if index in self._kept:
                return self._kept[index]
        found = self._labelled(index, self.source.__getitem__)
        with self._lock:
            size = 0 if found is None else sum(a.nbytes for a in (found.images, found.clean) if a is not None)
            if found is not None and index not in self._kept and size <= self._room:
                self._kept[index] = found
                self._room -= size
        return found

    def drawn(self, index: int, place: int) -> LabelledImages | None:
        """The same as it is shown at a place of the endless order: in the view that the seed and the place decide, where there are views."""
        if not self._augment:
            return self.read(index)
        source: Any = self.source
        return self._labelled(index, lambda i: source.random_view(i, np.random.default_rng([self.seed, 1, place])))

    def _labelled(self, index: int, read: Callable[[int], Example]) -> LabelledImages | None:
        try:
            example = read(index)
        except UnreadableImageError as error:
            with self._lock:
                self.unreadable[error.name] = error.reason
            return None
        if example.label < 0:
            raise CaseJaxError(f"data: {example.name} has no label; remove it to train.")
        if example.labels:
            raise CaseJaxError(
                f"data: {example.name} has several labels; training takes images of one, or sources with a `target`."
            )
        label, target = example.label, example.target
        if self._shuffled_labels:
            label, target = int(np.random.default_rng([self.seed, index]).integers(self.classes)), None
        answer = np.eye(self.classes, dtype=np.float32)[label] if target is None else target
        source: Any = self.source
        clean = source.clean(index)[None] if self._clean else None
        return LabelledImages(example.image[None], np.array([label], np.int32), answer[None], clean)

    def batches(
        self, first: int, last: int, batch: int, *, share: tuple[int, int] = (0, 1), ahead: int = 2
    ) -> Generator[LabelledImages, None, None]:
        """The batches of steps `first` to `last − 1`, read in advance by threads.

        Args:
            first: step.
            last: behind the last step.
            batch: images of a whole batch.
            share: `(number, of)`: which of how many equal shares of each batch to read.
            ahead: batches that are read while one is in use.
        """
        number, of = share
        places = range(number * batch // of, (number + 1) * batch // of)
        waiting: deque[list[Future[LabelledImages]]] = deque()
        pool = ThreadPoolExecutor(THREADS)
        try:
            for step in range(first, last):
                chosen = self.chosen(step, batch)
                waiting.append([pool.submit(self._shown, chosen, step * batch, place) for place in places])
                if len(waiting) > ahead:
                    yield _joined(waiting.popleft())
            while waiting:
                yield _joined(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _shown(self, chosen: Int[np.ndarray, " B"], start: int, place: int) -> LabelledImages:
        """The image of one place of a batch; where it cannot be read, that of the next place that can, whoever reads the others."""
        for other in (*range(place, len(chosen)), *range(place)):
            found = self.drawn(int(chosen[other]), start + other)
            if found is not None:
                return found
        last = ", ".join(list(self.unreadable)[-3:])
        given = f"a batch of {len(chosen)} in which no image can be read, {last} the last of them"
        raise CaseJaxError(f"data: got {given}; accepted: a larger batch, or data without these images.")


def _joined(futures: list[Future[LabelledImages]]) -> LabelledImages:
    read = [future.result() for future in futures]
    images, labels, targets = (np.concatenate([getattr(r, name) for r in read]) for name in LabelledImages._fields[:3])
    clean = [r.clean for r in read if r.clean is not None]
    return LabelledImages(images, labels, targets, np.concatenate(clean) if clean else None)


def few_shot(
    source: Source, per_class: int, *, seed: int, indices: Sequence[int] | np.ndarray | None = None
) -> Int[np.ndarray, " n"]:
    """Indices of `per_class` images of every class, drawn by the seed; a larger number keeps a smaller one's images.

    Args:
        source: with labels.
        per_class: number of images of each class.
        seed: of the drawing.
        indices: draw from these images; None draws from all.

    Raises:
        CaseJaxError: for a number below 1, a source without labels, or classes with fewer images; names them.
    """
    require(per_class >= 1, "per_class", per_class, "a number of images of each class of at least 1")
    names = source.class_names
    require(names is not None, "data", source.name, "labelled images, in a sub-folder for each class")
    assert names is not None
    everything = Examples(source, seed=seed, memory=0)
    taken: dict[int, list[int]] = {c: [] for c in range(len(names))}
    lacking = len(names)
    for index in np.random.default_rng([seed, 0]).permutation(len(source) if indices is None else indices):
        if not lacking:
            break
        found = everything.read(int(index))
        if found is None:
            continue
        members = taken[int(found.labels[0])]
        if len(members) < per_class:
            members.append(int(index))
            lacking -= len(members) == per_class
    few = [f"{names[c]} ({len(m)})" for c, m in taken.items() if len(m) < per_class]
    broken = f", and {len(everything.unreadable)} that cannot be read" if everything.unreadable else ""
    given = f"{per_class}, with fewer images of {', '.join(few[:10])}{broken}"
    require(not few, "per_class", given, "what every class has")
    if everything.unreadable:
        LOG.warning("few-shot: %d images could not be read and were passed over", len(everything.unreadable))
    return np.sort(np.concatenate([taken[c] for c in taken]))

"""What the names of sub-folders mean: a classifier's classes by name, ImageNet's also by synset, synonym or index."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from case_jax._checks import CaseJaxError, nearest
from case_jax.data.ilsvrc import CLASSES, synonyms, wordnet_ids

_NUMBER = re.compile(r"[0-9]+")
_PARENTHESES = re.compile(r" \([^)]*\)$")


def labels_from_folders(folders: list[str], class_names: tuple[str, ...]) -> dict[str, int]:
    """Sub-folder names to class indices.

    In this order: all are class names as they are written; all are numbers, then they are indices from 0; every one is a class name but for
    case and with underscores for spaces, or, where the classes are ImageNet's, a synset (`n02123045`) or any synonym (`tabby_cat`); none is
    any of these and there are C of them, then they are the classes in sorted order.

    Raises:
        CaseJaxError: when none of these fits all folders, or a name or number has two readings; names the folder, its readings and what to do. A
            single misspelt name must not relabel the others.
    """
    exact = {name: i for i, name in enumerate(class_names)}
    if all(name in exact for name in folders):
        return {name: exact[name] for name in folders}
    if all(_NUMBER.fullmatch(name) for name in folders):
        return _numbered(folders, class_names)
    first, second = _vocabulary(class_names)
    found = {name: first.get(spelled(name)) or second.get(spelled(name), ()) for name in folders}
    if not any(found.values()) and len(folders) == len(class_names):
        return {name: i for i, name in enumerate(sorted(folders))}
    for name, classes in found.items():
        if not classes:
            raise _unknown(name, len(folders), class_names)
        if len(classes) > 1:
            raise _ambiguous(name, classes, class_names)
    return {name: classes[0] for name, classes in found.items()}


def spelled(name: str) -> str:
    """A name without what people write differently: case, underscores for spaces, more than one space."""
    return " ".join(name.casefold().replace("_", " ").split())


def are_imagenet(class_names: Sequence[str]) -> bool:
    """Whether these are ImageNet's 1,000 classes in the usual order: most are called by a name or the synset of their place."""
    if len(class_names) != CLASSES or synonyms() is None:
        return False
    usual, other = _imagenet_words()
    called = ((spelled(name), spelled(name.partition(",")[0])) for name in class_names)
    return (
        sum(any(i in usual.get(w, ()) + other.get(w, ()) for w in words) for i, words in enumerate(called))
        > CLASSES // 2
    )


Vocabulary = dict[str, tuple[int, ...]]
"""What each word may mean."""


def _vocabulary(class_names: tuple[str, ...]) -> tuple[Vocabulary, Vocabulary]:
    """What words mean for these classes: their own names, which count first, and other synonyms."""
    own = _meanings((spelled(name), i) for i, name in enumerate(class_names))
    if not are_imagenet(class_names):
        return own, {}
    usual, other = _imagenet_words()
    return {word: tuple(sorted({*own.get(word, ()), *usual.get(word, ())})) for word in own | usual}, other


@lru_cache
def _imagenet_words() -> tuple[Vocabulary, Vocabulary]:
    """Synsets and usual names, with and without what is in parentheses; and all other synonyms."""
    names = synonyms() or ()
    usual = [(synset, i) for i, synset in enumerate(wordnet_ids())]
    usual += [(word, i) for i, called in enumerate(names) for word in {called[0], _PARENTHESES.sub("", called[0])}]
    usual += [(", ".join(called), i) for i, called in enumerate(names)]
    other = [(word, i) for i, called in enumerate(names) for word in called[1:]]
    return _meanings((spelled(word), i) for word, i in usual), _meanings((spelled(word), i) for word, i in other)


def _meanings(pairs: Iterable[tuple[str, int]]) -> Vocabulary:
    found: dict[str, set[int]] = {}
    for word, index in pairs:
        found.setdefault(word, set()).add(index)
    return {word: tuple(sorted(classes)) for word, classes in found.items()}


def _numbered(folders: list[str], class_names: tuple[str, ...]) -> dict[str, int]:
    """Numbers as indices from 0; C numbers that are no indices, but stand in the order of their digits, as the classes in this order."""
    count = len(class_names)
    numbers, order = {name: int(name) for name in folders}, {name: i for i, name in enumerate(sorted(folders))}
    outside = [name for name in folders if numbers[name] >= count]
    if len(folders) == count and numbers != order and not (are_imagenet(class_names) and not outside):
        if sorted(folders) == sorted(folders, key=int):
            return order
        name = next(name for name in order if numbers[name] != order[name])
        raise CaseJaxError(
            f"data: the {count} sub-folders are numbers, and {name!r} could be class {numbers[name]} or, in sorted order as torchvision "
            f"reads folders, class {order[name]}. Name the sub-folders after the classes, or write all numbers with as many digits (01, 02)."
        )
    if outside:
        raise CaseJaxError(
            f"data: all sub-folders are numbers, and so indices of classes, but {outside[0]!r} is none from 0 to {count - 1}. Count from 0, or name "
            "the sub-folders after the classes."
        )
    return numbers


def _ambiguous(name: str, classes: tuple[int, ...], class_names: tuple[str, ...]) -> CaseJaxError:
    synsets = wordnet_ids() if are_imagenet(class_names) else None
    called = [
        f"class {i} ({class_names[i]})" if synsets is None else f"class {i} ({class_names[i]}, {synsets[i]})"
        for i in classes
    ]
    to_do = (
        "Name all sub-folders exactly as the classes"
        if synsets is None
        else f"Name it after its synset, for example {synsets[classes[0]]}"
    )
    return CaseJaxError(f"data: the sub-folder {name!r} could mean {' or '.join(called)}. {to_do}.")


def _unknown(name: str, folders: int, class_names: tuple[str, ...]) -> CaseJaxError:
    close, ways = nearest(name, class_names), "Name the sub-folders after classes"
    if are_imagenet(class_names):
        usual, other = _imagenet_words()
        close = nearest(spelled(name), {*usual, *other})
        ways += ", by synset (n02123045), name (tabby, tabby_cat) or, all of them, by index (281)"
    return CaseJaxError(
        f"data: {folders} sub-folders for a classifier of {len(class_names)} classes, and {name!r} is no class name (nearest: {', '.join(close[:3])}). "
        f"{ways}, give one per class in sorted order, or put the images into one folder without sub-folders to run without labels."
    )

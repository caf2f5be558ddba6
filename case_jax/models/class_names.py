"""Names of a classifier's classes: the file's own, ImageNet-1k's where there are 1,000, else numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.data.ilsvrc import CLASSES, imagenet_names
from case_jax.tap.link import one_logit_names


def classes_called(argument: str, words: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The classes that these words mean: a name as it is written, else a name but for upper and lower case, else an index.

    Raises:
        CaseJaxError: for a word that is no class, or two that are the same.
    """
    exact = {name: c for c, name in enumerate(names)}
    times = Counter(name.casefold() for name in names)
    folded = {name.casefold(): c for c, name in enumerate(names) if times[name.casefold()] == 1}

    def one(word: str) -> int:
        if word in exact or word.casefold() in folded:
            return exact.get(word, folded.get(word.casefold(), -1))
        if word.isascii() and word.isdigit():
            accepted = f"a name, or an index from 0 to {len(names) - 1}"
            require(int(word) < len(names), argument, word, accepted)
            return int(word)
        raise unknown(argument, word, names)

    found = tuple(map(one, words))
    require(len(set(found)) == len(found), argument, " ".join(words), "every class once")
    return found


def class_names(given: Any, num_classes: int, *, source: str) -> tuple[str, ...]:
    """One distinct name per class; a name that several classes share gets the class's number.

    A network of one output has two classes, "not" and the class: either its name or both are taken.

    Args:
        given: the names that came with the weights, a list or a mapping from index to name; None when none came.
        num_classes: C, how many outputs the network has.
        source: where `given` is from; errors name it.

    Raises:
        CaseJaxError: when the names given are not C texts.
    """
    if num_classes == 1:
        both = isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(name, str) for name in given)
        return tuple(given) if both else one_logit_names(*_names(given, 1, source))
    return _names(given, num_classes, source)


def _names(given: Any, num_classes: int, source: str) -> tuple[str, ...]:
    if given is None:
        known = imagenet_names() if num_classes == CLASSES else None
        return known or tuple(f"class {c}" for c in range(num_classes))
    if isinstance(given, dict) and all(str(c) in given for c in range(num_classes)):
        given = [given[str(c)] for c in range(num_classes)]
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise CaseJaxError(f"class_names: {source} holds no list of texts; give one name per class, in order.")
    if len(given) != num_classes:
        raise CaseJaxError(
            f"class_names: {source} holds {len(given)} names for {num_classes} classes; give one name per class, in order, or none."
        )
    times = Counter(given)
    return tuple(name if times[name] == 1 else f"{name} (class {c})" for c, name in enumerate(given))

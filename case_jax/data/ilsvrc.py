"""The names and labels of ILSVRC2012, from the files of tensorflow-datasets, without importing it."""

import re
import runpy
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from case_jax._checks import CaseJaxError

CLASSES = 1000
VALIDATION_IMAGES, TRAINING_IMAGES = 50_000, 1_281_167
_READABLE, _WNIDS = "datasets/siscore/labels.py", "datasets/imagenet2012/labels.txt"
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.(JPEG|xml)")


def validation_number(name: str, suffix: str = "JPEG") -> int | None:
    """7 for `ILSVRC2012_val_00000007.JPEG`, in any folder; None for every other name."""
    found = _VALIDATION.fullmatch(name.rpartition("/")[2])
    number = int(found[1]) if found and found[2] == suffix else 0
    return number if 1 <= number <= VALIDATION_IMAGES else None


@lru_cache
def synonyms() -> tuple[tuple[str, ...], ...] | None:
    """The names of each of the 1,000 classes in the usual order, that of the sorted WordNet ids; the first is the usual one.

    tensorflow-datasets carries them with its data set `siscore`; None for a version of it without them.
    """
    package = _package()
    if package is None or not (package / _READABLE).is_file():
        return None
    listed = runpy.run_path(str(package / _READABLE)).get("IMAGENET_LABELS_LIST", ())
    return tuple(tuple(names.split(", ")) for names in listed) if len(listed) == CLASSES else None


@lru_cache
def imagenet_names() -> tuple[str, ...] | None:
    """The names of the 1,000 classes: the first synonym where it is unique (`tench`), all of them where it is not.

    A version of tensorflow-datasets without these gives WordNet ids (`n01440764`), one with neither None.
    """
    found, package = synonyms(), _package()
    if found is not None:
        return shortened([", ".join(names) for names in found])
    if package is not None and (package / _WNIDS).is_file():
        return tuple((package / _WNIDS).read_text().split())
    return None


def shortened(synonyms: Sequence[str]) -> tuple[str, ...]:
    """The first of comma-separated synonyms, wherever no other class has it too."""
    firsts = [names.partition(",")[0] for names in synonyms]
    times = Counter(firsts)
    return tuple(first if times[first] == 1 else names for first, names in zip(firsts, synonyms, strict=True))


@lru_cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids (`n01440764`) in the order of the classes, which is their own."""
    return _listed("labels.txt", CLASSES)


@lru_cache
def validation_labels() -> tuple[int, ...]:
    """The class of each validation image, in the order of the numbers in their names, from 1."""
    index = {name: c for c, name in enumerate(wordnet_ids())}
    return tuple(index[name] for name in _listed("validation_labels.txt", VALIDATION_IMAGES))


def _package() -> Path | None:
    """The folder of tensorflow-datasets, found without the half second of importing it."""
    spec = find_spec("tensorflow_datasets")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _listed(file: str, lines: int) -> tuple[str, ...]:
    package = _package()
    if package is None:
        raise CaseJaxError("tensorflow_datasets: not installed; ImageNet's labels are taken from its files.")
    path = package / "datasets" / "imagenet2012" / file
    words = tuple(path.read_text().split()) if path.is_file() else ()
    if len(words) != lines:
        raise CaseJaxError(
            f"tensorflow_datasets: {path} holds {len(words)} of {lines} labels; install tensorflow-datasets 4.9.10 again."
        )
    return words

"""The names and labels of ILSVRC2012, from the files of tensorflow-datasets, without importing it."""

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from case_jax._checks import CaseJaxError

VALIDATION_IMAGES, TRAINING_IMAGES = 50_000, 1_281_167
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.(JPEG|xml)")


def validation_number(name: str, suffix: str = "JPEG") -> int | None:
    """7 for `ILSVRC2012_val_00000007.JPEG`, in any folder; None for every other name."""
    found = _VALIDATION.fullmatch(name.rpartition("/")[2])
    number = int(found[1]) if found and found[2] == suffix else 0
    return number if 1 <= number <= VALIDATION_IMAGES else None


@lru_cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids (`n01440764`) in the order of the classes, which is their own."""
    return _listed("labels.txt", 1000)


@lru_cache
def validation_labels() -> tuple[int, ...]:
    """The class of each validation image, in the order of the numbers in their names, from 1."""
    index = {name: c for c, name in enumerate(wordnet_ids())}
    return tuple(index[name] for name in _listed("validation_labels.txt", VALIDATION_IMAGES))


def _listed(file: str, lines: int) -> tuple[str, ...]:
    spec = find_spec("tensorflow_datasets")
    if spec is None or spec.origin is None:
        raise CaseJaxError("tensorflow_datasets: not installed; ImageNet's labels are taken from its files.")
    path = Path(spec.origin).parent / "datasets" / "imagenet2012" / file
    words = tuple(path.read_text().split()) if path.is_file() else ()
    if len(words) != lines:
        raise CaseJaxError(
            f"tensorflow_datasets: {path} holds {len(words)} of {lines} labels; install tensorflow-datasets 4.9.10 again."
        )
    return words

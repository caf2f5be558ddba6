"""How many classes a file of Keras weights is for, read from the shapes in it; nothing in it is run."""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from case_jax._checks import CaseJaxError

SUFFIXES = (".weights.h5", ".keras", ".h5")
ARRAYS = "model.weights.h5"
"""In a `.keras` file."""
_NUMBERED = re.compile(r"(dense|conv2d)(?:_(\d+))?")


def classes_in(path: Path) -> int:
    """The length of the last layer's bias: of the last dense layer, or where there is none of the last convolution.

    Raises:
        CaseJaxError: for a file that is damaged or has no such layer.
    """
    try:
        with _opened(path) as file:
            old = file.get("model_weights", file)
            shape = _of_old(old) if "layer_names" in old.attrs else _of_new(file["layers"])
    except (OSError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise CaseJaxError(
            f"weights: {path} is no readable file of a Keras classifier ({type(error).__name__}: {error}); write it again with "
            "model.save_weights('NAME.weights.h5') or model.save('NAME.keras')."
        ) from error
    return int(shape[-1])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py  # type: ignore[import-not-found]

    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read(ARRAYS)), "r") as file:
            yield file
    else:
        with h5py.File(path, "r") as file:
            yield file


def _of_old(group: Any) -> tuple[int, ...]:
    """By the layers' own names, in order."""
    layers = [group[name] for name in group.attrs["layer_names"]]
    last = [layer for layer in layers if len(layer.attrs["weight_names"])][-1]
    return last[last.attrs["weight_names"][-1]].shape


def _of_new(group: Any) -> tuple[int, ...]:
    """By their kinds, numbered in order."""
    found: dict[str, dict[int, Any]] = {"dense": {}, "conv2d": {}}
    for name, layer in group.items():
        numbered = _NUMBERED.fullmatch(name)
        if numbered and "1" in layer.get("vars", ()):
            found[numbered[1]][int(numbered[2] or 0)] = layer["vars"]["1"].shape
    _, shape = sorted((found["dense"] or found["conv2d"]).items())[-1]
    return shape

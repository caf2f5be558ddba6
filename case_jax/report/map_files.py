"""Maps as numbers: a file of one image's raw maps, with classes and geometry."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from case_jax._checks import require
from case_jax.files import write_atomically

if TYPE_CHECKING:
    from case_jax.evaluation.explain import Explanation

SUFFIXES = (".npz", ".npy", ".tif", ".tiff")
DESCRIPTION = 270
"""TIFF's tag for text about an image."""


def require_suffix(file: Path) -> None:
    """Raise for a file of another kind than maps are written as."""
    require(file.suffix in SUFFIXES, "save_maps", file, f"a file that ends in {', '.join(SUFFIXES)}")


def write_maps(file: Path, found: "Explanation", class_names: Sequence[str], geometry: Mapping[str, Any]) -> list[Path]:
    """Write every method's maps of every target, float32, unscaled: at the method's own resolution, and enlarged to the input's.

    `.npz`: `layer/METHOD` (T, h, w) and `enlarged/METHOD` (T, H, W) for each method, `classes` (T,), `class_names`, `probabilities`,
    `degenerate` (M, T), `methods`, `image` (H, W, 3), and `facts`, a text in JSON. `.npy`: the enlarged maps (M, T, H, W), beside it
    `NAME.layer-METHOD.npy` for each method and the facts in `NAME.json`. `.tif`: a page per map, first all enlarged ones, method by method,
    then all of the layer; the facts, with a line for each page, are the first page's description.

    Args:
        file: where to.
        found: the maps of one image.
        class_names: names of all classes.
        geometry: where the input lies in the photograph; joins the facts.

    Returns:
        The files written.

    Raises:
        CaseJaxError: for another suffix.
    """
    require_suffix(file)
    names = [class_names[int(c)] for c in found.targets]
    facts = {
        "image": found.example.name,
        "changes": list(found.example.changes),
        "methods": list(found.methods),
        "classes": found.targets.tolist(),
        "class_names": names,
        "probabilities": [float(p) for p in found.probabilities],
        "degenerate": found.degenerate.tolist(),
        "signed": found.signed,
        "input_size": list(found.enlarged.shape[2:]),
        "layer_sizes": {name: list(raw.shape[1:]) for name, raw in zip(found.methods, found.raw, strict=True)},
        **geometry,
    }
    enlarged, raw = np.asarray(found.enlarged, np.float32), [np.asarray(one, np.float32) for one in found.raw]
    if file.suffix == ".npz":
        arrays: dict[str, Any] = {
            **{f"layer/{name}": one for name, one in zip(found.methods, raw, strict=True)},
            **{f"enlarged/{name}": one for name, one in zip(found.methods, enlarged, strict=True)},
            "classes": found.targets,
            "class_names": np.array(names, str),
            "probabilities": found.probabilities,
            "degenerate": found.degenerate,
            "methods": np.array(found.methods, str),
            "image": found.example.image,
            "facts": np.array(json.dumps(facts, ensure_ascii=False)),
        }
        return [_written(file, lambda buffer: np.savez_compressed(buffer, **arrays))]
    if file.suffix == ".npy":
        parts = {file: enlarged}
        for name, one in zip(found.methods, raw, strict=True):
            parts[file.with_name(f"{file.stem}.layer-{name.replace('/', '-').replace(':', '-')}.npy")] = one
        written = [_written(path, lambda buffer, one=one: np.save(buffer, one)) for path, one in parts.items()]
        text = json.dumps(facts, indent=2, ensure_ascii=False).encode()
        return [*written, _written(file.with_suffix(".json"), lambda buffer: buffer.write(text))]
    kinds = [("enlarged", list(enlarged)), ("layer", raw)]
    maps = [one for _, found_maps in kinds for of_method in found_maps for one in of_method]
    pages = [f"{kind}, {method}, {name}" for kind, _ in kinds for method in found.methods for name in names]
    description = json.dumps({**facts, "pages": pages})
    first, *rest = (Image.fromarray(one) for one in maps)
    how: dict[str, Any] = {"save_all": True, "append_images": rest, "tiffinfo": {DESCRIPTION: description}}
    return [_written(file, lambda buffer: first.save(buffer, "TIFF", **how))]


def _written(file: Path, write: Any) -> Path:
    buffer = io.BytesIO()
    write(buffer)
    write_atomically(file, buffer.getvalue())
    return file

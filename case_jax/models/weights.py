"""Parameters to and from files, with every key accounted for."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from case_jax._checks import CaseJaxError, require
from case_jax.models.torch_file import open_torch_file
from case_jax.models.torch_names import Source
from case_jax.parallel import on_device

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_PREFIXES = ("module.", "_orig_mod.")


class WeightFile(NamedTuple):
    """What a file of weights holds; its arrays are read one by one, so that no more than one lies in memory twice."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    """By the file's own keys."""
    read: Callable[[str], np.ndarray]
    """The array of a key."""
    metadata: dict[str, Any]


class _OneKey(nnx.Rngs):
    """A random generator that draws nothing: counting draws makes up most of the time of building a network abstractly."""

    def __init__(self):
        self.key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self.key


def abstract(build: Callable[..., nnx.Module], num_classes: int) -> nnx.Module:
    """A network of shapes alone, to be filled: `build(num_classes, rngs=...)` without its initialisation."""
    rngs = _OneKey()
    return nnx.eval_shape(lambda: build(num_classes, rngs=rngs))


def flat_state(module: nnx.Module) -> dict[str, Any]:
    """Every parameter and statistic of a module as dotted path → variable."""
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(module))}


def save_weights(path: str | Path, module: nnx.Module, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write all parameters and statistics of a module to one safetensors file, under the module's own dotted paths.

    Args:
        path: the file to write.
        module: the Flax NNX module.
        metadata: facts that travel with the weights, stored as JSON values. `load_classifier` reads `class_names` (a list) and
            `preprocessing` (the fields of `Preprocessing`).
    """
    arrays = {name: np.asarray(variable[...]) for name, variable in flat_state(module).items()}
    save_file(arrays, str(path), metadata={k: json.dumps(v) for k, v in (metadata or {}).items()})


def load_weights(path: str | Path, module: nnx.Module) -> dict[str, Any]:
    """Fill a module in place from a file that `save_weights` wrote and return the file's metadata.

    Args:
        path: a safetensors file written under the module's own dotted paths.
        module: the Flax NNX module to fill; may be abstract (`nnx.eval_shape`), which saves its initialisation.

    Returns:
        The metadata that `save_weights` stored.

    Raises:
        CaseJaxError: when the file is missing or is no safetensors file, or unless every key of the file fits exactly
            one parameter of the same shape; names the first ten of each side that do not. Also for values that are not finite.
    """
    file = read_weight_file(path)
    fill(module, file, match_own(file, module))
    return file.metadata


def read_weight_file(path: str | Path) -> WeightFile:
    """What a `.safetensors` file holds, or a file of `torch.save`, which needs no PyTorch and runs nothing (`open_torch_file`).

    A state dict wrapped as `{"state_dict": …}` or `{"model": …}` is unwrapped, and the prefixes `module.` and `_orig_mod.` that wrapped
    modules leave on every key are taken off.

    Raises:
        CaseJaxError: when there is no such file, it is damaged, or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", *TORCH_SUFFIXES))[:5])
        raise CaseJaxError(
            f"weights: {path} is a folder; give the file itself ({inside or 'it holds no weight file'})."
        )
    if not path.is_file():
        raise CaseJaxError(f"weights: no file at {path}; give a .safetensors file written for this architecture.")
    file = _open_torch(path) if path.suffix in TORCH_SUFFIXES else _open_safetensors(path)
    for prefix in _PREFIXES:
        if file.shapes and all(name.startswith(prefix) for name in file.shapes):
            shapes = {name.removeprefix(prefix): shape for name, shape in file.shapes.items()}
            file = file._replace(shapes=shapes, read=partial(_read_prefixed, file.read, prefix))
    return file


def _read_prefixed(read: Callable[[str], np.ndarray], prefix: str, name: str) -> np.ndarray:
    return read(prefix + name)


def _open_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(str(path), framework="numpy") as file:  # checks header, offsets and length
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CaseJaxError(
            f"weights: {path} is not a readable safetensors file ({error}); it is damaged or of another kind. Fetch it again, or "
            "give a .safetensors file."
        ) from error
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start))
    header.pop("__metadata__", None)
    odd = sorted(f"{name} ({facts['dtype']})" for name, facts in header.items() if facts["dtype"] not in _DTYPES)
    require(not odd, "weights", f"{path} with {', '.join(odd[:10])}", "numbers of float64, 32, 16 or bfloat16")

    def read(name: str) -> np.ndarray:
        first, last = header[name]["data_offsets"]
        raw = np.fromfile(path, np.uint8, last - first, offset=8 + start + first)
        return raw.view(_DTYPES[header[name]["dtype"]]).reshape(header[name]["shape"])

    shapes = {name: tuple(facts["shape"]) for name, facts in header.items()}
    return WeightFile(path, shapes, read, {key: _json_or_text(value) for key, value in metadata.items()})


def _open_torch(path: Path) -> WeightFile:
    file = open_torch_file(path)
    return WeightFile(path, file.shapes, file.read, {})


def match_own(file: WeightFile, module: nnx.Module) -> dict[str, Source]:
    """Which array of a `save_weights` file fills which variable: that of its own dotted path.

    Raises:
        CaseJaxError: unless keys and shapes are the module's own; names the first ten of each side that are not.
    """
    state = flat_state(module)
    unused, missing = sorted(file.shapes.keys() - state.keys()), sorted(state.keys() - file.shapes.keys())
    shapes = [
        f"{name}: file {file.shapes[name]}, model {state[name].shape}"
        for name in sorted(file.shapes.keys() & state.keys())
        if file.shapes[name] != state[name].shape
    ]
    if unused or missing or shapes:
        raise CaseJaxError(
            f"weights: {file.path} does not fit {type(module).__name__}; for the weights of another network name that network "
            "(--model, see `case-jax list models`).\n"
            f"  in the file only ({len(unused)}): {', '.join(unused[:10]) or '–'}\n"
            f"  in the model only ({len(missing)}): {', '.join(missing[:10]) or '–'}\n"
            f"  other shape ({len(shapes)}): {'; '.join(shapes[:10]) or '–'}"
        )
    return {name: Source(name, lambda array: array) for name in state}


def fill(module: nnx.Module, file: WeightFile, plan: Mapping[str, Source]) -> None:
    """Give every variable of a module its array, which is read, converted and let go before the next.

    Numbers of 16 bits become float32; float64 stays float64 where JAX has it (`jax_enable_x64`) and is refused elsewhere, so that
    nothing is rounded in silence. The module is changed only when all arrays are good.

    Args:
        module: to fill; may be abstract.
        file: from `read_weight_file`.
        plan: dotted path of every variable → its array, from `match_own` or `match_torch`.

    Raises:
        CaseJaxError: for values that are no finite floating-point numbers.
    """
    values: dict[str, jax.Array] = {}
    strange, wide = [], []
    for path, (key, convert) in plan.items():
        array = file.read(key)
        if array.dtype.itemsize == 2 and jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(np.float32)
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            strange.append(key)
        elif array.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
            wide.append(key)
        elif not strange and not wide:
            values[path] = on_device(convert(array))
    if strange:
        raise CaseJaxError(
            f"weights: {file.path} has values that are no finite floating-point numbers in {', '.join(sorted(strange)[:10])}."
        )
    require(
        not wide,
        "weights",
        f"{file.path} with float64 numbers in {', '.join(sorted(wide)[:10])}",
        "float32, float16 or bfloat16; convert the file to float32, or set jax_enable_x64",
    )
    state = nnx.to_flat_state(nnx.state(module))
    filled = {path: variable.replace(values[".".join(map(str, path))]) for path, variable in state}
    nnx.update(module, nnx.from_flat_state(filled))


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:  # other tools write plain text, `format: pt` for one
        return value

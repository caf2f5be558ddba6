"""Parameters to and from safetensors files, with every key accounted for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from case_jax._checks import CaseJaxError


def flat_state(module: nnx.Module) -> dict[str, Any]:
    """Every parameter and statistic of a module as dotted path → variable."""
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(module))}


def save_weights(path: str | Path, module: nnx.Module, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write all parameters and statistics of a module to one safetensors file.

    Args:
        path: the file to write.
        module: the Flax NNX module.
        metadata: facts that travel with the weights, stored as JSON values.
    """
    arrays = {name: np.asarray(variable[...]) for name, variable in flat_state(module).items()}
    save_file(arrays, str(path), metadata={k: json.dumps(v) for k, v in (metadata or {}).items()})


def load_weights(path: str | Path, module: nnx.Module) -> dict[str, Any]:
    """Fill a module in place from a safetensors file and return the file's metadata.

    Args:
        path: a safetensors file written under the module's own dotted paths.
        module: the Flax NNX module to fill; may be abstract (`nnx.eval_shape`), which saves its initialisation.

    Returns:
        The metadata that `save_weights` stored.

    Raises:
        CaseJaxError: when the file is missing or is no safetensors file, or unless every key of the file fits exactly
            one parameter of the same shape; names the first ten of each side that do not. Also for values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise CaseJaxError(f"weights: no file at {path}; give a .safetensors file written for this architecture.")
    state = flat_state(module)
    try:
        with safe_open(str(path), framework="numpy") as file:
            raw = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise CaseJaxError(f"weights: {path} is not a readable safetensors file ({error}).") from error
    unused, missing = sorted(arrays.keys() - state.keys()), sorted(state.keys() - arrays.keys())
    shapes = [
        f"{name}: file {arrays[name].shape}, model {state[name].shape}"
        for name in sorted(arrays.keys() & state.keys())
        if arrays[name].shape != state[name].shape
    ]
    if unused or missing or shapes:
        raise CaseJaxError(
            f"weights: {path} does not fit {type(module).__name__}.\n"
            f"  in the file only ({len(unused)}): {', '.join(unused[:10]) or '–'}\n"
            f"  in the model only ({len(missing)}): {', '.join(missing[:10]) or '–'}\n"
            f"  other shape ({len(shapes)}): {'; '.join(shapes[:10]) or '–'}"
        )
    strange = [
        n for n, a in sorted(arrays.items()) if not np.issubdtype(a.dtype, np.floating) or not np.isfinite(a).all()
    ]
    if strange:
        raise CaseJaxError(
            f"weights: {path} has values that are no finite floating-point numbers in {', '.join(strange[:10])}."
        )
    filled = {
        path: variable.replace(jnp.asarray(arrays[".".join(map(str, path))]))
        for path, variable in nnx.to_flat_state(nnx.state(module))
    }
    nnx.update(module, nnx.from_flat_state(filled))
    return {key: _json_or_text(value) for key, value in raw.items()}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:  # other tools write plain text, `format: pt` for one
        return value

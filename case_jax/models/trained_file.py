"""What a training leaves in its folder: a network's weights with the sizes that it is built of, and facts beside them, such as the digest of the
classifier that it goes with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from case_jax._checks import CaseJaxError, require
from case_jax.models.weights import flat_state, load_weights, read_weight_file
from case_jax.results import fingerprint

T = TypeVar("T", bound=nnx.Module)


def load_trained(
    run: str | Path, name: str, build: Callable[[Any, nnx.Rngs], T], *, facts: Sequence[str]
) -> tuple[T, dict[str, Any]]:
    """The network of a run of `case-jax train KIND`, or of its file `KIND.safetensors`, and the facts in that.

    Args:
        run: the folder, or the file.
        name: of the file in the folder. Its stem is the kind of what is trained, under which the file's metadata have the sizes.
        build: makes the network of these sizes.
        facts: names of the other metadata that are needed.

    Raises:
        CaseJaxError: when there is none, the training has not ended, or the file is another one; names the kind.
    """
    path, kind = Path(run), Path(name).stem
    command = f"`case-jax train {kind}`"
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise CaseJaxError(f"{kind}: no {name} in {path}; give a folder of {command} whose training has ended.")
    found: Any = read_weight_file(file).metadata
    require(kind in found, kind, f"{file}, which holds another network", f"a file of {command}")
    try:
        known = {fact: found[fact] for fact in facts}
        network = nnx.eval_shape(lambda: build(found[kind], nnx.Rngs(0)))
    except (KeyError, TypeError) as error:
        raise CaseJaxError(
            f"{kind}: the facts in {file} are damaged ({type(error).__name__}: {error}); train again, or take another copy."
        ) from error
    load_weights(file, network)
    return network, known


def digest(module: nnx.Module) -> str:
    """Changes when any variable of a network does."""
    state = sorted(flat_state(module).items())
    floating = (variable[...] for _, variable in state if jnp.issubdtype(variable.dtype, jnp.floating))
    return fingerprint(np.asarray(array, np.float32) for array in floating)

"""A folder of reference numbers: which files there are, and the networks that they hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from case_jax._checks import CaseJaxError
from case_jax.models import MODELS
from case_jax.models.taps import Taps
from case_jax.models.torch_names import Family, layout_of, match_torch, network_sizes
from case_jax.models.weights import WeightFile, fill
from case_jax.tap import TappedModel, tap_nnx

Arrays = Mapping[str, np.ndarray]
FAMILIES = tuple(dict.fromkeys(entry.family for entry in MODELS.values() if entry.family is not None))


def read(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """All files of a folder by name.

    Raises:
        CaseJaxError: when there is no folder, or no file in it.
    """
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise CaseJaxError(f"goldens: no .npz files in {folder}; give the folder with the reference numbers.")
    return {file.stem: dict(np.load(file, allow_pickle=False)) for file in files}


def networks(files: Mapping[str, Arrays]) -> list[str]:
    """Names of the files that hold a network: its parameters, images, and what it makes of them."""
    return [name for name, arrays in files.items() if {"target_layer", "gradcam_weights"} <= arrays.keys()]


class Network(NamedTuple):
    """A network of a folder, filled with its parameters."""

    name: str
    family: Family
    module: nnx.Module
    layer: str
    taps: Taps
    arrays: Arrays

    def images(self, suffix: str = "") -> jnp.ndarray:
        """Its images, channels last."""
        return jnp.asarray(self.arrays[f"x{suffix}"].transpose(0, 2, 3, 1))

    def tap(self, image: jnp.ndarray) -> TappedModel:
        """Tapped at the reference's layer, class weights by pullback."""
        options = self.taps.options(self.layer)
        return tap_nnx(self.module, self.layer, image, **(options if "token_grid" in options else {}))

    def tap_declared(self, image: jnp.ndarray) -> TappedModel | None:
        """The same with the closed form of class weights that the network declares; None where it declares none."""
        options = self.taps.options(self.layer)
        return tap_nnx(self.module, self.layer, image, **options) if self.taps.closed_forms.get(self.layer) else None


def network(name: str, arrays: Arrays) -> Network:
    """Build a network of the size that its parameters have, and fill it.

    Raises:
        CaseJaxError: for parameters of no known family, or ones that do not fit exactly.
    """
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    family = next((family for family in FAMILIES if layout_of(state, family) is not None), None)
    if family is None:
        titles = ", ".join(family.title for family in FAMILIES)
        raise CaseJaxError(f"goldens: the parameters of {name!r} belong to no known network; known: {titles}.")
    file = WeightFile(Path(f"{name}.npz"), {key: value.shape for key, value in state.items()}, state.__getitem__, {})
    sizes = network_sizes(file.shapes, family, source=name)
    module = nnx.eval_shape(lambda: family.build(**sizes, rngs=nnx.Rngs(0)))
    fill(module, file, match_torch(file.shapes, module, family=family, source=name))
    module.eval()
    taps = next(entry for entry in MODELS.values() if entry.family is family).taps_of(**sizes)
    return Network(name, family, module, str(arrays["target_layer"]), taps, arrays)

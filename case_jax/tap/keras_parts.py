"""A Keras model taken apart: a pure function of its variables, functions of its layers replaced while it runs.

`keras` is imported where it is used.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from case_jax._checks import require
from case_jax.tap.evaluation import Written
from case_jax.tap.head import as_used
from case_jax.tap.layer import Channels

Path = tuple[str, ...]
Replacement = tuple[Any, str, Callable[..., Any]]
"""An object, the name of one of its functions, and what stands in its place for a while."""


def named_layers(model: Any) -> dict[str, Any]:
    """The layers that can be tapped, by their names and those of the layers around them: `backbone/conv5_block3_out`.

    Operations of a functional model, `x + y`, too. Of several with one name in one place the second ends in `~2`; a layer that is used in several
    places stands where it is first.
    """
    import keras  # type: ignore[import-not-found]

    found: dict[str, Any] = {}

    def walk(layer: Any, path: str) -> None:
        inside = layer.layers if isinstance(layer, keras.Model) else layer._flatten_layers(False, recursive=False)
        for sub in getattr(layer, "operations", inside):
            if isinstance(sub, keras.layers.InputLayer) or any(sub is other for other in found.values()):
                continue
            name = _free(f"{path}{sub.name}", found)
            found[name] = sub
            if isinstance(sub, keras.Layer):
                walk(sub, f"{name}/")

    walk(model, "")
    return found


def _free(name: str, taken: Mapping[Any, Any]) -> str:
    number = 1
    while (free := name if number == 1 else f"{name}~{number}") in taken:
        number += 1
    return free


def _places(variables: Sequence[Any]) -> list[Path]:
    """Where each variable stands in the parameters: its own path; of several with one path the second's owner ends in `~2`."""
    taken: set[Path] = set()
    nodes: set[Path] = set()
    places = []
    for variable in variables:
        *owner, name = variable.path.split("/")
        number, place = 1, (*owner, name)
        while place in taken or place in nodes or any(place[:i] in taken for i in range(1, len(place))):
            number += 1
            place = (*owner[:-1], f"{owner[-1]}~{number}", name) if owner else (f"{name}~{number}",)
        taken.add(place)
        nodes.update(place[:i] for i in range(1, len(place)))
        places.append(place)
    return places


class Parts:
    """A Keras model as a pure function of its parameters and the state of its random generators."""

    def __init__(self, model: Any, channels: Channels | None, call_args: Sequence[Any], call_kwargs: dict[str, Any]):
        self.model, self.known = model, named_layers(model)
        owners = (model, *self.known.values())
        seeds = [seed.state for layer in owners for seed in getattr(layer, "_seed_generators", ())]
        self._seeds = list({id(seed): seed for seed in seeds}.values())
        self._own = [v for v in model.variables if not any(v is seed for seed in self._seeds)]
        self._places = _places(self._own)
        self.params = unflatten_dict({p: v.value for p, v in zip(self._places, self._own, strict=True)})
        self.random = [seed.value for seed in self._seeds]
        self.channels_first = (channels or _channels(self.known)) == "first"
        self._args, self._kwargs = tuple(call_args), {"training": False, **call_kwargs}

    def _scope(self, params: Any, random: Any) -> Any:
        import keras  # type: ignore[import-not-found]

        flat = flatten_dict(params)
        pairs = [(v, flat[place]) for v, place in zip(self._own, self._places, strict=True)]
        return keras.StatelessScope(state_mapping=[*pairs, *zip(self._seeds, random, strict=True)])

    def run(
        self, params: Any, random: Any, images: Array, replacements: Sequence[Replacement]
    ) -> tuple[Any, dict[str, Written]]:
        """What the model returns for a batch, channels last, and the variables that are no parameters to train after the call."""
        x = jnp.moveaxis(images, -1, 1) if self.channels_first else images
        with self._scope(params, random) as scope, _replaced(replacements):
            out = self.model(x, *self._args, **self._kwargs)
            written = {
                ".".join(place): Written(scope.get_current_value(v), False)
                for v, place in zip(self._own, self._places, strict=True)
                if not v.trainable
            }
        return out, {path: w for path, w in written.items() if w.value is not None}

    def kernel(self, params: Any, dense: Any) -> Array:
        """A dense layer's kernel as it reads it."""
        import keras  # type: ignore[import-not-found]

        with self._scope(params, self.random):
            return as_used(keras.ops.convert_to_tensor(dense.kernel), dense.compute_dtype)


@contextlib.contextmanager
def _replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Functions of objects replaced, and put back whatever happens."""
    with contextlib.ExitStack() as stack:
        for thing, name, function in replacements:
            if name in vars(thing):
                stack.callback(object.__setattr__, thing, name, getattr(thing, name))
            else:
                stack.callback(object.__delattr__, thing, name)
            object.__setattr__(thing, name, function)
        yield


def call_of(layer: Any, around: Callable[[Any], Any]) -> Replacement:
    """What replaces a layer's call: the same, its output passed through a function."""
    policy = getattr(layer, "dtype_policy", None)
    name = "call" if policy is None or policy.quantization_mode is None else "quantized_call"
    own = getattr(layer, name)
    return layer, name, lambda *args, **kwargs: around(own(*args, **kwargs))


def _channels(known: Mapping[str, Any]) -> Channels:
    """Where a network's layers say that channels stand.

    Raises:
        CaseJaxError: when they do not agree.
    """
    said = {str(layer.data_format) for layer in known.values() if getattr(layer, "data_format", None)}
    accepted = "channels='first' or channels='last', those of the image and of the layer, where a network has both"
    require(len(said) <= 1, "channels", f"none, for a network of layers with {' and '.join(sorted(said))}", accepted)
    return "first" if said == {"channels_first"} else "last"

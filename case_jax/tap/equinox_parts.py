"""An Equinox module taken apart: a pure function of its arrays and its state, the calls of its modules through functions of one's own.

`equinox` is imported where it is used.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from case_jax._checks import require
from case_jax.tap.calling import Called
from case_jax.tap.layer import Channels

Around = Callable[..., Any]
"""(a module's call, its arguments) to what it returns."""


def modules_inside(model: Any, kind: type) -> dict[str, Any]:
    """The modules of a kind in a module, by dotted path in the order of its fields."""
    found: dict[str, Any] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        import equinox as eqx  # type: ignore[import-not-found]

        is_leaf = lambda value: value is not node and isinstance(value, eqx.Module)  # noqa: E731
        for keys, leaf in jax.tree_util.tree_flatten_with_path(node, is_leaf=is_leaf)[0]:
            if isinstance(leaf, eqx.Module):
                below = (*path, *(jax.tree_util.keystr((key,), simple=True) for key in keys))
                if isinstance(leaf, kind):
                    found[".".join(below)] = leaf
                walk(leaf, below)

    walk(model, ())
    return found


def named_layers(model: Any) -> dict[str, Any]:
    """The modules that can be tapped, by dotted path (`blocks.2.conv1`)."""
    import equinox as eqx  # type: ignore[import-not-found]

    return {path: sub for path, sub in modules_inside(model, eqx.Module).items() if callable(sub)}


@lru_cache(maxsize=512)
def _watched_class(kind: type) -> type:
    """A class like another, whose call goes through a function that each of its objects has."""
    import equinox as eqx  # type: ignore[import-not-found]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._case_jax_around(partial(kind.__call__, self), *args, **kwargs)

    fields = {"_case_jax_around": eqx.field(static=True, default=None), "__annotations__": {"_case_jax_around": Any}}
    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__, **fields})


def _watched(module: Any, around: Around) -> Any:
    """A module like another, whose call goes through a function."""
    watched = object.__new__(_watched_class(type(module)))
    for name, value in vars(module).items():
        object.__setattr__(watched, name, value)
    object.__setattr__(watched, "_case_jax_around", around)
    return watched


def at_path(node: Any, names: Sequence[str]) -> Any:
    """What stands at a path."""
    for name in names:
        node = node[_key(node, name)] if _is_container(node) else getattr(node, name)
    return node


def _is_container(node: Any) -> bool:
    return isinstance(node, (Mapping, list, tuple)) and not hasattr(node, "_fields")


def _key(node: Any, name: str) -> Any:
    return name if isinstance(node, Mapping) and name in node else int(name)


def _with(node: Any, names: Sequence[str], change: Callable[[Any], Any]) -> Any:
    """A copy with what stands at a path changed."""
    if not names:
        return change(node)
    first, rest = names[0], names[1:]
    if hasattr(node, "_fields"):
        return node._replace(**{first: _with(getattr(node, first), rest, change)})
    if _is_container(node):
        key = _key(node, first)
        items = dict(node) if isinstance(node, Mapping) else list(node)
        items[key] = _with(node[key], rest, change)
        return type(node)(items)  # type: ignore[call-arg]
    again = object.__new__(type(node))
    for name, value in vars(node).items():
        object.__setattr__(again, name, _with(value, rest, change) if name == first else value)
    return again


class Parts:
    """A module in inference as a pure function of its arrays and its state."""

    def __init__(self, model: Any, state: Any, call: Called, channels: Channels):
        import equinox as eqx  # type: ignore[import-not-found]

        self.model = eqx.nn.inference_mode(model)
        self.known = named_layers(self.model)
        arrays, self._static = eqx.partition(self.model, eqx.is_array)
        self.params = {"params": arrays}
        self._state, self._numbers = state, {}
        if state is not None:
            leaves, structure = jax.tree.flatten(state)
            numbered = jax.tree.unflatten(structure, range(len(leaves)))
            kept = modules_inside(model, eqx.nn.StateIndex).items()
            found = {path: jax.tree.leaves(numbered.get(index)) for path, index in kept}
            self._numbers = {f"{path}/{i}": n for path, numbers in found.items() for i, n in enumerate(numbers)}
            self.params["state"] = unflatten_dict(self._by_owner(state), sep=".")
        self.random = call.kwargs.get("key")
        self._call, self._channels_first = call, channels == "first"

    def run(self, params: Any, random: Any, x: Array, around: Mapping[str, Around]) -> tuple[Any, dict[str, Any]]:
        """What the model returns for one image, channels last, and its state by path; calls of some of its modules through functions."""
        import equinox as eqx  # type: ignore[import-not-found]

        model = eqx.combine(params["params"], self._static)
        for path in around:
            model = _with(model, path.split("."), partial(_watched, around=around[path]))
        call = self._call if random is None else self._call._replace(kwargs={**self._call.kwargs, "key": random})
        x = jnp.moveaxis(x, -1, 0) if self._channels_first else x
        if self._state is None:
            return call.on(model, x), {}
        out = call._replace(after=(self._set(params["state"]), *call.after)).on(model, x)
        accepted = "a model that returns its output and its new state; without a state leave state= out"
        returns = isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], eqx.nn.State)
        require(returns, "model", f"a {type(out).__name__} for model(x, state)", accepted)
        return out[0], self._by_owner(out[1])

    def _by_owner(self, state: Any) -> dict[str, Array]:
        """The arrays of a state, by the path of the module that has them and their name there."""
        leaves = jax.tree.leaves(state)
        return {path: leaves[n] for path, n in self._numbers.items()}

    def _set(self, params: Any) -> Any:
        """The state with these arrays."""
        leaves, structure = jax.tree.flatten(self._state)
        for path, leaf in flatten_dict(params, sep=".").items():
            leaves[self._numbers[path]] = leaf
        return jax.tree.unflatten(structure, leaves)

    def part(self, out: Any) -> int | None:
        """Where the map is in what a layer returns: in front of its new state, where there is one."""
        import equinox as eqx  # type: ignore[import-not-found]

        return 0 if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], eqx.nn.State) else None

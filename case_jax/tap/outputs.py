"""What a network or a layer returns, and what is taken out of it."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require, unknown

Pick = str | int | Callable[[Any], Any] | None
"""A key, an attribute, an index, or a function of all that is returned; None for an output that is one array."""


def is_array(value: Any) -> bool:
    """Whether a value is one array, traced or not."""
    return isinstance(value, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))


def described(value: Any) -> str:
    """A value in words: its type, and the keys, fields or items that it holds."""
    if is_array(value):
        return f"an array of shape {tuple(value.shape)}"
    name = type(value).__name__
    kind = f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
    if (names := _names(value)) is not None:
        return f"{kind} with {'keys' if isinstance(value, Mapping) else 'fields'} {', '.join(map(repr, names))}"
    if isinstance(value, (tuple, list)):
        return f"{kind} of {', '.join(map(described, value)) or 'nothing'}"
    return kind


def _names(value: Any) -> list[Any] | None:
    """The keys of a mapping or the fields of a record; None for anything else."""
    if isinstance(value, Mapping):
        return list(value)
    if hasattr(value, "_fields"):
        return list(value._fields)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return None


def _suggestion(value: Any, rank: int, taken: str) -> str:
    """What to give for an output that is not one array."""
    names = _names(value)
    found: list[Any] = list(range(len(value))) if names is None and isinstance(value, (tuple, list)) else names or []
    likely = [n for n in found if (item := _item(value, n)) is not None and is_array(item) and len(item.shape) == rank]
    first = "logits" if "logits" in found else likely[0] if likely else found[0] if found else None
    return f"a function that takes {taken} out of it" if first is None else repr(first)


def _item(value: Any, pick: Any) -> Any:
    """The item of that key or index, or the attribute."""
    if isinstance(value, Mapping) or (isinstance(value, (tuple, list)) and isinstance(pick, int)):
        return value[pick]
    return getattr(value, str(pick))


def _taken(value: Any, pick: Any, argument: str) -> Any:
    """What a key, an index or an attribute names."""
    names = _names(value)
    if isinstance(value, (tuple, list)) and isinstance(pick, int):
        require(-len(value) <= pick < len(value), argument, f"{pick} for {described(value)}", "the index of an item")
    elif isinstance(value, Mapping) and pick not in value:
        raise unknown(argument, pick, map(str, value))
    elif not isinstance(value, Mapping) and not (isinstance(pick, str) and hasattr(value, pick)):
        require(
            names, argument, f"{pick!r} for {described(value)}", "an index, the name of an attribute, or a function"
        )
        raise unknown(argument, str(pick), names or [])
    return _item(value, pick)


def logits_of(output: Any, pick: Pick, count: int = 1) -> Float[Array, "B *C"]:
    """The logits in what a network returns for a batch.

    Args:
        output: what it returns.
        pick: where the logits are.
        count: images of the batch.

    Raises:
        CaseJaxError: for an output that is more than one array, or a pick that does not fit it; the message says what there is.
    """
    found = output if pick is None else pick(output) if callable(pick) else _taken(output, pick, "output")
    if not is_array(found):
        suggestion = _suggestion(found, 2, "the logits")
        which = f"{pick!r} of the model's output" if pick is not None and not callable(pick) else "the model's output"
        raise CaseJaxError(
            f"output: {which} is {described(found)}; say which of it are the logits: output={suggestion}."
            if not callable(pick)
            else f"output: the function returns {described(found)}; accepted: one array (batch, classes)."
        )
    require(
        len(found.shape) >= 1 and found.shape[0] == count,
        "output" if callable(pick) else "model",
        f"an output of shape {tuple(found.shape)} for a batch of {count}",
        "logits of shape (batch, classes)" + (", as the model itself returns its outputs" if callable(pick) else ""),
    )
    require(
        len(found.shape) <= 2,
        "model",
        f"an output of shape {tuple(found.shape[1:])} for one image",
        "a classifier that returns one vector of logits per image, which is given without a batch axis; of an output with positions take a vector of scores, for example "
        "output=lambda y: y[:, 2:5, 3:7].mean((1, 2))",
    )
    return found


def vector_of(output: Any, pick: Pick) -> Any:
    """The logits in what a function returns for one image.

    Raises:
        CaseJaxError: as `logits_of`.
    """
    found = output if pick is None else pick(output) if callable(pick) else _taken(output, pick, "output")
    if is_array(found) or isinstance(found, (int, float)):
        return found
    suggestion = _suggestion(found, 1, "the logits")
    raise CaseJaxError(
        f"output: the function returns {described(found)}; say which of it are the logits: output={suggestion}."
    )


def changed(output: Any, pick: str | int | None, change: Callable[[Array], Array], layer: str) -> Any:
    """What a layer returns, with the array that is tapped changed.

    Args:
        output: what it returns.
        pick: where the array is; None when it is all.
        change: array to array.
        layer: its path.

    Raises:
        CaseJaxError: for an output that is more than one array without a pick, or a pick that does not fit it.
    """
    if pick is None:
        if is_array(output):
            return change(output)
        raise CaseJaxError(
            f"layer: {layer!r} returns {described(output)}; say which of it is the map: "
            f"layer_output={_suggestion(output, 4, 'the map')}, or tap a layer that returns one array."
        )
    found = _taken(output, pick, "layer_output")
    require(is_array(found), "layer_output", f"{pick!r}, {described(found)}", "one array of what the layer returns")
    new = change(found)
    if isinstance(output, Mapping):
        again = copy.copy(output)
        again[pick] = new  # type: ignore[index]
        return again
    if isinstance(pick, int):
        items = [new if i == pick % len(output) else item for i, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    if hasattr(output, "_fields"):
        return output._replace(**{pick: new})
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return dataclasses.replace(output, **{pick: new})
    again = copy.copy(output)
    setattr(again, pick, new)
    return again

"""How a network is called: the module behind partials and wrappers, its arguments, and the one that turns training off."""

import contextlib
import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from case_jax._checks import CaseJaxError, require, unknown

EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "is_train": False,
    "train_mode": False,
    "deterministic": True,
    "use_running_average": True,
    "eval": True,
    "evaluate": True,
    "inference": True,
    "test": True,
}
"""Usual names of flags, and their values in evaluation."""
SIGNATURE = re.compile(
    r"\(\) (missing|takes|got an? (unexpected|multiple|some))|got multiple values|missing a required|too many positional"
)
"""How Python words that a call does not take its arguments."""
TELLING = ("train", "drop", "determin", "eval", "infer", "running", "stoch", "noise", "augment")
"""Parts of names that speak of the same."""

LIBRARIES = ("case_jax", "contextlib", "equinox", "flax", "functools", "haiku", "jax", "keras")
ADAPTERS = {
    "flax.linen": "tap_linen(module, variables, layer, image)",
    "flax.nnx": "tap_nnx(module, layer, image)",
    "keras": "tap_keras(model, layer, image)",
    "equinox": "tap_equinox(model, where, image)",
    "haiku": "tap_haiku(transformed, params, state, layer, image)",
}
"""The adapter for each library's models."""


class Called(NamedTuple):
    """A module and what it is called with, besides the image."""

    module: Any
    method: str
    before: tuple[Any, ...]
    """Arguments in front of the image."""
    after: tuple[Any, ...]
    """Positional ones behind it."""
    kwargs: dict[str, Any]

    def function(self) -> Callable[..., Any]:
        """What is called, bound."""
        return getattr(self.module, self.method)

    def on(self, module: Any, x: Any) -> Any:
        """Call another module of the kind in the same way."""
        return getattr(module, self.method)(*self.before, x, *self.after, **self.kwargs)


def called(model: Any, kind: type, accepted: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Called:
    """The module in whatever was given: a partial, a bound method, a wrapper that knows what it wraps.

    Args:
        model: what the user gave.
        kind: the class of modules that is looked for.
        accepted: in words.
        args: positional arguments behind the image.
        kwargs: keyword arguments; they go before those of a partial.

    Raises:
        CaseJaxError: when there is no such module; one that holds a Flax module under `.module` is told so.
    """
    found: Any = model
    method, before = "__call__", ()
    kwargs = dict(kwargs)
    while not isinstance(found, kind):
        if isinstance(found, functools.partial):
            before, kwargs, found = (*found.args, *before), {**found.keywords, **kwargs}, found.func
        elif inspect.ismethod(found) and isinstance(found.__self__, kind):
            found, method = found.__self__, found.__name__ if found.__name__ != "apply" else "__call__"
        elif hasattr(found, "__wrapped__"):
            found = found.__wrapped__  # type: ignore[union-attr]
        else:
            raise _no_module(model, accepted)
    return Called(found, method, before, tuple(args), kwargs)


def _is_of(kind: type, library: str) -> bool:
    return f"{kind.__module__}.".startswith(f"{library}.")


def require_library(argument: str, model: Any, library: str, accepted: str) -> None:
    """Raise unless a model is of a library, which is not imported for that; errors as `wrong_kind`."""
    if not any(_is_of(kind, library) for kind in type(model).__mro__):
        raise wrong_kind(argument, model, accepted)


def require_call(call: int | None) -> None:
    """Raise unless it can be the number of a call of the tapped layer."""
    require(call is None or call >= 0, "call", call, "the number of a call, from 0")


def require_called(call: int | None, layer: str, calls: int) -> None:
    """Raise unless the tapped layer was called so often that there is a call of this number."""
    require(call is None or call < calls, "call", call, f"a number below {calls}, the calls of {layer!r}")


def wrong_kind(argument: str, model: Any, accepted: str) -> CaseJaxError:
    """The error for what an adapter does not take; the right adapter is named, where there is one.

    Libraries are told by the names of classes, so that none is imported.
    """
    given = f"{argument}: got a {type(model).__name__}"
    for kind in type(model).__mro__:
        for library, adapter in ADAPTERS.items():
            if _is_of(kind, library):
                return CaseJaxError(f"{given}, which is of {library}; accepted for it: {adapter}.")
    return CaseJaxError(f"{given}; accepted: {accepted}.")


def _no_module(model: Any, accepted: str) -> CaseJaxError:
    from flax import linen, nnx

    inner, given = getattr(model, "module", None), f"module: got a {type(model).__name__}"
    if isinstance(inner, nnx.Module):
        return CaseJaxError(f"{given}, which holds a Flax module; accepted: tap_nnx(model.module, …).")
    if isinstance(inner, linen.Module):
        params = "{'params': model.params}" if hasattr(model, "params") else "its variables"
        return CaseJaxError(f"{given}, which holds a Flax module; accepted: tap_linen(model.module, {params}, …).")
    return wrong_kind("module", model, accepted)


def require_arguments(call: Called, tap: str, own: Iterable[str] = ()) -> None:
    """Raise unless a module's signature takes the given arguments, and needs no others.

    Args:
        call: what is called, and how.
        tap: name of the adapter.
        own: keywords that are not for the module itself.
    """
    name = f"{type(call.module).__name__}.{call.method}"
    given = {key for key in call.kwargs if key not in own}
    parameters = list(_parameters(call.function()).values())
    names = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in sorted(given - set(names)):
            raise unknown(f"argument of {name}", key, names)
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = {*positional[: len(call.before) + 1 + len(call.after)], *given}
    for p in parameters:
        lacks = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if lacks and p.name not in filled:
            generators = "nnx.Rngs(0)" if tap == "tap_nnx" else "{'dropout': jax.random.key(0)}"
            value = {"rngs": generators, "key": "jax.random.key(0)"}.get(
                p.name, repr(EVALUATION[p.name]) if p.name in EVALUATION else "…"
            )
            how = f"call_args=({value},)" if p.kind is p.POSITIONAL_ONLY else f"{p.name}={value}"
            raise CaseJaxError(
                f"{p.name}: {name}({', '.join(names)}) needs it, and it was not given; accepted: {tap}(…, {how})."
            )


@contextlib.contextmanager
def told_of_arguments(tap: str, example: str) -> Iterator[None]:
    """An error of Python about the arguments of a call, where no signature tells of them before, is one that says where they go."""
    try:
        yield
    except TypeError as error:
        if not SIGNATURE.search(str(error)):  # another error, of types for example
            raise
        raise CaseJaxError(
            f"call: {error}; accepted: what the call takes by name, {tap}(…, {example}), or in order, call_args=(…,)."
        ) from error


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def evaluation_advice(call: Called, holders: Sequence[tuple[str, Any]], tap: str) -> str:
    """What most likely puts a network into evaluation: an argument of its call, else a flag that a module keeps.

    Args:
        call: what is called, and how.
        holders: modules by path, the likeliest first; "" is the whole.
        tap: name of the adapter.
    """
    parameters = _parameters(call.function())
    now = {p.name: p.default for p in parameters.values() if p.default is not p.empty} | call.kwargs
    positional = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    now |= dict(zip(positional[len(call.before) + 1 :], call.after, strict=False))
    name = f"{type(call.module).__name__}.{call.method}"
    if flag := _flag({key: value for key, value in now.items() if key in parameters or key in call.kwargs}):
        return f"{tap}(…, {flag[0]}={flag[1]}), an argument of {name} that is {now[flag[0]]} now"
    for path, module in holders:
        if flag := _flag(_kept(module)):
            where = f"{path}.{flag[0]}" if path else flag[0]
            return f"{where} = {flag[1]}, which {type(module).__name__} keeps as {not flag[1]}"
    return f"the argument of {name}, or the flag that a module keeps, which turns training off"


def _kept(module: Any) -> dict[str, Any]:
    """The switches that a module keeps on itself."""
    if dataclasses.is_dataclass(module):
        return {f.name: getattr(module, f.name, None) for f in dataclasses.fields(module)}
    return vars(module)


def _flag(values: dict[str, Any]) -> tuple[str, bool] | None:
    """The first switch that does not stand at evaluation, and the value that does; usual names first."""
    for name, right in EVALUATION.items():
        if isinstance(values.get(name), bool) and values[name] is not right:
            return name, right
    for name, value in values.items():
        if isinstance(value, bool) and name not in EVALUATION and any(part in name.lower() for part in TELLING):
            return name, not value
    return None


def require_one_image(image: Any, tap: str = "tap_nnx", example: str = "other=second[None]") -> None:
    """Raise for several inputs in place of one; `example` shows how the adapter takes a second one."""
    require(
        not isinstance(image, (tuple, list, dict)),
        "image",
        f"a {type(image).__name__} of {len(image) if hasattr(image, '__len__') else 'several'}",
        f"one array; a network's further inputs are arguments of its call: {tap}(…, {example})",
    )


def caller() -> str:
    """Where a module is being called: file and line of the innermost function that is not of Flax, JAX or this package."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES:
            return f"line {frame.f_lineno} of {Path(frame.f_code.co_filename).name}"
        frame = frame.f_back
    return "an unknown place"


def holders(known: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    """The whole, "", and each module on the way to a path."""
    names = path.split(".") if path else []
    found = ["", *(".".join(names[:i]) for i in range(1, len(names) + 1))]
    return [(path, known[path]) for path in found if path in known]

"""Options of single methods and metrics from the shell: `--set NAME.OPTION=VALUE`."""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from case_jax._checks import CaseJaxError, unknown

FORM = "NAME.OPTION=VALUE, for example rise.masks=500 or road.percents=20,40"


def options_of(settings: Sequence[str], functions: Mapping[str, Callable[..., Any]]) -> dict[str, dict[str, Any]]:
    """Options by the name of the method or metric that takes them.

    Args:
        settings: words of the form `NAME.OPTION=VALUE`; a value of the default's own type, lists separated by commas.
        functions: what can be set, by name; options are their keyword-only arguments.

    Raises:
        CaseJaxError: for another form, an unknown name or option (those that exist are listed, nearest first), a value of
            another type than the default's, or an option given twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in settings:
        target, equals, text = word.partition("=")
        name, dot, option = target.rpartition(".")
        if not (equals and dot and name and option):
            raise CaseJaxError(f"set: got {word!r}; accepted: {FORM}.")
        if name not in functions:
            raise unknown("set", name, functions)
        known = keywords(functions[name])
        if option not in known:
            raise unknown(f"set, option of {name}", option, known)
        if option in found.get(name, {}):
            raise CaseJaxError(f"set: {name}.{option} is given twice; give it once.")
        found.setdefault(name, {})[option] = value_of(word, text, known[option])
    return found


def keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a method or metric."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def value_of(word: str, text: str, option: inspect.Parameter) -> Any:
    """A value of the default's type; where the default is None, of a type that the option is annotated with."""
    default = option.default
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(default, tuple) and isinstance(value, int | float):
        value = (value,)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        kind = {"bool": "true or false", "tuple": "numbers separated by commas", "int": "a whole number"}
        accepted = kind.get(type(default).__name__, f"a value of type {type(default).__name__}")
        raise CaseJaxError(f"set: got {word!r}; accepted: {accepted}, as its default {default!r}.")
    kinds = [kind for kind in get_args(option.annotation) or (option.annotation,) if kind is not NoneType]
    if default is None and not {Any, option.empty} & set(kinds) and not any(_is(value, kind) for kind in kinds):
        raise CaseJaxError(f"set: got {word!r}; accepted: {' or '.join(map(_words, kinds))}.")
    return value


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if items[1:] == (...,):
            return type(value) is tuple and all(_is(item, items[0]) for item in value)
        return type(value) is tuple and len(value) == len(items) and all(map(_is, value, items))
    return type(value) is kind or (kind is float and type(value) is int)


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        items = get_args(kind)
        return "numbers separated by commas" if ... in items else f"{len(items)} numbers separated by a comma"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, f"a value of type {kind}")


def with_options(
    functions: Mapping[str, Callable[..., Any]], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Callable[..., Any]]:
    """The functions with their options bound."""
    return {name: functools.partial(f, **options[name]) if name in options else f for name, f in functions.items()}

"""What a map function is called, whatever has been bound to it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Array, Float

MapFunction = Callable[..., Float[Array, "T *space"]]
"""A map function `(view, query) -> maps`, with options of its own."""


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the options that `functools.partial` has bound."""
    return function.func if isinstance(function, partial) else function


def name_of(method: MapFunction) -> str:
    """Its own `title`, or what Python calls it."""
    own = bare(method)
    return str(getattr(own, "title", getattr(own, "__name__", type(own).__name__)))

"""What tells two functions, and two installations, apart: a run that resumes must never mix the rows of both."""

import contextlib
import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import __version__, parallel
from case_jax._checks import CaseJaxError

DIGITS = 16


def function_digest(function: Callable[..., Any], argument: str) -> str:
    """A digest of a function of one's own: its source, its default values, and what it has captured.

    A function may say itself what tells it apart, by an attribute `digest`: a text that changes whenever its results do.

    Args:
        function: a function, a `functools.partial`, or an object with `__call__`.
        argument: how errors name it.

    Raises:
        CaseJaxError: when it has captured something that has no digest (a model, say) and says nothing itself.
    """
    own = getattr(function, "digest", None)
    if own:
        return str(own)
    digest = hashlib.sha256()
    _add(digest, function, argument, {})
    return digest.hexdigest()[:DIGITS]


def _add(digest: Any, value: Any, argument: str, seen: dict[int, Any]) -> None:
    if id(value) in seen:  # a function that calls itself, or something held twice
        digest.update(b"again")
        return
    seen[id(value)] = value
    digest.update(type(value).__name__.encode())
    parts: Iterable[Any] = ()
    if own := getattr(value, "digest", None):
        digest.update(str(own).encode())
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest.update(repr(value).encode())
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        held: Any = value
        keys = isinstance(held, jax.Array) and jnp.issubdtype(held.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(held) if keys else held)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    elif isinstance(value, Mapping):
        parts = [part for item in value.items() for part in item]
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, set | frozenset):
        parts = sorted(value, key=repr)
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, types.ModuleType):
        digest.update(value.__name__.encode())
    elif "<locals>" not in getattr(value, "__qualname__", "<locals>"):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode() + _source(value))
    elif isinstance(value, type):
        digest.update(_source(value))
    elif isinstance(value, types.FunctionType):
        digest.update(_source(value))
        parts = [value.__defaults__, value.__kwdefaults__, *_captured(value)]
    elif isinstance(value, types.MethodType):
        parts = [value.__func__, value.__self__]
    elif (wrapped := getattr(value, "__wrapped__", None)) is not None:  # jax.jit and its kind
        parts = [wrapped]
    elif hasattr(value, "__dict__"):
        parts = [type(value), vars(value)]
    else:
        raise CaseJaxError(
            f"{argument}: the function holds a value of type {type(value).__name__}, whose contents cannot be told from another's, so "
            "that a resumed run could mix rows of two functions. Give the function an attribute, "
            '`function.digest = "a text that changes whenever its results do"`.'
        )
    for part in parts:
        _add(digest, part, argument, seen)


def _source(function: Any) -> bytes:
    """The text of a function; its byte code where it was typed into an interpreter; nothing for what is compiled."""
    try:
        return inspect.getsource(inspect.unwrap(function)).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return b"" if code is None else code.co_code + repr((code.co_names, code.co_consts)).encode()


def _captured(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield cell.cell_contents


@functools.cache
def package_digest() -> str:
    """A digest of the package's source files: two states of a checkout of one version are told apart."""
    digest = hashlib.sha256()
    root = files("case_jax")

    def walk(folder: Any) -> None:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.is_dir():
                walk(entry)
            elif entry.name.endswith(".py"):
                digest.update(entry.name.encode() + entry.read_bytes())

    walk(root)
    return digest.hexdigest()[:DIGITS]


def numerics() -> dict[str, Any]:
    """What may change the last bits of the rows: rows of two of these are not mixed in one run."""
    settings: Any = jax.config
    return {
        "platform": jax.default_backend(),
        "device": parallel.device_names()[0],
        "jax": jax.__version__,
        "case_jax": __version__,
        "code": package_digest(),
        "x64": settings.jax_enable_x64,
        "random numbers": f"{settings.jax_default_prng_impl}, partitionable: {settings.jax_threefry_partitionable}",
        "matmul precision": settings.jax_default_matmul_precision,
    }

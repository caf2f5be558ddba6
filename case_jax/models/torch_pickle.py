"""Pickles of PyTorch state dicts, read without running anything: a closed list of operations and of names.

Python's own unpickler imports and calls what a file names, and allocates what it claims. Here an operation moves plain values, and what
takes the place of a tensor is a note of where its numbers lie. Work and memory are bounded by the pickle's length: an operation takes a
byte at least, makes one value at most and copies none, and only texts and small integers are hashed (the hash of nested tuples can take
for ever, and large integers can be chosen to have the same).
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

LONGEST = 2**24
"""Bytes of a pickle; that of a thousand tensors has a hundred thousand."""
LONGEST_NAME = 256
MOST_AXES = 32


class RefusedError(Exception):
    """What a pickle holds that no state dict needs, or how it is damaged; in words."""


class Storage(NamedTuple):
    """A run of numbers in the file, by its key."""

    dtype: str
    """NumPy's name of the type, or `bfloat16`."""
    key: str
    elements: int


class StoredArray(NamedTuple):
    """A tensor: which numbers of a storage it holds. Shape, strides and offset are counted in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many elements there are from the first to the last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


class _Name(NamedTuple):
    """A name from the list, as it lies on the stack."""

    text: str
    build: Callable[..., Any] | None
    """From the arguments of its call; None for the name of a storage's type."""


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _size(lengths: Any) -> tuple[Any, ...]:
    if type(lengths) is not tuple:
        raise RefusedError("a size that is no tuple")
    return lengths


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredArray:
    if type(shape) is not tuple or type(strides) is not tuple or not len(shape) == len(strides) <= MOST_AXES:
        raise RefusedError(f"a tensor without as many strides as axes, of which there may be {MOST_AXES}")
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise RefusedError("a tensor without a storage, or with an offset, shape or strides that are no numbers")
    array = StoredArray(storage, offset, shape, strides)
    if array.span and offset + array.span > storage.elements:
        raise RefusedError(
            f"a tensor of shape {array.shape} with {math.prod(shape):,} elements in a storage of {storage.elements:,}"
        )
    return array


def _parameter(array: Any, *_: Any) -> StoredArray:
    if not isinstance(array, StoredArray):
        raise RefusedError("a parameter that is no tensor")
    return array


_BUILDS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
_TYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


def _named(module: str, name: str) -> _Name:
    text = f"{module}.{name}"
    if text not in _BUILDS and text not in _TYPES:
        raise RefusedError(f"the name {text[:LONGEST_NAME]!r}")
    return _Name(text, _BUILDS.get(text))


def _key(value: Any) -> Any:
    if type(value) is not str and not (type(value) is int and abs(value) < 2**32):
        raise RefusedError(f"a {type(value).__name__} as a key, where a text or a small number was expected")
    return value


class _Machine:
    """The state of one pickle's evaluation."""

    def __init__(self, file: BinaryIO, end: int):
        self.file, self.left = file, end - file.tell()
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """What lies below each mark."""
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def take(self, count: int) -> bytes:
        """The next bytes; as many as there are at most is all that is ever asked for."""
        if not 0 <= count <= self.left:
            raise RefusedError(f"{count:,} bytes, of which only {self.left:,} are there")
        self.left -= count
        return self.file.read(count)

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        text = self.file.readline(min(LONGEST_NAME, self.left))
        self.left -= len(text)
        if not text.endswith(b"\n"):
            raise RefusedError("a name without an end")
        return text[:-1].decode()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise RefusedError(f"a {type(self.stack[-1]).__name__} in place of a {kind.__name__}")
        return self.stack[-1]

    def set_items(self, flat: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[_key(key)] = value

    def tuple_of_marked(self) -> None:
        values = tuple(self.marked())
        self.stack.append(values)  # the stack is now another than before

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise RefusedError("a tuple of values that are not there")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or name.build is None or type(arguments) is not tuple:
            raise RefusedError(f"a call of {name.text if isinstance(name, _Name) else type(name).__name__}")
        self.stack.append(name.build(*arguments))

    def set_state(self) -> None:
        """Attributes of an ordered dict (PyTorch's `_metadata`) hold no arrays that count; nothing else may have some."""
        self.stack.pop()
        self.top(dict)

    def persistent(self) -> None:
        """What stands for a storage: its type, key, device and length; before PyTorch 1 also which part of another one it is."""
        given = self.stack.pop()
        if type(given) is not tuple or len(given) not in (5, 6) or given[0] != "storage" or any(given[5:]):
            raise RefusedError("a reference to something else than a storage of its own")
        _, kind, key, _, elements = given[:5]
        if not isinstance(kind, _Name) or kind.text not in _TYPES or type(key) is not str or type(elements) is not int:
            raise RefusedError("a storage without a type, key and length")
        storage = Storage(_TYPES[kind.text], key, elements)
        if elements < 0 or self.storages.setdefault(key, storage) != storage:
            raise RefusedError(f"the storage {key[:LONGEST_NAME]!r} twice, or of negative length")
        self.stack.append(storage)


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_EMPTY = {b"}": dict, b"]": list}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TEXTS = {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q", b"U": "<B", b"T": "<i"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_PUT, _GET = {b"q": "<B", b"r": "<I"}, {b"h": "<B", b"j": "<I"}
_OTHERS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: m.number("<B"),  # protocol
    b"\x95": lambda m: m.number("<Q"),  # frame
    b"(": _Machine.mark,
    b"t": _Machine.tuple_of_marked,
    b"a": lambda m: _append(m, [m.stack.pop()]),
    b"e": lambda m: _append(m, m.marked()),
    b"s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.set_items(m.marked()),
    b"\x8a": lambda m: m.stack.append(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
    b"\x94": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    b"c": lambda m: m.stack.append(_named(m.line(), m.line())),
    b"\x93": lambda m: m.stack.append(_named(_text(m.stack.pop(-2)), _text(m.stack.pop()))),
    b"R": _Machine.call,
    b"b": _Machine.set_state,
    b"Q": _Machine.persistent,
}


def _append(machine: _Machine, values: list[Any]) -> None:
    machine.top(list).extend(values)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise RefusedError("a name that is no text")
    return value


def _step(machine: _Machine, operation: bytes) -> None:
    if operation in _CONSTANTS:
        machine.stack.append(_CONSTANTS[operation])
    elif operation in _EMPTY:
        machine.stack.append(_EMPTY[operation]())
    elif operation in _NUMBERS:
        machine.stack.append(machine.number(_NUMBERS[operation]))
    elif operation in _TEXTS:
        machine.stack.append(machine.take(machine.number(_TEXTS[operation])).decode())
    elif operation in _TUPLES:
        machine.tuple_of(_TUPLES[operation])
    elif operation in _PUT:
        machine.memo[machine.number(_PUT[operation])] = machine.stack[-1]
    elif operation in _GET:
        machine.stack.append(machine.memo[machine.number(_GET[operation])])
    elif operation in _OTHERS:
        _OTHERS[operation](machine)
    else:
        raise RefusedError(f"the pickle operation {operation!r}, which no state dict needs")


def unpickle(file: BinaryIO, end: int) -> tuple[Any, Mapping[str, Storage]]:
    """The value of the pickle that begins here, with a `StoredArray` for each tensor; nothing is imported, called or allocated.

    Args:
        file: at the pickle's first byte; afterwards behind its last.
        end: where the file, or the part of it that may be read, ends.

    Returns:
        The value, of dicts, lists, tuples, texts, numbers and `StoredArray`; and all storages that are named, by key.

    Raises:
        RefusedError: for any other name or operation, and for a pickle that is cut short or makes no sense.
    """
    machine = _Machine(file, min(end, file.tell() + LONGEST))
    try:
        while (operation := machine.take(1)) != b".":
            _step(machine, operation)
        return machine.stack.pop(), machine.storages
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise RefusedError(f"operations that make no sense ({type(error).__name__})") from error

"""Files as `torch.save` writes them, made without PyTorch from operations of pickles, so that any of them can be wrong."""

import pickle
import struct
import zipfile

from case_jax.models.torch_file import MAGIC, PROTOCOL

TYPES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}


def plain(value):
    """Operations that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def named(text):
    """Operations that push what is called MODULE.NAME."""
    module, _, name = text.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def call(name, *arguments):
    """Operations that call a name with operations' values."""
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def storage(key, elements, kind="FloatStorage"):
    """Operations that push a reference to a storage."""
    return b"(" + plain("storage") + named(f"torch.{kind}") + plain(key) + plain("cpu") + plain(elements) + b"tQ"


def tensor(of, shape, strides, offset=0):
    """Operations that push a tensor of a storage."""
    rest = (plain(False), call("collections.OrderedDict"))
    return call("torch._utils._rebuild_tensor_v2", of, plain(offset), plain(shape), plain(strides), *rest)


def mapping(**values):
    """Operations that push a dict of operations' values."""
    return b"}(" + b"".join(plain(key) + value for key, value in values.items()) + b"u"


def whole(operations):
    """A pickle."""
    return b"\x80\x02" + operations + b"."


def write_zip(path, operations, storages, **parts):
    """Today's format; `storages` are bytes by key, `parts` further entries."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", whole(operations))
        for key, numbers in storages.items():
            archive.writestr(f"model/data/{key}", numbers)
        for name, content in parts.items():
            archive.writestr(f"model/{name}", content)
    return path


def write_legacy(path, operations, storages, size=4):
    """The format before PyTorch 1.6; `storages` are bytes by key, of numbers of one size."""
    head = (pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True}))
    tail = (struct.pack("<q", len(numbers) // size) + numbers for numbers in storages.values())
    path.write_bytes(b"".join((*head, whole(operations), pickle.dumps(list(storages), 2), *tail)))
    return path


def write_state(path, arrays, wrap=lambda state: state):
    """A state dict of contiguous arrays in today's format; `wrap` puts its operations into others."""
    operations = {}
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        of = storage(str(number), array.size, TYPES[array.dtype.name])
        operations[name] = tensor(of, array.shape, strides)
    return write_zip(path, wrap(mapping(**operations)), {str(i): a.tobytes() for i, a in enumerate(arrays.values())})

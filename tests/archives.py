"""Archives as the data sets are published, of made-up content."""

import io
import tarfile

import numpy as np


def write_tar(file, files, mode="w", folders=(), links=()):
    """An archive of (name, bytes) pairs; `file` is a path or a buffer."""
    where = {"fileobj": file} if isinstance(file, io.BytesIO) else {"name": file}
    with tarfile.open(mode=mode, **where) as archive:
        for names, kind in ((folders, tarfile.DIRTYPE), (links, tarfile.SYMTYPE)):
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.type = kind
                archive.addfile(entry)
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def cifar_bytes(count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, 3074), np.uint8)
    rows[:, 0] %= 20
    rows[:, 1] %= 100
    return rows


def cifar_files(**changes):
    files = {
        "train.bin": cifar_bytes(9, 0).tobytes(),
        "test.bin": cifar_bytes(6, 1).tobytes(),
        "coarse_label_names.txt": "\n".join(f"coarse_{i}" for i in range(20)).encode() + b"\n\n",
        "fine_label_names.txt": "\n".join(f"fine_{i}" for i in range(100)).encode() + b"\n",
    } | {name.replace("__", "."): data for name, data in changes.items()}
    return [(f"cifar-100-binary/{name}", data) for name, data in files.items() if data is not None]

"""Data sets in the files of tensorflow-datasets, written without TensorFlow.

Its own `download_and_prepare` shuffles what is larger than 1 GB through TensorFlow's file functions. The order is that of the hashed
keys, so it is known before any image is read; here records are written in that order as they are made: nothing is copied twice on
the disk, and one record at a time is held in memory. The records, their order and their distribution over files are the same.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from case_jax._checks import CaseJaxError, require
from case_jax.files import require_writable

EXAMPLE_OVERHEAD = 100
"""Bytes of a stored example beside its image and its name, about."""


class Split(NamedTuple):
    """The examples of a split, made one at a time."""

    keys: Sequence[str | int]
    """One for each example; their hashes give the order."""
    size: int
    """Bytes of all examples together, about."""
    read: Callable[[int], dict[str, Any]]
    """From an example's place in `keys` to its features; images as encoded bytes."""


def new_builder(name: str, data_dir: Path | None) -> Any:
    """The packaged builder of a data set that is to be written.

    Raises:
        CaseJaxError: when something is there already, or nothing can be written there.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except OSError as error:
        raise CaseJaxError(f"data_dir: cannot read {data_dir} ({error}); give another --data-dir.") from error
    folder = Path(builder.data_path)
    if folder.exists():
        raise CaseJaxError(
            f"data_dir: {folder} is there already. To prepare {name} again, delete that folder first, or give another --data-dir."
        )
    require_writable(folder.parent, "data_dir")
    return builder


def write_splits(
    builder: Any, splits: Mapping[str, Split], *, finish: Callable[[Path], None], progress: bool | None = None
) -> Path:
    """Write a data set, all of it or nothing: into a folder of another name, which is renamed at the end.

    Args:
        builder: from `new_builder`.
        splits: by name; none of them empty.
        finish: called with the folder before it is renamed, to write what else belongs there.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The data set's folder.

    Raises:
        CaseJaxError: when the disk is too small, which is found out before anything is written, or cannot be written.
    """
    from tensorflow_datasets.core.splits import SplitDict
    from tensorflow_datasets.core.utils.file_utils import incomplete_dir

    folder = Path(builder.data_path)
    needed, free = sum(split.size for split in splits.values()), shutil.disk_usage(folder.parent).free
    require(
        needed < free,
        "data_dir",
        f"{folder.parent}, with {free / 1e9:.2f} GB free",
        f"a folder with {needed / 1e9:.2f} GB free",
    )
    total = sum(len(split.keys) for split in splits.values())
    hidden = None if progress is None else not progress
    try:
        with incomplete_dir(os.fspath(folder)) as partial, tqdm(total=total, unit=" images", disable=hidden) as bar:
            written = [_write(builder, Path(partial), name, split, bar) for name, split in splits.items()]
            builder.info.set_splits(SplitDict(written))
            builder.info.write_to_directory(partial)
            finish(Path(partial))
            for file in Path(partial).iterdir():
                _to_disk(file)
    except OSError as error:
        raise CaseJaxError(f"data_dir: cannot write {folder} ({error}); nothing is left there.") from error
    return folder


def leftovers(folder: Path) -> list[Path]:
    """Folders of earlier attempts that were killed; they hold nothing of use."""
    return sorted(folder.parent.glob(f"incomplete.*_{folder.name}"))


def _write(builder: Any, folder: Path, name: str, split: Split, bar: Any) -> Any:
    from etils import epath
    from tensorflow_datasets.core import example_serializer, file_adapters, hashing, naming, splits
    from tensorflow_datasets.core.utils import shard_utils

    features, count = builder.info.features, len(split.keys)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    hasher = hashing.Hasher(name)
    order = sorted(range(count), key=lambda i: hasher.hash_key(split.keys[i]))
    template: Any = naming.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name=builder.name,
        split=name,
        filetype_suffix=builder.info.file_format.file_suffix,
    )
    shards = shard_utils.ShardConfig.calculate_number_shards(split.size, count)
    ends = shard_utils.get_shard_boundaries(count, shards)
    num_bytes = 0

    def records(start: int, stop: int) -> Iterator[tuple[str | int, bytes]]:
        nonlocal num_bytes
        for i in order[start:stop]:
            example = serializer.get_tf_example(features.encode_example(split.read(i)))
            record = example.SerializeToString(deterministic=True)  # else protobuf's own versions order the features
            num_bytes += len(record)
            yield split.keys[i], record
            bar.update()

    bar.set_description(name)
    starts = [0, *ends[:-1]]
    for shard, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
        try:
            file_adapters.ArrayRecordFileAdapter.write_examples(path, records(start, stop))
        except RuntimeError as error:  # array_record's, of a full disk
            raise OSError(str(error)) from error
    lengths = [stop - start for start, stop in zip(starts, ends, strict=True)]
    return splits.SplitInfo(name=name, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template)


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)

"""Compiled programs are kept from one command to the next: a third of the time of explaining a photograph is compilation."""

import os
import stat
from pathlib import Path

import jax

from case_jax.cli.numerics import cache_folder, digest, processor

LARGEST = 2**30
"""Bytes that are kept."""
FIRST_QUIET = (0, 10, 2)
LEVEL, SILENT = "TF_CPP_MIN_LOG_LEVEL", "3"


def keep_compilations() -> None:
    """Have JAX keep compiled programs in the user's cache folder, of which those written longest ago are removed above `LARGEST` bytes.

    A program that is read back is machine code, and runs. So there is one folder for each kind of processor, since a home may be shared by
    many, and nothing is kept in, or removed from, a folder that another user owns or may write into, or that is a link. The size is looked at
    when a command starts. `JAX_COMPILATION_CACHE_DIR` takes another folder, which is
    then the user's to look after; `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.

    jax 0.10.0 and 0.10.1 log two errors about processor features for every program that they read back on CPU, though the features are
    preferences of their own compiler. They keep nothing unless `TF_CPP_MIN_LOG_LEVEL=3` stands in the environment: it counts only when it is
    there before JAX is imported.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if jax.__version_info__ < FIRST_QUIET and os.environ.get(LEVEL) != SILENT:
        return
    kept = cache_folder() / "xla"
    folder = kept / digest(processor().encode())
    if _made(kept) and _made(folder):
        remove_oldest(kept, LARGEST)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _made(folder: Path) -> bool:
    """Whether the folder is there, no link, and this user's alone to write into."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
    except OSError:  # a home that cannot be written costs time, no more
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def remove_oldest(folder: Path, largest: int) -> None:
    """Remove the files below a folder that were written longest ago until those left hold at most `largest` bytes."""
    found = []
    for file in folder.rglob("*"):
        try:
            facts = file.lstat()
        except OSError:  # another command removes, too
            continue
        if not file.is_dir():
            found.append((facts.st_mtime_ns, facts.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= largest:
            return
        try:
            file.unlink(missing_ok=True)
        except OSError:  # a disk that is read only
            return
        total -= size

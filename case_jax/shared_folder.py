"""One run folder in all processes of a run: the first opens and locks it, the others look whether it is the same."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from case_jax import parallel
from case_jax._checks import require
from case_jax.results import RunFolder


@contextlib.contextmanager
def opened(folder: RunFolder, config: Mapping[str, Any], session: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """A run folder in all processes of a run, locked by the first; yields the number of this process and how many there are.

    Args:
        folder: where all processes see it.
        config: as `RunFolder.open`'s; in every process the same.
        session: likewise; the first process's is kept.

    Raises:
        CaseJaxError: when the folder cannot be written, is in use, holds another run, or is not seen by every process.
    """
    number, count = parallel.process()
    with folder.locked() if number == 0 else contextlib.nullcontext():
        if number == 0:
            folder.open(config, session)
        parallel.meet("the run folder is open")
        if number > 0:
            require(
                (folder.path / "config.json").exists(),
                "out",
                f"{folder.path}, which process {number} sees without the run that process 0 has opened there",
                "a folder that all processes share, or the run's parts copied into one folder afterwards",
            )
            folder.require_same(config)
        yield number, count

"""How a command runs on the devices: what puts its steps there, and for how long they may stand still."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from case_jax import parallel
from case_jax.stall import require_stall


@dataclass(frozen=True)
class Devices:
    """Options of every command that takes long; none changes a number."""

    stall: float | None = None
    """Minutes without a finished batch after which the command gives up: it keeps what it has, says what it waits for, and ends with
    status 75; inf: never. By default ten times the longest wait so far, at least 5 minutes; for the first batch an hour in which no
    processor works. Compiling does not count."""
    mapper: parallel.Mapper = "pmap"
    """How a step is put on several devices: by jax.pmap or jax.shard_map; the results are the same bits."""

    def check(self) -> None:
        """Raise for a stall of no minutes, before anything is loaded."""
        require_stall(self.stall)

    def mapped(self) -> AbstractContextManager[None]:
        """Steps that are made inside run under the chosen mapper."""
        return parallel.mapped_by(self.mapper)

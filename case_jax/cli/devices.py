"""How a command runs on the devices: what puts its steps there, and for how long they may stand still."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from case_jax import parallel
from case_jax.stall import require_stall


@dataclass(frozen=True)
class Devices:
    """Options of every command that takes long; none changes a number."""

    stall: float | None = None
    """Minutes in which no batch finishes after which the command keeps what it can, says what it waits for, and ends with status 75; inf:
    waits for ever. By default ten times the longest wait so far, at least 5 minutes, and for the first batch an hour in which no processor
    works. Compiling does not count."""
    mapper: parallel.Mapper = "pmap"
    """What puts a step on several devices: jax.pmap, or jax.shard_map, to the same bits."""

    def check(self) -> None:
        """Raise for a stall of no minutes, before anything is loaded."""
        require_stall(self.stall)

    def mapped(self) -> AbstractContextManager[None]:
        """Steps that are made inside run under the chosen mapper."""
        return parallel.mapped_by(self.mapper)

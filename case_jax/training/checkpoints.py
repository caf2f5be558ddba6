"""The checkpoints of a training. Imported when one begins: orbax takes some 0.2 s, for which commands that do not train need not wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from case_jax._checks import CaseJaxError


@contextmanager
def checkpoints_in(folder: Path) -> Iterator["Checkpoints"]:
    """The two latest checkpoints of a folder; at the end of the context all is written."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
        yield Checkpoints(manager)


class Checkpoints:
    """States by the number of their step."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    @property
    def latest(self) -> int:
        """The step of the last one; 0 where there is none."""
        return self._manager.latest_step() or 0

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, of the structure of `like`.

        Raises:
            CaseJaxError: when it cannot be read; says what to delete.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except (OSError, ValueError) as error:  # JSON's errors are ValueErrors
            where = self._manager.directory
            raise CaseJaxError(
                f"checkpoints: that of step {step} in {where} cannot be read ({type(error).__name__}); delete the folder "
                f"{step} there to go on from the one before, or all of {where} to start anew."
            ) from error

    def save(self, step: int, state: Any) -> None:
        """Write the state of a step, whole when this returns."""
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()

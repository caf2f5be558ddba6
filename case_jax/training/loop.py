"""The training loop: one compiled step over the devices, a log, checkpoints; killed at any step it ends where an unbroken run would."""

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, Float, Int, Key, UInt8
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import CaseJaxError, require
from case_jax.files import write_atomically
from case_jax.results import RunFolder
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.training.examples import Examples, LabelledImages

LOG = logging.getLogger(__name__)
CURVES = "log.csv"
PRECISION = "tensorfloat32"
"""Of all products of a training step: TF32 on NVIDIA, as PyTorch's convolutions have it by default, three bfloat16 passes on TPUs,
float32 on CPUs. A gradient's own noise is far above what that rounds, and float32 proper would take several times as long."""


class Batch(NamedTuple):
    """What a step is given on one device."""

    images: UInt8[Any, "B H W 3"]
    labels: Int[Any, " B"]
    targets: Float[Any, "B C"]
    """What a classifier is trained to answer."""


class Keys(NamedTuple):
    """A step's random keys."""

    shared: Key[Array, ""]
    """The same on all devices."""
    own: Key[Array, ""]
    """Another on each device."""


Step = Callable[[Any, Batch, Keys], tuple[Any, Mapping[str, Float[Array, ""]]]]
"""`(state, batch, keys) → (state, numbers for the log)` on one device; both averaged over the devices by `parallel.average`."""


class Task(NamedTuple):
    """What is trained."""

    state: Any
    """Arrays, as they are before the first step."""
    step: Step


class Recipe(NamedTuple):
    """How long, and how it is watched."""

    steps: int
    batch: int
    """Images of a step, over all devices."""
    seed: int = 0
    log_every: int = 50
    """Steps whose mean is a line of the log."""
    save_every: int = 500
    """Steps between checkpoints, which a killed run loses at most."""


def train(
    task: Task,
    examples: Examples,
    recipe: Recipe,
    folder: RunFolder,
    *,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    stall: float | None = math.inf,
    progress: bool | None = None,
) -> Any:
    """Train, or go on in a folder where the same training was interrupted.

    Which images a step sees and its random numbers depend on the seed and the step alone. On one device the parameters are those of an
    unbroken run; over several, gradients are averaged. SIGTERM and Ctrl-C end it after the step in hand, with a checkpoint.

    Args:
        task: what is trained.
        examples: on what.
        recipe: how long.
        folder: holds `config.json`, `log.csv`, `unreadable.json` (images by name, and why they could not be read) and `checkpoints`.
        config: decides the result; a folder with another one is refused.
        facts: about this session, kept in `sessions.jsonl`.
        stall: minutes in which no step finishes after which the process ends, see `case_jax.stall`; its checkpoints are kept.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The trained state.

    Raises:
        CaseJaxError: for a batch that the devices do not share evenly, several processes, a folder that cannot be written or holds
            another training, or a loss that is not finite.
    """
    require_stall(stall)
    devices, size = parallel.device_count(), recipe.batch
    for name in ("steps", "log_every", "save_every"):
        require(getattr(recipe, name) >= 1, name, getattr(recipe, name), "at least 1")
    require(
        size >= devices and size % devices == 0, "batch", size, f"a multiple of the number of local devices, {devices}"
    )
    require(parallel.process()[1] == 1, "process_count", parallel.process()[1], "one process, with all its devices")
    with folder.locked():
        folder.open({**config, "recipe": recipe._asdict()}, facts)
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager((folder.path / "checkpoints").resolve(), options=options) as manager:
            training = _Training(task, recipe, folder, examples.unreadable, manager)
            first = training.done
            hidden = None if progress is None else not progress
            bar = tqdm(total=recipe.steps, initial=first, unit=" steps", desc="train", disable=hidden)
            stream = examples.batches(first, recipe.steps, recipe.batch)
            with bar, Stopping(training.kept, stall=stall) as stopping:
                for batch in stopping.until(stream, lambda _: f"the batch of step {training.done + 1}"):
                    line = training.step(batch)
                    if training.done > first + 1:
                        stopping.finished()  # the step before this one
                    bar.update()
                    if line:
                        bar.set_postfix({name: f"{value:.3g}" for name, value in list(line.items())[:3]})
                training.save()
            return training.state()


class _Training:
    """A training under way: its state on the devices, and what of it has been kept."""

    def __init__(
        self, task: Task, recipe: Recipe, folder: RunFolder, unreadable: dict[str, str], manager: ocp.CheckpointManager
    ):
        self.recipe, self._folder, self._manager = recipe, folder, manager
        unreadable |= folder.unreadable()
        self._unreadable = unreadable
        self.done = self._saved = manager.latest_step() or 0
        state = jax.tree.map(np.asarray, task.state)
        if self.done:
            try:
                state = manager.restore(self.done, args=ocp.args.StandardRestore(state))
            except (OSError, ValueError) as error:  # JSON's errors are ValueErrors
                raise CaseJaxError(
                    f"checkpoints: that of step {self.done} in {manager.directory} cannot be read ({type(error).__name__}); delete the folder "
                    f"{self.done} there to go on from the one before, or all of {manager.directory} to start anew."
                ) from error
            LOG.info("train: goes on at step %d of %d", self.done, recipe.steps)
        self._state = parallel.replicate(state)
        self._rows = [row for row in read_curves(folder.path / CURVES) if row["step"] <= self.done]
        self._recent: list[Any] = []
        self._start = time.monotonic() - (self._rows[-1]["seconds"] if self._rows else 0.0)

        def one(state: Any, batch: Batch, number: Int[Array, ""]) -> tuple[Any, Any]:
            key = jax.random.fold_in(jax.random.key(recipe.seed), number)
            return task.step(state, batch, Keys(key, jax.random.fold_in(key, parallel.device_index())))

        self._step = parallel.over_devices(one, precision=PRECISION, donate=True)

    def step(self, batch: LabelledImages) -> Mapping[str, float]:
        """One step; the means since the last line of the log, when a line is due."""
        count = parallel.device_count()
        halves = Batch(*(a.reshape(count, -1, *a.shape[1:]) for a in batch))
        number = np.full(count, self.done, np.int32)
        self._state, losses = self._step(self._state, parallel.shard(halves), parallel.shard(number))
        if self._recent:
            jax.block_until_ready(self._recent[-1])  # one step is in hand at a time, and one waits behind it
        self._recent.append(losses)
        self.done += 1
        last = self.done == self.recipe.steps
        line = self._logged() if last or self.done % self.recipe.log_every == 0 else {}
        if last or self.done % self.recipe.save_every == 0:
            self.save()
        return line

    def _logged(self) -> dict[str, float]:
        steps = [parallel.first_of(losses) for losses in self._recent]
        self._recent.clear()
        line = {name: float(np.mean([s[name] for s in steps])) for name in steps[0]}
        broken = [name for name, value in line.items() if not math.isfinite(value)]
        if broken:
            raise CaseJaxError(
                f"train: {', '.join(broken)} is not finite between steps {self.done - len(steps)} and {self.done}. The last checkpoint is of "
                f"step {self._saved}; take a lower learning rate."
            )
        seconds = round(time.monotonic() - self._start, 3)
        self._rows.append({"step": self.done, "images": self.done * self.recipe.batch, "seconds": seconds, **line})
        return line

    def save(self) -> None:
        """Write a checkpoint of the last step, the log up to it, and what could not be read; nothing that is not finite becomes a checkpoint."""
        if self._recent:
            self._logged()
        if self.done > self._saved:
            state = self.state()
            if not all(np.isfinite(a).all() for a in jax.tree.leaves(state) if np.issubdtype(a.dtype, np.floating)):
                raise CaseJaxError(
                    f"train: parameters are not finite after step {self.done}. The last checkpoint is of step {self._saved}; take a lower learning rate."
                )
            self._manager.save(self.done, args=ocp.args.StandardSave(state))
            self._manager.wait_until_finished()
            self._saved = self.done
        if self._rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(self._rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            write_atomically(self._folder.path / CURVES, text.getvalue().encode())
        self._folder.write_unreadable(dict(self._unreadable))  # a copy: threads that read ahead may add to it

    def state(self) -> Any:
        """The state, as arrays of the host."""
        return parallel.first_of(self._state)

    def kept(self) -> str:
        """What a stopped training has kept, in words."""
        return f"step {self._saved} of {self.recipe.steps} is kept, and the same command goes on there"


def read_curves(file: Path) -> list[dict[str, float]]:
    """The lines of a log; none where there is no file."""
    if not file.exists():
        return []
    try:
        with file.open(newline="") as lines:
            return [
                {k: int(v) if k in ("step", "images") else float(v) for k, v in row.items()}
                for row in csv.DictReader(lines)
            ]
    except (TypeError, ValueError) as error:
        raise CaseJaxError(f"log: {file} is damaged ({error}); delete it to go on without it.") from error

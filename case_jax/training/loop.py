"""The training loop: one compiled step over the devices, a log, checkpoints; killed at any step it ends where an unbroken run would."""

import contextlib
import csv
import io
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import CaseJaxError, require
from case_jax.files import write_atomically
from case_jax.results import RunFolder, fingerprint
from case_jax.shared_folder import opened
from case_jax.stall import require_stall
from case_jax.stopping import Stopping
from case_jax.training.examples import Examples, LabelledImages

if TYPE_CHECKING:
    from case_jax.training.checkpoints import Checkpoints

LOG = logging.getLogger(__name__)
CURVES = "log.csv"
PRECISION = "tensorfloat32"
"""Of all products of a training step: TF32 on NVIDIA, as PyTorch's convolutions have it by default, three bfloat16 passes on TPUs,
float32 on CPUs. A gradient's own noise is far above what that rounds, and float32 proper would take several times as long."""
IN_HAND = 1
"""Steps that devices work on while the host prepares the next."""


class Batch(NamedTuple):
    """What a step is given on one device."""

    images: Num[Any, "B H W D"]
    labels: Int[Any, " B"]
    targets: Float[Any, "B C"]
    """What a classifier is trained to answer."""
    clean: Float[Any, "B H W D"] | None = None
    """The images before noise was added, where they are asked for."""


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

    Which images a step sees and its random numbers depend on the seed and the step alone, and the parameters are those of an unbroken run.
    Of several devices each works on an equal part of a batch; gradients and running statistics are averaged over all devices of all
    processes (`parallel.join`). How many devices there are decides the numbers, as normalisations see a device's part only; how they are
    spread over processes does not. SIGTERM and Ctrl-C, in any process, end it in all of them with a checkpoint of the same step.

    Args:
        task: what is trained.
        examples: on what.
        recipe: how long.
        folder: holds `config.json`, `log.csv`, `unreadable.json` (images by name, and why they could not be read) and `checkpoints`.
        config: decides the result; a folder, or a process, with another one is refused.
        facts: about this session, kept in `sessions.jsonl`.
        stall: minutes in which no step finishes after which the process ends, see `case_jax.stall`; its checkpoints are kept.
        progress: show a bar; None shows it in a terminal.

    Returns:
        The trained state.

    Raises:
        CaseJaxError: for a batch that the devices do not share evenly, processes that do not begin alike or of which one is gone, a folder
            that cannot be written or holds another training, or a loss that is not finite.
    """
    from case_jax.training.checkpoints import checkpoints_in  # not before a training begins

    require_stall(stall)
    for name in ("steps", "log_every", "save_every"):
        require(getattr(recipe, name) >= 1, name, getattr(recipe, name), "at least 1")
    require_shared(recipe.batch)
    with opened(folder, {**config, "recipe": recipe._asdict()}, facts) as (number, count):
        _require_alike(task, examples)
        with checkpoints_in(folder.path / "checkpoints") as checkpoints:
            training = _Training(task, recipe, folder, examples.unreadable, checkpoints)
            first = training.done
            hidden = True if number > 0 else None if progress is None else not progress
            bar = tqdm(total=recipe.steps, initial=first, unit=" steps", desc="train", disable=hidden)
            stream = examples.batches(first, recipe.steps, recipe.batch, share=(number, count))
            with _explained(training), bar, Stopping(training.kept, stall=stall) as stopping:
                for batch in stopping.until(
                    stream, lambda _: f"the batch of step {training.done + 1}", agreed=training.agreed
                ):
                    line = training.step(batch)
                    if training.done > first + 1:
                        stopping.finished()  # the step before this one
                    bar.update()
                    if line:
                        bar.set_postfix({name: f"{value:.3g}" for name, value in list(line.items())[:3]})
                training.save()
            return training.state()


def require_shared(batch: int) -> None:
    """Raise unless all devices of all processes can work on equal parts of a batch.

    Raises:
        CaseJaxError: names the batch, or the processes that have more devices than others.
    """
    counts = parallel.devices_by_process()
    given = ", ".join(f"{count} in process {number}" for number, count in enumerate(counts))
    require(len(set(counts)) == 1, "devices", given, "equally many in every process")
    devices = sum(counts)
    given = "the number of devices" if len(counts) == 1 else f"the number of devices of all {len(counts)} processes"
    require(batch >= devices and batch % devices == 0, "batch", batch, f"a multiple of {given}, {devices}")


def _require_alike(task: Task, examples: Examples) -> None:
    """Raise unless all processes begin with the same parameters and draw from the same images."""
    if parallel.process()[1] == 1:
        return
    found = parallel.gathered(fingerprint([examples.indices, *jax.tree.leaves(task.state)]))
    others = ", ".join(str(number) for number, one in enumerate(found) if one != found[0])
    given = f"other images or first parameters in process {others} than in process 0"
    require(not others, "train", given, "the same weights, packages and data in every process")


@contextlib.contextmanager
def _explained(training: "_Training") -> Iterator[None]:
    """Say what is kept where the devices of several processes fail, as they do when one of the processes is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if parallel.process()[1] == 1:
            raise
        reason = str(error).partition("\n")[0]
        raise CaseJaxError(
            f"train: the processes could not finish a step together ({reason}); {training.kept()}, in as many processes as you like."
        ) from error


class _Training:
    """A training under way: its state on the devices, and what of it has been kept."""

    def __init__(
        self, task: Task, recipe: Recipe, folder: RunFolder, unreadable: dict[str, str], checkpoints: "Checkpoints"
    ):
        self.recipe, self._folder, self._checkpoints = recipe, folder, checkpoints
        unreadable |= folder.unreadable()
        self._unreadable = unreadable
        self.done = self._saved = checkpoints.latest
        state = jax.tree.map(np.asarray, task.state)
        if self.done:
            state = checkpoints.restore(self.done, state)
            LOG.info("train: goes on at step %d of %d", self.done, recipe.steps)
        self._number, self._count = parallel.process()
        self._state = parallel.replicate(state)
        self._rows = [row for row in read_curves(folder.path / CURVES) if row["step"] <= self.done]
        self._recent: list[Any] = []
        self._signals: deque[Any] = deque(maxlen=IN_HAND + 1)
        self._signal = 0
        self._start = time.monotonic() - (self._rows[-1]["seconds"] if self._rows else 0.0)

        def one(state: Any, batch: Batch, number: Int[Array, ""], signal: Int[Array, ""]) -> tuple[Any, Any, Any]:
            key = jax.random.fold_in(jax.random.key(recipe.seed), number)
            state, losses = task.step(state, batch, Keys(key, jax.random.fold_in(key, parallel.device_index())))
            return state, losses, parallel.largest(signal)

        self._step = parallel.over_devices(one, precision=PRECISION, donate=True, everywhere=True)

    def agreed(self, signal: int) -> int:
        """The signal that ends the training before the next step, 0 for none: in all processes the same, though it came to one of them.

        It travels with the next step to all processes, and is read when the step after that is on its way, so that no device waits for it.
        """
        if self._count == 1:
            return signal
        self._signal = signal
        known = len(self._signals) > IN_HAND
        return int(parallel.first_of(self._signals[0])) if known else 0

    def step(self, batch: LabelledImages) -> Mapping[str, float]:
        """One step; the means since the last line of the log, when a line is due."""
        count = parallel.device_count()
        halves = Batch(*(None if a is None else a.reshape(count, -1, *a.shape[1:]) for a in batch))
        number, signal = (np.full(count, value, np.int32) for value in (self.done, self._signal))
        self._state, losses, signals = self._step(self._state, *map(parallel.shard, (halves, number, signal)))
        if self._recent:
            jax.block_until_ready(self._recent[-1])  # one step is in hand at a time, and one waits behind it
        self._recent.append(losses)
        self._signals.append(signals)
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
        """Write the log, what could not be read, and a checkpoint of the last step; nothing that is not finite becomes a checkpoint.

        The log comes first: a killed process may leave lines behind the last checkpoint, which are passed over, but never lacks any.
        """
        if self._recent:
            self._logged()
        state = self._finite_state() if self.done > self._saved else None
        for found in parallel.gathered(json.dumps(self._unreadable.copy())):  # threads that read ahead may add to it
            self._unreadable |= json.loads(found)
        if self._number == 0:
            self._write_logs()
        if state is not None:
            self._checkpoints.save(self.done, state)
            self._saved = self.done

    def _finite_state(self) -> Any:
        state = self.state()
        if not all(np.isfinite(a).all() for a in jax.tree.leaves(state) if np.issubdtype(a.dtype, np.floating)):
            raise CaseJaxError(
                f"train: parameters are not finite after step {self.done}. The last checkpoint is of step {self._saved}; take a lower learning rate."
            )
        return state

    def _write_logs(self) -> None:
        if self._rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(self._rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            write_atomically(self._folder.path / CURVES, text.getvalue().encode())
        self._folder.write_unreadable(self._unreadable.copy())

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

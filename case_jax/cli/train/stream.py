"""`case-jax train stream`: its options, and what it does."""

import dataclasses

import jax.numpy as jnp
import optax

from case_jax._checks import require, require_number
from case_jax.cli.output import say
from case_jax.cli.processes import Processes
from case_jax.cli.train.data import DataArgs, ProcessesArgs
from case_jax.cli.train.running import finish, folder_outside, require_output_per_class, run_training
from case_jax.models import load_classifier, tap_classifier
from case_jax.models.trained_file import digest
from case_jax.stream import new_stream, save_stream, stream_task
from case_jax.stream.task import learnt
from case_jax.stream.trained import FILE


@dataclasses.dataclass(frozen=True)
class StreamRun:
    """Attention pooling for a classifier, which stays as it is (CA-Stream, arXiv 2404.14996)."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    final: bool = False
    """The token visits the last map alone, not the stage maps before it."""
    heads: int = 1
    """Of the attention."""
    rate: float = 1e-3
    """Learning rate (Adam)."""

    def check(self) -> None:
        """Raise for numbers that mean nothing."""
        require_number("rate", self.rate, above=0)
        require(self.heads >= 1, "heads", self.heads, "at least 1")


def train_stream(run: StreamRun, *, first: bool) -> None:
    """Train a stream for a classifier, and write it."""
    classifier = load_classifier(run.data.network, weights=run.data.weights)
    say(f"model: {classifier}")
    require_output_per_class(classifier)
    source = run.data.open(classifier)
    folder = folder_outside(run.data, "stream", run.data.network, source=source)
    facts, judge = classifier.preprocessing, digest(classifier.module)
    model = tap_classifier(classifier, jnp.zeros(facts.shape))
    stream = new_stream(model, final=run.final, heads=run.heads, seed=run.data.seed)
    task = stream_task(model, stream, mean=facts.mean, std=facts.std, optimiser=optax.adam(run.rate))
    folder.require_writable()
    made = {"final": run.final, "heads": run.heads, "rate": run.rate, "classifier_digest": judge}
    state = run_training(task, run.data, source, folder, run.data.chosen(source), {"stream": made})
    if not first:
        return
    save_stream(folder.path / FILE, learnt(stream, state), classifier=judge)
    asked = run.data.again + (f" --weights {run.data.weights}" if run.data.weights else "")
    finish(
        folder, FILE, f"case-jax evaluate --stream {folder.path} --methods stream:{folder.path} grad_cam case{asked}"
    )

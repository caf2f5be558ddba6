"""`case-jax train infiller`: its options, and what it does."""

import dataclasses

from flax import nnx

from case_jax._checks import require, require_number
from case_jax.cli.processes import Processes
from case_jax.cli.train.data import DataArgs, ProcessesArgs
from case_jax.cli.train.running import finish, folder_outside, run_training
from case_jax.masking.infill import InfillNet, infill_task
from case_jax.models import load_classifier, save_weights
from case_jax.training import Network

INFILLER = "infiller.safetensors"


@dataclasses.dataclass(frozen=True)
class InfillerRun:
    """A convolutional network that fills holes of images."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    rate: float = 1e-3
    """Learning rate (Adam)."""

    def check(self) -> None:
        """Raise for numbers that mean nothing."""
        require_number("rate", self.rate, above=0)


def train_infiller(run: InfillerRun, *, first: bool) -> None:
    """Train a network that fills holes, and write its weights."""
    classifier = load_classifier(run.data.network, weights=run.data.weights)
    source = run.data.open(classifier)
    accepted = "a classifier of images of three channels; what is hidden of sounds needs no training: train masker --infill none, blur, mean or noise"
    require(len(classifier.preprocessing.mean) == 3, "data", f"{source.name}, of one channel", accepted)
    folder = folder_outside(run.data, "infiller", source=source)
    folder.require_writable()
    facts = classifier.preprocessing
    net = InfillNet(rngs=nnx.Rngs(run.data.seed))
    task = infill_task(net, mean=facts.mean, std=facts.std, rate=run.rate)
    made = {"infiller": {"rate": run.rate, "pixels": facts._asdict()}}
    state = run_training(task, run.data, source, folder, run.data.chosen(source), made)
    if not first:
        return
    save_weights(folder.path / INFILLER, Network(net).module(state[0]))
    finish(folder, INFILLER, f"case-jax train masker --infill {folder.path}")

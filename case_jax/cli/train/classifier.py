"""`case-jax train classifier`: its options, and what it does."""

import dataclasses
from typing import Any

from flax import nnx

from case_jax._checks import require, require_number
from case_jax.cli.output import say
from case_jax.cli.processes import Processes
from case_jax.cli.train.data import DataArgs, ProcessesArgs
from case_jax.cli.train.running import finish, folder_outside, require_output_per_class, run_training, save_classifier
from case_jax.masking.trained import CLASSIFIER
from case_jax.models import load_classifier, with_new_head
from case_jax.models.trained_file import digest
from case_jax.training import Network
from case_jax.training.classifier import adamw, classifier_task


@dataclasses.dataclass(frozen=True)
class ClassifierRun:
    """A bundled network on labelled images."""

    data: DataArgs
    processes: ProcessesArgs = dataclasses.field(default_factory=Processes)
    """Several processes that share every batch; --out must be a folder that all of them see."""
    fresh: bool = False
    """Start from random parameters instead of the weights."""
    new_head: bool = False
    """Put a fresh last layer in place of the classifier's, for the classes of the data."""
    shuffled_labels: bool = False
    """Give every image a random class, always the same one: for the sanity check of data randomisation."""
    rate: float = 4e-3
    """Highest learning rate (AdamW)."""
    weight_decay: float = 1e-3
    """Of AdamW."""

    def check(self) -> None:
        """Raise for numbers that mean nothing."""
        require_number("rate", self.rate, above=0)
        require_number("weight_decay", self.weight_decay, least=0)


def train_classifier(run: ClassifierRun, *, first: bool) -> None:
    """Train a bundled network on labelled images, and write its weights."""
    classifier = load_classifier(run.data.network, weights=run.data.weights)
    source = run.data.open(classifier, own_classes=run.new_head)
    if run.new_head:
        given, wanted = source.class_names or (), "labelled images, in a sub-folder for each class, of at least 2"
        require(len(given) >= 2, "data", f"{source.name} of {len(given)} classes", wanted)
        assert source.class_names is not None
        classifier = with_new_head(classifier, source.class_names, seed=run.data.seed)
    say(f"model: {classifier}")
    require_output_per_class(classifier)
    module: Any = classifier.module
    if run.fresh:
        module = classifier.entry.build(len(classifier.class_names), rngs=nnx.Rngs(run.data.seed))
    folder = folder_outside(run.data, "classifier", run.data.network, source=source)
    folder.require_writable()
    facts, steps = classifier.preprocessing, run.data.recipe(source).steps
    optimiser = adamw(steps, rate=run.rate, weight_decay=run.weight_decay)
    task = classifier_task(module, mean=facts.mean, std=facts.std, optimiser=optimiser)
    made = {"rate": run.rate, "weight_decay": run.weight_decay, "shuffled_labels": run.shuffled_labels}
    made |= {"fresh": run.fresh, "new_head": run.new_head, "start": None if run.fresh else digest(classifier.module)}
    indices = run.data.chosen(source)
    state = run_training(
        task, run.data, source, folder, indices, {"classifier": made}, shuffled_labels=run.shuffled_labels
    )
    if not first:
        return
    save_classifier(folder.path / CLASSIFIER, Network(module).module(state.classifier), classifier)
    finish(folder, CLASSIFIER, f"case-jax evaluate{run.data.again} --weights {folder.path / CLASSIFIER}")

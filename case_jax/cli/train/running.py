"""What every training command does: its folder, the loop, the files, the last words."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from case_jax._checks import require
from case_jax.cli.output import run_folder, say
from case_jax.cli.train.data import Data
from case_jax.data import require_outside
from case_jax.evaluation.folders import session
from case_jax.models import Classifier, save_weights
from case_jax.results import RunFolder
from case_jax.source import Source
from case_jax.training import Examples, Task, train

UNREADABLE_SHOWN = 10


def require_output_per_class(classifier: Classifier) -> None:
    """Raise for a classifier of one output."""
    accepted = "a classifier with an output for each class: training takes the softmax over them"
    require(classifier.outputs >= 2, "weights", "a network of one output", accepted)


def folder_outside(data: Data, *names: str, source: Source) -> RunFolder:
    """The run folder, which does not lie among the images."""
    folder = run_folder(data.out, *names)
    require_outside(folder.path, source)
    return folder


def run_training(
    task: Task,
    data: Data,
    source: Source,
    folder: RunFolder,
    indices: np.ndarray,
    made: dict[str, Any],
    *,
    shuffled_labels: bool = False,
    clean: bool = False,
) -> Any:
    """Train as the options say, or go on where an earlier run stopped; the state at the end."""
    examples = Examples(
        source, indices, seed=data.seed, shuffled_labels=shuffled_labels, augment=data.augment, clean=clean
    )
    recipe = data.recipe(source)
    config = {
        **made,
        "model": {"name": data.network, "weights": data.weights},
        "data": {"name": source.name, "fingerprint": source.fingerprint, "images": len(examples)},
        "augment": data.augment,
    }
    say(
        f"train: {recipe.steps:,} steps of {recipe.batch} images, from {len(examples):,} of {source.name}, into {folder.path}"
    )
    with data.devices.mapped():
        return train(task, examples, recipe, folder, config=config, facts=session(), stall=data.devices.stall)


def save_classifier(file: Path, module: nnx.Module, classifier: Classifier) -> None:
    """Write weights with what it takes to use them."""
    facts = {"preprocessing": classifier.preprocessing._asdict(), "class_names": list(classifier.class_names)}
    save_weights(file, module, metadata=facts)


def finish(folder: RunFolder, file: str, command: str) -> None:
    """Say which images could not be read, write the report, and name the files and the next command."""
    from case_jax.report import write_report  # not before `--help`

    broken, images = folder.unreadable(), folder.config()["data"]["images"]
    if broken:
        print(f"Images that could not be read, others of their batches in their places: {len(broken):,} of {images:,}")
    for name, reason in list(broken.items())[:UNREADABLE_SHOWN]:
        print(f"  {name} ({reason})")
    page = write_report(folder.path)
    print((folder.path / "summary.md").read_text(), folder.path / file, f"Report: {page}", f"Next: {command}", sep="\n")

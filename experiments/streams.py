"""Streams trained on digit scenes for the small networks, and these networks with them."""

from pathlib import Path
from typing import NamedTuple

import optax

from case_jax.data import DigitScenes
from case_jax.evaluation.folders import session
from case_jax.models.trained_file import digest
from case_jax.results import RunFolder
from case_jax.stream import Stream, load_stream, new_stream, save_stream, stream_task, with_stream
from case_jax.stream.task import learnt
from case_jax.stream.trained import FILE
from case_jax.tap import TappedModel
from case_jax.training import Examples, Recipe, train
from experiments.networks import Subject

AVERAGE, STREAM, LAST = "average", "stream", "last map alone"
POOLINGS = (AVERAGE, STREAM, LAST)


class StreamTraining(NamedTuple):
    """How a stream is trained: Adam at one rate; the paper's 90 epochs of SGD are for ImageNet."""

    steps: int = 1500
    batch: int = 50
    scenes: int = 20_000
    rate: float = 1e-3


def pooled_by(pooling: str, subject: Subject, training: StreamTraining) -> TappedModel:
    """The network with this pooling, its stream trained now or read from where it was trained before."""
    model = subject.model()
    return model if pooling == AVERAGE else with_stream(model, trained_stream(pooling, subject, training))


def folder_of(pooling: str, subject: Subject) -> Path:
    """Where a stream is kept."""
    where = subject.where
    return where.kept / "streams" / f"{subject.name}-{where.seed}-{pooling.replace(' ', '-')}"


def trained_stream(pooling: str, subject: Subject, training: StreamTraining) -> Stream:
    """A stream for this network, from the folder where it was trained before, or trained there now; the same call resumes.

    Raises:
        CaseJaxError: when the folder holds another training.
    """
    model, seed, folder = subject.model(), subject.where.seed, folder_of(pooling, subject)
    judge, file, run = digest(subject.classifier.module), folder / FILE, RunFolder(folder)
    recipe = Recipe(training.steps, training.batch, seed, log_every=min(100, training.steps))
    config = {"stream": training._asdict(), "pooling": pooling, "classifier": judge}
    if not file.exists():
        fresh = new_stream(model, final=pooling == LAST, seed=seed)
        task = stream_task(model, fresh, **subject.pixels._asdict(), optimiser=optax.adam(training.rate))
        examples = Examples(DigitScenes("train", training.scenes), seed=seed)
        state = train(task, examples, recipe, run, config=config, facts=session(), progress=False)
        save_stream(file, learnt(fresh, state), classifier=judge)
    run.require_same({**config, "recipe": recipe._asdict()})
    return load_stream(file).stream

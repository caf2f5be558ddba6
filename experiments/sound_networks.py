"""The classifiers of sounds that experiments ask, each with the scenes that it is asked about, and how tables and findings name them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from case_jax._checks import require
from case_jax.data import SoundScenes
from experiments.claim import percent
from experiments.kept import Table
from experiments.networks import Subject, Where
from experiments.train_sound_classifier import Config as Training
from experiments.train_sound_classifier import sound_network

CONFUSION_SCENES, QUICK_SCENES = 1000, 200


@dataclasses.dataclass(frozen=True)
class Sounds:
    """Which trainings of the classifier of sounds, and how many scenes."""

    seeds: int = 5
    """Trainings of the classifier; one in a quick run."""
    limit: int = 100
    """Test scenes; at most 40 of them in a quick run."""
    processes: int = 2
    """Trainings at a time."""
    runs: Path = Path("runs/experiments")
    """Networks and rows; the same command goes on."""
    quick: bool = False
    """A few sounds and steps of training, to prove that it runs."""

    def where(self, seed: int) -> Where:
        """The same for one training."""
        return Where(
            "sound_scenes:test", limit=self.limit, seed=seed, processes=self.processes, runs=self.runs, quick=self.quick
        )

    def subject(self, seed: int) -> Subject:
        """The classifier of a seed, trained now or before, with test scenes, and others to count confusions on."""
        where = self.where(seed)
        training = Training(folder=where.kept / "networks" / "sound", seed=seed)
        if self.quick:
            training = dataclasses.replace(training, steps=40, scenes=200)
        confusions = SoundScenes("confusion", QUICK_SCENES if self.quick else CONFUSION_SCENES)
        return Subject(f"sound-{seed}", sound_network(training), SoundScenes("test", where.images), confusions, where)

    def subjects(self) -> Iterator[Subject]:
        """The classifiers of all seeds.

        Raises:
            CaseJaxError: for numbers below 1.
        """
        for name in ("seeds", "limit", "processes"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for seed in range(1 if self.quick else self.seeds):
            yield self.subject(seed)


def trainings(networks: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Where a finding holds: `on 100 sound scenes, 5 trainings of sound_cnn (right on 100%, …)`."""
    right = ", ".join(percent(accuracy) for accuracy in networks["accuracy"])
    return f"on {rows['image_id'].nunique()} sound scenes, {len(networks)} trainings of sound_cnn (right on {right})"


def about(networks: pd.DataFrame) -> Table:
    """The networks, and how often they are right."""
    return Table("The networks", networks, networks.assign(accuracy=networks["accuracy"].map(percent)))


def over_trainings(means: pd.DataFrame, columns: Mapping[str, tuple[str, Callable[[float], str]]]) -> pd.DataFrame:
    """Means over trainings [smallest, largest] by method, of columns with their titles and how their numbers are written."""
    by = means.groupby("method", sort=False, observed=True)

    def cell(values: pd.Series, words: Callable[[float], str]) -> str:
        return "–" if values.isna().all() else f"{words(values.mean())} [{words(values.min())}, {words(values.max())}]"

    found = {title: by[column].agg(partial(cell, words=words)) for column, (title, words) in columns.items()}
    return pd.DataFrame(found).reset_index()

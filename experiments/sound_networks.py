"""The classifiers of sounds that experiments ask, each with the scenes that it is asked about."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from case_jax._checks import require
from case_jax.data import SoundScenes
from experiments.networks import Subject, Where
from experiments.train_sound_classifier import Config as Training
from experiments.train_sound_classifier import sound_network

SOUND_DATA = "sound_scenes:test"
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

    def check(self) -> None:
        """Raise for numbers that make no sense."""
        for name in ("seeds", "limit", "processes"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")

    def where(self, seed: int) -> Where:
        """The same for one training."""
        return Where(
            SOUND_DATA, limit=self.limit, seed=seed, processes=self.processes, runs=self.runs, quick=self.quick
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
        """The classifiers of all seeds."""
        for seed in range(1 if self.quick else self.seeds):
            yield self.subject(seed)

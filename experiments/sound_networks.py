"""The classifiers of sounds that experiments ask, each with the scenes that it is asked about."""

import dataclasses
from collections.abc import Iterator

from case_jax.data import SoundScenes
from experiments.networks import QUICK_IMAGES, Subject, Where
from experiments.train_sound_classifier import Config as Training
from experiments.train_sound_classifier import sound_network

CONFUSION_SCENES = 1000


def sound_subject(seed: int, where: Where) -> Subject:
    """The classifier of a seed, trained now or before, with test scenes, and others to count confusions on."""
    training = Training(folder=where.kept / "networks" / "sound", seed=seed)
    if where.quick:
        training = dataclasses.replace(training, steps=40, scenes=200)
    confusions = SoundScenes("confusion", QUICK_IMAGES if where.quick else CONFUSION_SCENES)
    asked = dataclasses.replace(where, data="sound_scenes:test", seed=seed)
    return Subject(f"sound-{seed}", sound_network(training), SoundScenes("test", where.images), confusions, asked)


def sound_subjects(seeds: int, where: Where) -> Iterator[Subject]:
    """The classifiers of the first seeds; one in a quick run."""
    for seed in range(1 if where.quick else seeds):
        yield sound_subject(seed, where)

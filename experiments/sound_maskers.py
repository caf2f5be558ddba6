"""Maskers trained on sound scenes for the classifiers of sounds: L-MAC as it is, told a class, contrastive, and after its second stage."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from case_jax.data import SoundScenes
from case_jax.evaluation.folders import session
from case_jax.masking import Ingredients, TrainedMasker, load_masker, masker_task, networks, save_masker
from case_jax.masking.ingredients import LMAC, LMAC_CONTRASTIVE, described
from case_jax.masking.networks import Networks
from case_jax.masking.trained import FILE, learning
from case_jax.models.trained_file import digest
from case_jax.results import RunFolder
from case_jax.training import Examples, Network, Recipe, train
from experiments.families import in_processes
from experiments.networks import Subject
from experiments.sound_networks import Sounds

PLAIN, TOLD, CONTRASTIVE, GUIDED = "L-MAC", "L-MAC told a class", "contrastive L-MAC", "L-MAC, fine-tuned"
MADE_OF: dict[str, Ingredients] = {
    PLAIN: LMAC,
    TOLD: LMAC._replace(class_conditional=True, targets="two"),
    CONTRASTIVE: LMAC_CONTRASTIVE,
    GUIDED: LMAC._replace(guidance=4.0),
}
"""By name; the last goes on from the first."""


class MaskerTraining(NamedTuple):
    """How a masker is trained: Adam, its rate a tenth after two thirds of the steps; the paper has 200 epochs of ESC-50."""

    steps: int = 1000
    batch: int = 16
    scenes: int = 4000
    guided: int = 200
    """Steps of the second stage."""


QUICK_TRAINING = MaskerTraining(steps=4, batch=4, scenes=50, guided=2)


def folder_of(kind: str, subject: Subject) -> Path:
    """Where a masker is kept."""
    return subject.where.kept / "maskers" / f"{subject.name}-{kind.replace(',', '').replace(' ', '-')}"


def trained_sound_masker(kind: str, subject: Subject, training: MaskerTraining) -> TrainedMasker:
    """A masker for this classifier, from the folder where it was trained before, or trained there now; the same call resumes.

    Raises:
        CaseJaxError: when the folder holds another training.
    """
    folder, made_of, judge = folder_of(kind, subject), MADE_OF[kind], digest(subject.classifier.module)
    steps, seed = training.guided if made_of.guidance else training.steps, subject.where.seed
    made_of = made_of._replace(decay_every=max(1, 2 * steps // 3))
    recipe = Recipe(steps, training.batch, seed, log_every=min(50, steps))
    config = {"masker": described(made_of), "scenes": training.scenes, "classifier": judge}
    start = trained_sound_masker(PLAIN, subject, training) if made_of.guidance else None
    config |= {} if start is None else {"start": start.digest}
    run, file = RunFolder(folder), folder / FILE
    if not file.exists():
        nets = fresh(subject, made_of, start)
        task = masker_task(nets, made_of, **subject.pixels._asdict())
        examples = Examples(SoundScenes("train", training.scenes), seed=seed, clean=start is not None)
        state = train(task, examples, recipe, run, config=config, facts=session(), progress=False)
        found = nets.masker.module(state.masker)
        save_masker(file, found, gumbel=False, classifier=judge, words=kind)  # type: ignore[arg-type]
    run.require_same({**config, "recipe": recipe._asdict()})
    return load_masker(folder)


def fresh(subject: Subject, made_of: Ingredients, start: TrainedMasker | None) -> Networks:
    """The classifier and a masker for it, new or as it was trained before."""
    classes, classifier = len(subject.classifier.class_names), subject.classifier
    nets = networks(
        classifier.module,
        classifier.entry.taps.stages,
        made_of,
        classifier.preprocessing.shape,
        num_classes=classes,
        seed=subject.where.seed,
    )
    return nets if start is None else nets._replace(masker=Network(learning(start.masker)))


def sound_maskers(subject: Subject, training: MaskerTraining) -> dict[str, TrainedMasker]:
    """All maskers of this classifier."""
    return {kind: trained_sound_masker(kind, subject, training) for kind in MADE_OF}


def train_sound_masker(kind: str, seed: int, sounds: Sounds, training: MaskerTraining) -> None:
    """As `trained_sound_masker`, for another process: what was trained stays in the folder."""
    trained_sound_masker(kind, sounds.subject(seed), training)


def maskers_beforehand(subjects: Sequence[Subject], sounds: Sounds, training: MaskerTraining) -> None:
    """Train what these networks lack, several at a time: first what starts anew, then what goes on from it."""
    for kinds in ((PLAIN, TOLD, CONTRASTIVE), (GUIDED,)):
        missing = [
            partial(train_sound_masker, kind, subject.where.seed, sounds, training)
            for kind in kinds
            for subject in subjects
            if not (folder_of(kind, subject) / FILE).exists()
        ]
        in_processes(missing, sounds.processes)

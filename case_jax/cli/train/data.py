"""What is trained on, and for how long: the options that all trainings share."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from case_jax._checks import require, require_seed
from case_jax.cli.devices import Devices
from case_jax.cli.processes import Processes
from case_jax.cli.setup import AUTO, usual_model
from case_jax.evaluation.batches import select
from case_jax.models import Classifier, open_for
from case_jax.source import Source
from case_jax.training import Recipe

SCENES, SCENE_DATA = 20_000, ("digit_scenes", "sound_scenes")

OTHER_DATA = "OTHER_DATA"
"""In a command that comes next: images or sounds that were not trained on, of which nobody knows the name."""

DevicesArgs = Annotated[Devices, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained on, and for how long."""

    model: str = AUTO
    """A name from `case-jax list models`; auto takes sound_cnn for sound scenes, else digit_resnet."""
    weights: str | None = None
    """As in `case-jax evaluate`."""
    data: str = "digit_scenes:train"
    """Labelled images, as in `case-jax evaluate`; of scenes without a split those of train."""
    limit: int | None = None
    """Number of images, drawn by the seed; all of a folder, and 20,000 scenes, by default."""
    out: Path | None = None
    """Run folder; by default one below runs/."""
    epochs: int = 60
    """The paper's masker: 60."""
    share: float = 0.2
    """Share of the images that an epoch has; the paper: 0.2."""
    batch: int = 72
    """Images of a step, over all devices of all processes."""
    seed: int = 0
    """Of initial parameters, order and noise."""
    save_every: int = 500
    """Steps between checkpoints, which a killed run loses at most."""
    augment: bool = False
    """Random crops of whole images, and mirror images, for photographs."""
    devices: DevicesArgs = dataclasses.field(default_factory=Devices)

    def check(self) -> None:
        """Raise for numbers that mean nothing, before anything is loaded."""
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "a number of images of at least 1")
        require_seed(self.seed)
        self.devices.check()
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch >= 1, "batch", self.batch, "a multiple of the number of devices, of at least 1")
        require(self.save_every >= 1, "save_every", self.save_every, "a number of steps of at least 1")
        require(0 < self.share <= 1, "share", self.share, "a share of the images above 0 and at most 1")

    @property
    def network(self) -> str:
        """The model's name."""
        return usual_model(self.data) if self.model == AUTO else self.model

    @property
    def again(self) -> str:
        """What names data like these and this model in another command, nothing where they are its defaults."""
        kind = self.data.partition(":")[0]
        data = {"digit_scenes": "", "sound_scenes": " --data sound_scenes"}.get(kind, f" --data {OTHER_DATA}")
        return data if self.network == usual_model(self.data) else f"{data} --model {self.network}"

    def open(self, classifier: Classifier, *, own_classes: bool = False) -> Source:
        """The images, as the classifier sees them; of its classes, unless the data may have their own."""
        facts = classifier.preprocessing
        names = None if own_classes else classifier.class_names
        data = f"{self.data}:train" if self.data in SCENE_DATA else self.data
        source = open_for(data, names, facts, size=self.limit or SCENES, seed=self.seed)
        given, known = len(source.class_names or ()), len(classifier.class_names)
        accepted = f"the classifier's {known} (`train classifier --new-head` makes a classifier of the data's classes)"
        require(own_classes or given in (0, known), "data", f"{source.name} of {given} classes", accepted)
        return source

    def chosen(self, source: Source) -> np.ndarray:
        """Which images are trained on."""
        return select(source, self.limit, self.seed)

    def epoch_steps(self, source: Source) -> int:
        """Steps of an epoch: its share of the chosen images, also where few of each class are taken of them."""
        return max(1, round(self.share * len(self.chosen(source)) / self.batch))

    def recipe(self, source: Source) -> Recipe:
        """How long."""
        return Recipe(self.epochs * self.epoch_steps(source), self.batch, self.seed, save_every=self.save_every)


DataArgs = Annotated[Data, tyro.conf.arg(name="")]
ProcessesArgs = Annotated[Processes, tyro.conf.arg(name="")]

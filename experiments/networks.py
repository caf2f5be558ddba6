"""Which networks an experiment asks, about which images."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from case_jax._checks import require, require_seed, unknown
from case_jax.contrast.choice import ContrastChoice, choose_contrast
from case_jax.data import DigitScenes, open_source
from case_jax.data.digit_scenes import CLASS_NAMES
from case_jax.evaluation import Evaluate, Pixels, count_confusions, prepare, run
from case_jax.evaluation import Subject as Studied
from case_jax.methods import METHODS, MapFunction
from case_jax.metrics import Metric
from case_jax.models import Classifier, load_classifier, open_for, tap_classifier
from case_jax.results import RunFolder
from case_jax.source import Source
from case_jax.tap import TappedModel
from experiments.families import CONVOLUTIONAL, FAMILIES, SHIPPED, small_network, trained_beforehand, training_of

LARGE = ("resnet50", "vgg19_bn", "densenet201", "convnext_large")
"""The CASE paper's."""
QUICK_IMAGES, CONFUSION_SCENES = 40, 2000


@dataclasses.dataclass(frozen=True)
class Where:
    """Which networks and images; the four families at small width and digit scenes by default."""

    data: str = "digit_scenes:test"
    """Or folder:PATH, tfds:imagenet2012:validation, tfds:cifar100:test, with networks that know these classes."""
    networks: tuple[str, ...] = ()
    """Names of small networks (ResNet, VGG, DenseNet, ConvNeXt, ViT, Swin, digit_resnet), or, with other data, of `case-jax list models`."""
    weights: tuple[str, ...] = ()
    """Of the networks, in their order; default weights by default."""
    contrast_data: str | None = None
    """Labelled images on which confusions are counted, 5,000 of them at most, with other data; without, the likeliest other classes are the
    contrast."""
    limit: int = 300
    """Images; at most 40 of them in a quick run."""
    seed: int = 0
    """Of the small networks and of the drawing of images."""
    processes: int = 2
    """Small networks trained at a time."""
    runs: Path = Path("runs/experiments")
    """Networks and rows; the same command goes on."""
    quick: bool = False
    """A few images and steps of training, to prove that it runs."""

    @property
    def offline(self) -> bool:
        """Whether the images are digit scenes."""
        return self.data.startswith("digit_scenes")

    @property
    def images(self) -> int:
        """How many are evaluated."""
        return min(self.limit, QUICK_IMAGES) if self.quick else self.limit

    @property
    def kept(self) -> Path:
        """Where networks and rows of this size are kept."""
        return self.runs / "quick" if self.quick else self.runs


class Subject(NamedTuple):
    """A network and the images that it is asked about."""

    name: str
    classifier: Classifier
    source: Source
    confusions: Source | None
    where: Where

    @property
    def pixels(self) -> Pixels:
        """How pixels are normalised."""
        facts = self.classifier.preprocessing
        return Pixels(facts.mean, facts.std)

    @property
    def layers(self) -> dict[str, str]:
        """The last map of the convolutional part, and the raw convolution that the CASE paper taps."""
        last, raw, *_ = self.classifier.entry.taps.layers
        return {"last map": last, "raw convolution": raw}

    def model(self, layer: str | None = None) -> TappedModel:
        """The network, tapped."""
        return tap_classifier(self.classifier, jnp.zeros(self.classifier.preprocessing.shape), layer=layer)

    def contrast(self, name: str, model: TappedModel) -> ContrastChoice:
        """Contrast sets by name; the likeliest classes instead of the confused ones where nothing is there to count confusions on."""
        if name.startswith("confusion") and self.confusions is None:
            name = name.replace("confusion", "topk_logits")
        return choose_contrast(
            name,
            model.num_classes,
            confusions=lambda: count_confusions(
                self.confusions,  # type: ignore[arg-type]
                model,
                self.pixels,
                folder=self.where.kept,
                model_name=self.name,
                progress=False,
            ),
        )

    def studied(self, methods: Mapping[str, MapFunction], contrast: str, *, layer: str | None = None) -> Studied:
        """What the library examines: this network's images, with these methods and contrast sets."""
        model = self.model(layer)
        return Studied(
            self.source,
            model,
            lambda: self.contrast(contrast, model),
            self.pixels,
            methods,
            seed=self.where.seed,
            model_name=self.name,
        )

    def rows(
        self,
        name: str,
        methods: Mapping[str, MapFunction],
        *,
        contrast: str = "confusion:10",
        metrics: Sequence[str] | Mapping[str, Metric] = ("sensitivity", "fidelity", "evidence"),
        layer: str | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """One row per image and method, computed now or read from the folder `name` below the run folders; says how many images could not be read."""
        size = min(limit or self.where.images, len(self.source))
        study, studied = Evaluate(metrics, options or {}), self.studied(methods, contrast, layer=layer)
        job = prepare(study, studied, limit=size, tile=20, part=100)
        folder = RunFolder(self.where.kept / name / self.name)
        found = run(job, folder, progress=False)
        if excluded := found.excluded():
            first, count = excluded[0], len(excluded)
            print(
                f"{self.name}: {count} of {size} images could not be read and enter no number, "
                f"the first {first['name']} ({first['reason']}); all of them: case-jax report {folder.path}",
                file=sys.stderr,
            )
        return found.rows().assign(network=self.name)


def only(where: Where) -> Subject:
    """The one network of an experiment that asks one.

    Raises:
        CaseJaxError: for several; otherwise as `subjects`.
    """
    require(len(where.networks) == 1, "networks", " ".join(where.networks) or "none", "one network")
    return next(subjects(where))


def weights_of(where: Where, names: Sequence[str]) -> Sequence[str | None]:
    """The weights of each network; None where its default is meant.

    Raises:
        CaseJaxError: when their numbers differ.
    """
    given = f"{len(where.weights)} for {len(names)} networks"
    require(len(where.weights) in (0, len(names)), "weights", given, "one for each network, or none")
    return where.weights or (None,) * len(names)


def subjects(where: Where, *, small: Sequence[str] = (*CONVOLUTIONAL, SHIPPED)) -> Iterator[Subject]:
    """The networks with their images, small ones trained where that has not been done.

    Args:
        where: the user's choice.
        small: the small networks that are taken when none are named.

    Raises:
        CaseJaxError: for networks, weights, data or numbers that do not exist or fit.
    """
    require(where.limit >= 1, "limit", where.limit, "a number of images of at least 1")
    require(where.processes >= 1, "processes", where.processes, "at least 1")
    require_seed(where.seed)
    twice = [name for name in where.networks if where.networks.count(name) > 1]
    require(not twice, "networks", " ".join(where.networks), "each once")
    if where.offline:
        names = where.networks or ((small[0], small[-1]) if where.quick else tuple(small))
        for name in names:
            if name not in FAMILIES:
                raise unknown("networks", name, FAMILIES)
        unused = {"weights": where.weights, "contrast_data": where.contrast_data}
        given = [name for name, value in unused.items() if value]
        require(not given, ", ".join(given), "a value", "none with digit scenes, whose networks are trained here")
        source = open_source(where.data, CLASS_NAMES, resize=48, crop=48, size=where.images)
        fresh = [(name, where.seed) for name in names if name != SHIPPED]
        folders = trained_beforehand(fresh, where.kept / "networks", quick=where.quick, processes=where.processes)
        for name in names:
            if name == SHIPPED:
                network = load_classifier()
            else:
                training = training_of(name, quick=where.quick)
                network = small_network(name, where.seed, folders[name, where.seed], training=training)
            scenes = CONFUSION_SCENES if not where.quick else 200
            yield Subject(name, network, source, DigitScenes("confusion", scenes), where)
        return
    names = where.networks or LARGE
    for name, file in zip(names, weights_of(where, names), strict=True):
        network = load_classifier(name, weights=file)
        facts = network.preprocessing
        source = open_for(where.data, network.class_names, facts)
        contrasted = open_for(where.contrast_data, network.class_names, facts) if where.contrast_data else None
        yield Subject(name, network, source, contrasted, where)


def asked(view: Any, query: Any, *, method: str, k: int) -> Any:
    """A contrastive method with the first k classes of each contrast set, the nearest ones."""
    return METHODS[method].maps(view, query._replace(contrast=query.contrast[:, :k], members=None))


def asked_by_name(names: Sequence[str]) -> dict[str, MapFunction]:
    """Methods as they are."""
    return {name: METHODS[name].maps for name in names}


def correct(rows: pd.DataFrame) -> float:
    """Share of labelled images that the classifier gets right."""
    images = rows.drop_duplicates("image_id")
    images = images[images["label"] >= 0]
    return float((images["label"] == images["top1"]).mean()) if len(images) else float(np.nan)

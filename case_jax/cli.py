"""The shell: `case-jax evaluate | explain | sweep | report | list`."""

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tabulate import tabulate

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.choice import CONTRASTS, Confusions, ContrastChoice, choose_contrast
from case_jax.data import DATASETS, open_source
from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.explain import explain_image, read_examples
from case_jax.evaluation.gallery import save_gallery
from case_jax.evaluation.run import PART, TILE, plan
from case_jax.evaluation.run import evaluate as run_evaluation
from case_jax.evaluation.step import Pixels
from case_jax.evaluation.sweep import confused_pairs
from case_jax.evaluation.sweep import sweep as run_sweep
from case_jax.methods import METHODS, MapFunction, method
from case_jax.metrics import METRICS, PERCENTS
from case_jax.models import MODELS, Classifier, load_classifier, tap_classifier
from case_jax.results import RunFolder, require_writable
from case_jax.source import Source
from case_jax.tap import TappedModel

CONFUSION_IMAGES = 5000


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


ModelArgs = Annotated[Model, tyro.conf.arg(name="")]
Names = tuple[str, ...]


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
            data, entry.class_names, resize=entry.preprocessing.resize, crop=entry.preprocessing.crop, size=limit, seed=seed
        )

    def contrast(self, *, data: str | None = None, seed: int) -> ContrastChoice:
        """The contrast sets; `data` is what will be evaluated, on which confusions must not be counted."""

        def confusions() -> Confusions:
            where = self.choice.contrast_data or self.classifier.entry.contrast_data
            if where == data:
                raise CaseJaxError(
                    f"contrast_data: {where!r} is the evaluation data; count confusions on another split, or use --contrast topk_logits:5."
                )
            counted = count_confusions(self.open(where, limit=CONFUSION_IMAGES, seed=0), self.model, self.pixels)
            right = counted.counts.trace() / counted.counts.sum()
            _say(f"contrast: {self.choice.contrast}, counted on {counted.source}, where the classifier is right in {right:.1%}")
            return counted

        return choose_contrast(self.choice.contrast, self.model.num_classes, confusions=confusions, seed=seed)

    def methods(self, names: Names) -> dict[str, MapFunction]:
        """Map functions by name, with this choice's options bound."""
        chosen = {name: method(name).maps for name in (names or METHODS)}
        if len(chosen) < len(names):
            raise CaseJaxError(f"methods: {' '.join(names)} names a method twice; name each once.")
        if self.choice.eps_relative and "case" in chosen:
            chosen["case"] = partial(chosen["case"], eps_relative=True)
        return chosen


def _ready(choice: Model) -> Ready:
    classifier = load_classifier(choice.model, weights=choice.weights)
    facts = classifier.entry.preprocessing
    model = tap_classifier(classifier, jnp.zeros((facts.crop, facts.crop, 3)), layer=choice.layer)
    return Ready(choice, classifier, model, Pixels(facts.mean, facts.std))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def evaluate(
    model: ModelArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    metrics: Names = (),
    limit: int | None = None,
    out: Path | None = None,
    agreement_percent: float = 5.0,
    fidelity_percents: tuple[float, ...] = PERCENTS,
    fill: str = "mean",
    tile: int = TILE,
    part: int = PART,
    seed: int = 0,
) -> None:
    """Run the class-sensitivity, fidelity and evidence tests and write a report.

    Killed anywhere, the same command resumes where it was.

    For example:

        case-jax evaluate

        case-jax evaluate --methods grad_cam case --contrast topk_logits:3 --limit 200 --out runs/try

        case-jax evaluate --data folder:photos --contrast topk_logits:5

    Args:
        model: classifier and contrast.
        data: `digit_scenes`, `digit_scenes:SPLIT` or `folder:PATH` (labels from sub-folders when there are any).
        methods: names from `case-jax list methods`; all by default.
        metrics: names from `case-jax list metrics`; all by default.
        limit: number of images, drawn once by the seed; all of a folder, and 1000 scenes, by default.
        out: run folder; one below runs/ by default.
        agreement_percent: k of the class-sensitivity diagnostic, percent of the pixels.
        fidelity_percents: how much the fidelity test removes, percent of the pixels; must hold 50.
        fill: what is put in place of removed pixels: mean, blur, noise or zero-pixel.
        tile: images per device and step.
        part: images per result file; what a killed run loses.
        seed: for drawing images and for random methods.
    """
    ready = _ready(model)
    source = ready.open(data, limit=limit, seed=seed)
    chosen = ready.methods(methods)
    folder = RunFolder(out or Path("runs") / f"{source.name.replace('/', '-').replace(':', '-')}-{model.model}")
    folder.require_writable()
    planned = plan(
        source,
        ready.model,
        ready.contrast(data=data, seed=seed),
        pixels=ready.pixels,
        methods=chosen,
        metrics=metrics or tuple(METRICS),
        agreement_percent=agreement_percent,
        fidelity_percents=fidelity_percents,
        fill=fill,
        limit=limit,
        seed=seed,
        tile=tile,
        part=part,
        model_name=model.model,
    )
    _say(f"evaluate: {len(planned.indices)} images of {source.name} × {len(chosen)} methods into {folder.path}")
    run_evaluation(planned, folder)
    save_gallery(planned, folder)
    report(folder.path)


def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the report of a finished or unfinished run folder again.

    For example:

        case-jax report runs/digit_scenes-test-digit_resnet

    Args:
        run: the run folder.
    """
    from case_jax.report import write_report  # matplotlib and statsmodels: a second that `--help` need not wait

    page = write_report(run)
    print((run / "summary.md").read_text())
    for entry in RunFolder(run).excluded():
        _say(f"could not be read: {entry['name']} ({entry['reason']})")
    print(f"Report: {page}")


def explain(
    images: Annotated[tuple[str, ...], tyro.conf.Positional],
    model: ModelArgs,
    methods: Names = (),
    top: int = 3,
    out: Path = Path(),
    seed: int = 0,
) -> None:
    """Draw a grid of top classes × methods for each image, as PNG.

    For example:

        case-jax explain photo.jpg --contrast topk_logits:5

        case-jax explain digit_scenes:7 --methods grad_cam case --top 2 --out figures

    Args:
        images: image files, or `digit_scenes:INDEX` for a scene of the embedded data.
        model: classifier and contrast.
        methods: names from `case-jax list methods`; all by default.
        top: how many of the likeliest classes.
        out: folder for the PNG files.
        seed: for random methods.
    """
    from case_jax.report.grid import draw_grid

    require(images, "images", "none", "image files, or digit_scenes:INDEX for a scene of the embedded data")
    ready = _ready(model)
    chosen = ready.methods(methods)
    facts = ready.classifier.entry.preprocessing
    examples = read_examples(images, resize=facts.resize, crop=facts.crop)
    require_writable(out)
    contrast = ready.contrast(seed=seed).sets
    titles = [METHODS[name].title for name in chosen]
    for example in examples:
        found = explain_image(example, ready.model, chosen, contrast=contrast, pixels=ready.pixels, top=top, seed=seed)
        print(draw_grid(found, titles, ready.classifier.entry.class_names, out / f"explain-{Path(example.name).stem}.png"))


def sweep(
    model: ModelArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    top: int | None = None,
    limit: int | None = None,
    out: Path = Path("runs/sweep"),
    agreement_percent: float = 5.0,
    tile: int = 16,
    seed: int = 0,
) -> None:
    """Mean agreement of the maps of every pair of classes: which classes does a method fail to tell apart?

    Writes `sweep.npz` (agreement and image counts, methods × classes × classes), `pairs.csv` and a heat map per method.

    For example:

        case-jax sweep --methods grad_cam case --limit 300

        case-jax sweep --top 2

    Args:
        model: classifier and contrast.
        data: as in `case-jax evaluate`.
        methods: names from `case-jax list methods`; all by default.
        top: pairs among this many likeliest classes of each image; all classes by default.
        limit: number of images, drawn once by the seed; 1000 scenes by default.
        out: folder to write to.
        agreement_percent: k, percent of the pixels.
        tile: images per device and step.
        seed: for drawing images and for random methods.
    """
    from case_jax.report.heat_map import draw_heat_maps

    ready = _ready(model)
    source = ready.open(data, limit=limit, seed=seed)
    chosen = ready.methods(methods)
    require_writable(out)
    found = run_sweep(
        source,
        ready.model,
        ready.contrast(data=data, seed=seed).sets,
        chosen,
        pixels=ready.pixels,
        top=top,
        agreement_percent=agreement_percent,
        limit=limit,
        seed=seed,
        tile=tile,
    )
    names = ready.classifier.entry.class_names
    arrays = {"agreement": found.agreement, "images": found.images}
    np.savez_compressed(out / "sweep.npz", methods=np.array(found.methods), classes=np.array(names), **arrays)
    pairs = confused_pairs(found, names)
    pairs.to_csv(out / "pairs.csv", index=False)
    files = draw_heat_maps([METHODS[name].title for name in chosen], found.agreement, names, out)
    print(pairs.groupby("method", sort=False).head(5).to_markdown(index=False, floatfmt=".3f"))
    left_out = {name: int(n) for name, n in zip(found.methods, found.degenerate, strict=True) if n}
    if left_out:
        print(f"Degenerate maps left out: {left_out}")
    for entry in found.excluded:
        print(f"Could not be read: {entry['name']} ({entry['reason']})")
    print("\n".join(str(f) for f in [out / "sweep.npz", out / "pairs.csv", *files]))


def list_(what: Annotated[Literal["methods", "models", "datasets", "metrics", "contrasts"], tyro.conf.Positional]) -> None:
    """List what can be chosen.

    For example:

        case-jax list methods

    Args:
        what: methods, models, datasets, metrics or contrasts.
    """
    if what == "methods":
        rows = [
            (name, m.title, "yes" if m.contrastive else "", "yes" if m.control else "", (m.maps.__doc__ or "").split("\n")[0])
            for name, m in METHODS.items()
        ]
        print(tabulate(rows, headers=("name", "title", "contrast sets", "control", "what it does")))
    elif what == "models":
        models = [(name, len(m.class_names), f"{m.preprocessing.crop}²", ", ".join(m.layers)) for name, m in MODELS.items()]
        print(tabulate(models, headers=("name", "classes", "input", "layers, default first")))
    else:
        listed = {"metrics": {n: m.question for n, m in METRICS.items()}, "datasets": DATASETS, "contrasts": CONTRASTS}[what]
        print(tabulate(list(listed.items()), headers=("name", "what it is")))


def _cache_compilations() -> None:
    """Keep compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR already says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "case_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def main() -> None:
    """Entry point of the console script."""
    commands = {"evaluate": evaluate, "explain": explain, "sweep": sweep, "report": report, "list": list_}
    try:
        _cache_compilations()
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="case-jax", description="Do saliency maps say something about this class, or only about the image?"
        )
    except CaseJaxError as error:
        print(f"case-jax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("case-jax: interrupted; the same command resumes.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

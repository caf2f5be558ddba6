"""The commands of the shell: one function each."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tabulate import tabulate

from case_jax._checks import require
from case_jax.cli.ready import Model, Names, make_ready, read_examples, say
from case_jax.contrast.choice import CONTRASTS
from case_jax.data import DATASETS, ImageFolder
from case_jax.evaluation.explain import explain_images
from case_jax.evaluation.gallery import save_gallery
from case_jax.evaluation.run import PART, TILE, plan
from case_jax.evaluation.run import evaluate as run_evaluation
from case_jax.methods import METHODS
from case_jax.metrics import METRICS, PERCENTS
from case_jax.models import MODELS
from case_jax.results import RunFolder, require_writable

WEIGHTS_AND_LAYERS = """
Weights: a repository of the Hugging Face hub is fetched once and then taken from its cache; --weights takes another one, or a file.
Layers: --layer takes any other path, too. Closed form: class weights of all classes at once; pulled back: a gradient for each class."""

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]


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
        data: `digit_scenes[:SPLIT]`, `folder:PATH` (labels from sub-folders when there are any) or `tfds:NAME:SPLIT`.
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        metrics: names from `case-jax list metrics`, or `all`; by default all but the slow ones.
        limit: number of images, drawn once by the seed; all of a folder, and 1000 scenes, by default.
        out: run folder; by default one below runs/, named after data, model and limit.
        agreement_percent: k of the class-sensitivity diagnostic, percent of the pixels.
        fidelity_percents: how much the fidelity test removes, percent of the pixels; must hold 50.
        fill: what is put in place of removed pixels: mean, blur, noise or zero-pixel.
        tile: images per device and step.
        part: images per result file; what a killed run loses.
        seed: for drawing images and for random methods.
    """
    chosen, scored = model.methods(methods, scored=True), model.metrics(metrics)
    ready = make_ready(model)
    source = ready.open(data, limit=limit, seed=seed)
    size = "" if limit is None else f"-{limit}"
    folder = RunFolder(out or Path("runs") / f"{source.name.replace('/', '-').replace(':', '-')}-{model.model}{size}")
    if isinstance(source, ImageFolder):
        inside = folder.path.resolve().is_relative_to(source.root.resolve())
        require(
            not inside,
            "out",
            f"{folder.path}, inside the data folder",
            "a folder elsewhere: the run's figures are images",
        )
    folder.require_writable()
    planned = plan(
        source,
        ready.model,
        ready.contrast(evaluated=source, seed=seed),
        pixels=ready.pixels,
        methods=chosen,
        metrics=tuple(scored),
        metric_options=scored,
        agreement_percent=agreement_percent,
        fidelity_percents=fidelity_percents,
        fill=fill,
        limit=limit,
        seed=seed,
        tile=tile,
        part=part,
        model_name=model.model,
    )
    say(f"evaluate: {len(planned.indices)} images of {source.name} × {len(chosen)} methods into {folder.path}")
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
        say(f"could not be read: {entry['name']} ({entry['reason']})")
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
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        top: how many of the likeliest classes.
        out: folder for the PNG files; files of the same name are replaced.
        seed: for random methods.
    """
    from case_jax.report.grid import draw_grid

    require(images, "images", "none", "image files, or digit_scenes:INDEX for a scene of the embedded data")
    chosen = model.methods(methods)
    ready = make_ready(model)
    examples = read_examples(images, ready.classifier.preprocessing)
    require_writable(out)
    contrast = ready.contrast(seed=seed).sets
    titles = [METHODS[name].title for name in chosen]
    written: set[Path] = set()
    for found in explain_images(
        examples, ready.model, chosen, contrast=contrast, pixels=ready.pixels, top=top, seed=seed
    ):
        stem = Path(found.example.name).stem
        names = (out / f"explain-{stem}{suffix}.png" for suffix in ("", *(f"-{n}" for n in range(2, len(images) + 1))))
        file = next(name for name in names if name not in written)  # two images of one name in two folders
        written.add(file)
        print(draw_grid(found, titles, ready.classifier.class_names, file))


def list_(
    what: Annotated[Literal["methods", "models", "datasets", "metrics", "contrasts"], tyro.conf.Positional],
) -> None:
    """List what can be chosen.

    For example:

        case-jax list methods

    Args:
        what: methods, models, datasets, metrics or contrasts.
    """
    if what == "methods":
        rows = [
            (
                name,
                m.title,
                "yes" if m.contrastive else "",
                "yes" if m.control else "",
                "yes" if m.slow else "",
                (m.maps.__doc__ or "").split("\n")[0],
            )
            for name, m in METHODS.items()
        ]
        print(tabulate(rows, headers=("name", "title", "contrast sets", "control", "slow", "what it does")))
    elif what == "models":
        models = [
            (
                name,
                m.num_classes,
                f"{m.default_preprocessing.crop}²",
                m.default_weights,
                "\n".join(f"{layer}  {what}" for layer, what in m.taps.layers.items()),
            )
            for name, m in MODELS.items()
        ]
        print(tabulate(models, headers=("name", "classes", "input", "default weights", "layers, default first")))
        print(WEIGHTS_AND_LAYERS)
    else:
        listed = {"metrics": {n: m.question for n, m in METRICS.items()}, "datasets": DATASETS, "contrasts": CONTRASTS}[
            what
        ]
        print(tabulate(list(listed.items()), headers=("name", "what it is")))

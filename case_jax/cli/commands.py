"""The commands of the shell: one function each."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tabulate import tabulate

from case_jax._checks import require
from case_jax.cli.ready import Model, Names, files_in, make_ready, read_examples, say
from case_jax.contrast.choice import CONTRASTS
from case_jax.data import DATASETS
from case_jax.evaluation.explain import explain_images
from case_jax.files import require_writable
from case_jax.methods import METHODS, titles_of
from case_jax.metrics import METRICS
from case_jax.models import MODELS
from case_jax.results import RunFolder

WEIGHTS_AND_LAYERS = """
Weights: a repository of the Hugging Face hub is fetched once and then taken from its cache; --weights takes another one, or a file.
Layers: --layer takes any other path, too. Closed form: class weights of all classes at once; pulled back: a gradient for each class."""

EXPLAINED = ("grad_cam", "layer_cam", "case", "finer_cam", "softmax_contrast")
"""What `explain` draws when no methods are named."""

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]


def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the report of a finished or unfinished run folder again.

    For example:

        case-jax report runs/digit_scenes-test-digit_resnet

    Args:
        run: the run folder.
    """
    from case_jax.report import write_report  # matplotlib: `--help` need not wait for it

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

    Confusions that the contrast needs are counted once, and kept beside compiled programs, in `~/.cache/case_jax`.

    Args:
        images: image files, folders of them, or `digit_scenes:INDEX` for a scene of the embedded data.
        model: classifier and contrast.
        methods: names from `case-jax list methods`, or `all`; by default five class activation maps, two without and three with contrast.
        top: how many of the likeliest classes.
        out: folder for the PNG files; files of the same name are replaced.
        seed: for random methods.
    """
    from case_jax.report.explanation import draw_grid

    require(images, "images", "none", "image files, or digit_scenes:INDEX for a scene of the embedded data")
    chosen = model.methods(methods or EXPLAINED)
    images = files_in(images)
    ready = make_ready(model, methods=chosen)
    examples = read_examples(images, ready.classifier.preprocessing)
    require_writable(out)
    titles = [*titles_of(chosen).values()]
    written: set[Path] = set()
    for found in explain_images(
        examples,
        ready.model,
        chosen,
        contrast=lambda: ready.contrast(None, seed=seed).sets,
        pixels=ready.pixels,
        top=top,
        seed=seed,
    ):
        stem = Path(found.example.name).stem
        names = (out / f"explain-{stem}{suffix}.png" for suffix in ("", *(f"-{n}" for n in range(2, len(images) + 1))))
        file = next(name for name in names if name not in written)  # two images of one name in two folders
        written.add(file)
        if not np.isfinite(found.probabilities).all():
            say(
                f"{found.example.name}: the classifier's logits are not finite, so that neither its classes nor its maps mean anything"
            )
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

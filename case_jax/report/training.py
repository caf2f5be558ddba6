"""The report of a training: its numbers at both ends, and their curves."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from case_jax._checks import CaseJaxError
from case_jax.files import write_atomically
from case_jax.report.figures import COLOURS, plain_style, rendered
from case_jax.report.formatting import counted, signed
from case_jax.report.loading import sessions_of
from case_jax.report.page import Drawing, rerun_facts, template
from case_jax.results import RunFolder

WHAT = {
    "masker": "masking model",
    "stream": "stream of attention pooling",
    "classifier": "classifier",
    "infiller": "hole-filling network",
}
AXES = ["step", "images", "seconds"]
COLUMNS = 3


def write_training_report(folder: RunFolder) -> Path:
    """Write `report.html`, `summary.md` and `figures/curves` into the run folder of a finished or unfinished training, each atomically.

    Args:
        folder: of `case-jax train`.

    Returns:
        The page.

    Raises:
        CaseJaxError: when no line of its log is there yet, or one of its files is missing or damaged.
    """
    config = folder.config()
    try:
        log, sessions = pd.read_csv(folder.path / "log.csv"), sessions_of(folder.path)
    except (OSError, ValueError) as error:
        raise CaseJaxError(
            f"run: {folder.path} cannot be read ({error}); run the same command again until it has logged its first steps."
        ) from error
    with plain_style():
        drawing = Drawing(
            "curves",
            "Curves",
            "Every number of the log over the images seen.",
            "A panel for each number, which the table above has at both ends",
            *rendered(curves_figure(log)),
        )
    (folder.path / "figures").mkdir(exist_ok=True)
    write_atomically(folder.path / "figures" / "curves.png", drawing.png)
    write_atomically(folder.path / "figures" / "curves.pdf", drawing.pdf)
    done, planned, sentence = int(log["step"].iloc[-1]), config["recipe"]["steps"], answer(config, log)
    heads, rows = ends(log)
    lines = [heads, ["---"] * len(heads), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    write_atomically(folder.path / "summary.md", f"{sentence}\n\n{table}\n".encode())
    page = template("training").render(
        title=f"{kind(config)} of {config['model']['name']} on {config['data']['name']}: training",
        sentence=sentence,
        warning=None if done >= planned else f"This training is unfinished: step {done:,} of {planned:,} so far.",
        heads=heads,
        rows=rows,
        drawings=[drawing],
        unreadable=[*folder.unreadable().items()],
        images=config["data"]["images"],
        rerun=rerun_facts(config, sessions),
    )
    write_atomically(folder.path / "report.html", page.encode())
    return folder.path / "report.html"


def kind(config: dict[str, Any]) -> str:
    """What was trained, in words."""
    return next(words for name, words in WHAT.items() if name in config)


def answer(config: dict[str, Any], log: pd.DataFrame) -> str:
    """What was trained on what, and where its loss began and ended."""
    last, data = log.iloc[-1], config["data"]
    first = "" if len(log) == 1 else f" (at first {signed(log['loss'].iloc[0], '.3g')})"
    return (
        f"A {kind(config)} for {config['model']['name']}, after {counted(int(last['step']), 'step')} of "
        f"{counted(config['recipe']['batch'], 'image')}, drawn from {counted(data['images'], 'image')} of {data['name']}: "
        f"loss {signed(last['loss'], '.3g')}{first}."
    )


def ends(log: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of all numbers in the first and the last line of a log."""
    lines = log.iloc[[0, -1]] if len(log) > 1 else log
    heads = ["", *(counted(int(step), "step") for step in lines["step"])]
    rows = [[name.replace("_", " "), *(signed(v, ".4g") for v in lines[name])] for name in numbers_of(log)]
    return heads, rows


def numbers_of(log: pd.DataFrame) -> list[str]:
    """The columns that are no axis."""
    return [str(name) for name in log.columns if name not in AXES]


def curves_figure(log: pd.DataFrame) -> Figure:
    """A panel for each number of a log."""
    names = numbers_of(log)
    height = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 1.9 * height), layout="constrained")
    axes = figure.subplots(height, COLUMNS, squeeze=False).ravel()
    marker = "o" if len(log) == 1 else ""
    for number, (axis, name) in enumerate(zip(axes, names, strict=False)):
        axis.plot(log["images"], log[name], color=COLOURS[number % len(COLOURS)], lw=1.2, marker=marker)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel("images")
    for axis in axes[len(names) :]:
        axis.remove()
    return figure

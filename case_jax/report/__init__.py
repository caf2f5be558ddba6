"""The report of a run: one self-contained page, tables as CSV and Markdown, figures as PNG and PDF (no JAX here)."""

from collections.abc import Callable
from pathlib import Path

from case_jax._checks import unknown
from case_jax.report import evaluate, grid_pointing, localise, pairs, sanity
from case_jax.report.loading import Run
from case_jax.report.page import Page, write_page
from case_jax.report.training import write_training_report
from case_jax.results import RunFolder

PAGES: dict[str, Callable[[Path], tuple[Run, Page]]] = {
    "evaluate": evaluate.page_of,
    "localise": localise.page_of,
    "sanity": sanity.page_of,
    "grid_pointing": grid_pointing.page_of,
    "pairs": pairs.page_of,
}
"""What reads the folder of which study."""


def write_report(run: str | Path) -> Path:
    """Write `report.html`, `summary.csv`, `summary.md` and `figures/` into a run folder, each file atomically.

    The folder of a training gets its page, too; it has no `summary.csv` beside its log. Equal rows give equal figures and tables; the page
    also names the sessions of the run, with their dates.

    Args:
        run: the folder of a finished or unfinished run.

    Returns:
        The page.

    Raises:
        CaseJaxError: when it is no run folder, of a study that is not known, has no rows yet, or one of its files is missing or damaged.
    """
    config = RunFolder(run).config()
    if "recipe" in config:
        return write_training_report(RunFolder(run))
    study = config.get("study", "none")
    if study not in PAGES:
        raise unknown("study", study, PAGES)
    return write_page(*PAGES[study](Path(run)))


__all__ = ["PAGES", "write_report"]

"""The report of a run: one self-contained page, tables as CSV and Markdown, figures as PNG and PDF (no JAX here)."""

import importlib
from pathlib import Path

from case_jax._checks import unknown

PAGES = ("evaluate", "localise", "sanity", "grid_pointing", "pairs")
"""The studies; `page_of` of the file of that name reads a study's folder. It is imported where it is used: a picture of one image needs no
statistics, which take a second."""


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
    from case_jax.results import RunFolder  # pandas, which a picture has no use for

    config = RunFolder(run).config()
    if "recipe" in config:
        from case_jax.report.training import write_training_report

        return write_training_report(RunFolder(run))
    study = config.get("study", "none")
    if study not in PAGES:
        raise unknown("study", study, PAGES)
    from case_jax.report.page import write_page

    return write_page(*importlib.import_module(f"case_jax.report.{study}").page_of(Path(run)))


__all__ = ["PAGES", "write_report"]

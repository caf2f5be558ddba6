"""The report of a run: one self-contained page, a table as CSV and Markdown, figures as PNG and PDF (no JAX here)."""

from pathlib import Path

from case_jax import stats
from case_jax.files import write_atomically
from case_jax.report.drawings import draw
from case_jax.report.loading import load_run, numbers_of
from case_jax.report.page import Tables, render
from case_jax.report.sentence import answer
from case_jax.report.tables import columns, main_table, markdown, measure_columns, rank_table
from case_jax.report.training import write_training_report
from case_jax.results import RunFolder


def write_report(run: str | Path) -> Path:
    """Write `report.html`, `summary.csv`, `summary.md` and `figures/` into the folder of an evaluation, each file atomically.

    The folder of a training gets its page, too; it has no `summary.csv` beside its log.

    Equal rows give equal figures and tables; the page also names the sessions of the run, with their dates.

    Args:
        run: the folder of a finished or unfinished run.

    Returns:
        The page.

    Raises:
        CaseJaxError: when it is no run folder, has no rows yet, or one of its files is missing or damaged.
    """
    if "recipe" in RunFolder(run).config():
        return write_training_report(RunFolder(run))
    folder, found = Path(run), load_run(run)
    summary = stats.summarise(found.rows, measures=[m for described in found.measures.values() for m in described])
    numbers = numbers_of(summary.table)
    percent = found.config["metrics"].get("sensitivity", {}).get("percent", 5.0)
    shown, further = columns(stats.THETAS, percent, stats.DROP_PERCENT), measure_columns(found.measures)
    table = main_table(numbers, found.methods, shown)
    criteria = {c.needs: c.better for c in [*shown, *further] if c.better and c.needs in summary.table}
    judged = [m.name for m in found.methods if not m.control and m.name in summary.table.index]
    ranks = stats.ranked(summary.table.loc[judged], criteria)
    tables = Tables(
        table,
        main_table(numbers, found.methods, further) if further else None,
        rank_table(ranks, [*shown, *further], found.methods) if criteria and len(judged) > 1 else None,
    )
    sentence = answer(
        numbers, found.methods, theta=stats.THETAS[0], percent_of_pixels=percent, removed=stats.DROP_PERCENT
    )
    drawings = draw(found, numbers)
    (folder / "figures").mkdir(exist_ok=True)
    for drawing in drawings:
        write_atomically(folder / "figures" / f"{drawing.name}.png", drawing.png)
        write_atomically(folder / "figures" / f"{drawing.name}.pdf", drawing.pdf)
    titled = summary.table.copy()
    titled.insert(0, "title", titled.index.map({method.name: method.title for method in found.methods}))
    titled.insert(1, "control", titled.index.map({method.name: method.control for method in found.methods}))
    titled["mean_rank"] = ranks["mean_rank"]
    write_atomically(folder / "summary.csv", titled.to_csv().encode())
    write_atomically(folder / "summary.md", "\n\n".join([sentence, *map(markdown, filter(None, tables))]).encode())
    page = folder / "report.html"
    write_atomically(page, render(found, summary, sentence=sentence, tables=tables, drawings=drawings).encode())
    return page


__all__ = ["write_report"]

"""Sections with a budget of time each: their jobs in turn, every row kept as soon as it is there."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Job(NamedTuple):
    """What makes one row."""

    name: str
    run: Callable[[], dict[str, Any]]


class Section(NamedTuple):
    """A group of jobs, the most valuable first."""

    letter: str
    title: str
    budget: float
    """Seconds. What one section leaves goes to the next, what it overruns is taken from it."""
    jobs: Callable[[bool], Iterable[Job]]
    """Whether they are to be small, to the jobs; cheap, as nothing is run by it."""
    obstacle: Callable[[], str | None] = lambda: None
    """Why the section cannot be run here, or None."""


def not_begun(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The sections as JSON values, before anything has been run."""
    return [
        {"section": s.letter, "title": s.title, "budget_s": s.budget, "state": "not begun", "rows": []}
        for s in sections
    ]


def run(
    sections: Sequence[Section],
    records: list[dict[str, Any]],
    keep: Callable[[], None],
    *,
    quick: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Fill the records, section by section; whether no job failed.

    A job is not begun when less time is left than half of what the section's jobs took on average, and a job that fails leaves its error:
    both are rows, too. The first job compiles what the others share, and what one section overruns the next ones lack.

    Args:
        sections: what to run.
        records: from `not_begun`; changed in place.
        keep: writes them down; called after every row.
        quick: small jobs, without a budget.
        clock: seconds.
    """
    end, fine = clock(), True
    for section, record in zip(sections, records, strict=True):
        begun = clock()
        end += section.budget
        print(f"\n({section.letter}) {section.title}", flush=True)
        if (why := section.obstacle()) is not None:
            record["state"] = f"left out: {why}"
            print(record["state"], flush=True)
            keep()
            continue
        record["state"] = "begun"
        keep()
        run_jobs, took = 0, 0.0
        for job in section.jobs(quick):
            start = clock()
            if not quick and start + took / max(run_jobs, 1) / 2 >= end:
                row: dict[str, Any] = {"left_out": "budget"}
            else:
                row = attempted(job)
                row["seconds"] = clock() - start
                run_jobs, took = run_jobs + 1, took + row["seconds"]
            fine = fine and "failed" not in row
            record["rows"].append({"what": job.name, **row})
            print(f"  {job.name}: " + ", ".join(f"{k} {shown(v)}" for k, v in row.items()), flush=True)
            keep()
        record["state"], record["seconds"] = "finished", clock() - begun
        keep()
    return fine


def attempted(job: Job) -> dict[str, Any]:
    """What a job finds, or how it failed."""
    try:
        return dict(job.run())
    except (
        Exception
    ) as error:  # an accelerator's time is too dear to lose the other rows to one; the row says it, the status, too
        traceback.print_exc(file=sys.stderr)
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def shown(value: Any) -> str:
    """A number or word as tables and the log show it."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)

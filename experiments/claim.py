"""The form in which an experiment leaves its answer: findings, tables, pictures, and the session that made them."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import stats

from case_jax._checks import CaseJaxError, require
from case_jax.evaluation.folders import session
from case_jax.files import write_atomically, write_json
from case_jax.report.figures import DPI, plain_style, rendered

Verdict = Literal["reproduced", "in part", "undecided", "not reproduced", "not testable offline", "answered"]
"""Of a claim of the papers one of the first five; `undecided`: the intervals hold both answers; `answered` is for questions that they leave open."""


class Finding(NamedTuple):
    """A claim, and what was found of it."""

    claim: str
    verdict: Verdict
    evidence: str
    """The numbers, in a sentence or two."""


class Table(NamedTuple):
    """Numbers for a file, and the same as they are read."""

    title: str
    numbers: pd.DataFrame
    shown: pd.DataFrame | None = None
    """Text, a few columns; None where the file alone is wanted."""


class Answer(NamedTuple):
    """What an experiment gives."""

    findings: Sequence[Finding]
    tables: Mapping[str, Table]
    figures: Mapping[str, Figure]


FINDINGS, SESSION = "findings.json", "session.json"
QUICK = Path("runs/experiments/quick/results")


def from_shell(main: Callable[[Any], None], kind: type) -> None:
    """Run an experiment as the command line says; what the user can mend is a message and status 2, not a trace.

    A quick run's answer goes below `runs/`, unless `--out` says otherwise: what `results` holds was run in full.
    """
    try:
        config = tyro.cli(kind)
        if quick_of(config) and config.out is not None and config.out == kind().out:
            config = dataclasses.replace(config, out=QUICK / config.out.name)
        require(config.out is None or not config.out.is_file(), "out", config.out, "a folder")
        main(config)
    except CaseJaxError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def quick_of(config: Any) -> bool:
    """Whether an experiment's configuration asks for a quick run."""
    return getattr(config, "quick", False) or getattr(getattr(config, "where", None), "quick", False)


class Gain(NamedTuple):
    """How much larger one number is than another, with Student's 95% interval; NaN ends where there are too few values for one."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """In percentage points."""
        if np.isnan(self.low):
            return f"{100 * self.mean:+.1f}"
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_gain(first: ArrayLike, second: ArrayLike) -> Gain:
    """Of `first` over `second`, which belong together one by one (the same seeds, the same images)."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    if len(difference) < 2:
        return Gain(float(difference.mean()), np.nan, np.nan)
    half = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
    return Gain(float(difference.mean()), float(difference.mean() - half), float(difference.mean() + half))


def unpaired_gain(first: ArrayLike, second: ArrayLike) -> Gain:
    """Of the mean of `first` over that of `second`, independent samples (Welch)."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    mean = float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2:
        return Gain(mean, np.nan, np.nan)
    found: Any = stats.ttest_ind(first, second, equal_var=False)
    return Gain(mean, *map(float, found.confidence_interval()))


def judged(gains: Sequence[Gain], *, margin: float = 0.0) -> Verdict:
    """Whether all gains are above the margin: `reproduced` when all intervals are, `in part` when some are, else `not reproduced` when one
    interval lies below it, and `undecided` when none does, or there are no intervals."""
    above = [gain.low > margin for gain in gains]
    if gains and all(above):
        return "reproduced"
    if any(above):
        return "in part"
    return "not reproduced" if any(gain.high < margin for gain in gains) else "undecided"


def keep(answer: Answer, config: Any, out: Path, *, anew: bool = True) -> None:
    """Write an answer below `out`: `findings.json`, `NAME.csv`, `NAME.md`, `NAME.png`, `session.json`; and print it.

    Args:
        answer: to write.
        config: the experiment's, kept with the session.
        out: the folder.
        anew: whether this session made the numbers; else `session.json` stays as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    shown = {}
    for name, table in answer.tables.items():
        write_atomically(out / f"{name}.csv", table.numbers.to_csv(index=False, float_format="%.6g").encode())
        if table.shown is not None:
            shown[name] = table.title
            text = table.shown.to_markdown(index=False, disable_numparse=True)
            write_atomically(out / f"{name}.md", f"{text}\n".encode())
            print(f"\n{table.title}\n\n{text}")
    for name, figure in answer.figures.items():
        write_atomically(out / f"{name}.png", rendered(figure)[0])
    findings = [finding._asdict() for finding in answer.findings]
    write_json(out / FINDINGS, {"findings": findings, "tables": shown, "figures": list(answer.figures)})
    if anew:
        facts = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        write_json(out / SESSION, {**session(), "config": facts})
    for finding in answer.findings:
        print(f"\n{finding.claim}\n  {finding.verdict}: {finding.evidence}")


def percent(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """A share in percent, with its interval where there is one."""
    if np.isnan(value):
        return "–"
    return f"{100 * value:.0f}%" + ("" if np.isnan(low) or low == high else f" [{100 * low:.0f}, {100 * high:.0f}]")


def heat(shares: pd.DataFrame, title: str, *, marks: pd.DataFrame | None = None) -> Figure:
    """Shares as a table of colours with their numbers.

    Args:
        shares: between 0 and 1; NaN is left white.
        title: of the figure.
        marks: of the same shape; where true the number is bold.
    """
    with plain_style():
        height, width = shares.shape
        figure = Figure(figsize=(2.2 + 0.85 * width, 1.3 + 0.24 * height), layout="constrained", dpi=DPI)
        axis = figure.subplots()
        axis.imshow(shares.to_numpy(float), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axis.set_xticks(range(width), [str(c) for c in shares.columns], rotation=30, ha="right")
        axis.set_yticks(range(height), [str(r) for r in shares.index])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        for (i, j), value in np.ndenumerate(shares.to_numpy(float)):
            if np.isfinite(value):
                bold = marks is not None and bool(marks.iloc[i, j])
                axis.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                    color="white" if value > 0.6 else "black", fontweight="bold" if bold else "normal",
                )  # fmt: skip
        axis.set_title(title)
    return figure

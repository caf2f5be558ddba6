"""How an experiment keeps its answer, and judges it again without running anything.

An experiment is two functions. `measured(config)` takes long and gives `Numbers`: rows per image, and tables that no rows give. `concluded(numbers,
config)` takes seconds and makes tables, findings and pictures of them. Below `out`: `NAME.parquet` (rows), `NAME.csv` and `NAME.md` (tables),
`NAME.png`, `findings.json`, `session.json`.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import tyro
from matplotlib.figure import Figure

from case_jax._checks import CaseJaxError, require
from case_jax.evaluation.folders import session
from case_jax.files import write_atomically, write_json
from case_jax.report.figures import rendered
from experiments.claim import Finding

FINDINGS, SESSION = "findings.json", "session.json"
QUICK = Path("runs/experiments/quick/results")


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


class Numbers(NamedTuple):
    """What an experiment has measured, by name of the file."""

    rows: Mapping[str, pd.DataFrame]
    """Per image, kept as Parquet."""
    tables: Mapping[str, pd.DataFrame]
    """Kept as CSV; the answer's tables of the same names take their places."""


Measured = Callable[[Any], Numbers]
Concluded = Callable[[Numbers, Any], Answer]


def carry_out(config: Any, measured: Measured, concluded: Concluded) -> None:
    """Measure, and store it below `out`, unless `--again`; then conclude from what is stored, whose numbers have six digits, and keep the answer."""
    if not config.again:
        store(measured(config), config, config.out)
    keep(concluded(read(config.out), config), config.out)


def store(numbers: Numbers, config: Any, out: Path) -> None:
    """Write what was measured below `out`, and the session that measured it with the experiment's configuration."""
    facts = json.dumps({**session(), "commit": commit(), "config": dataclasses.asdict(config)}, default=str)
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in numbers.rows.items():
        write_atomically(out / f"{name}.parquet", packed(frame))
    for name, table in numbers.tables.items():
        write_atomically(out / f"{name}.csv", as_csv(table))
    write_json(out / SESSION, json.loads(facts.replace(f"{Path(__file__).parents[1]}/", "")))


def as_csv(table: pd.DataFrame) -> bytes:
    """A table as a file, numbers with six digits."""
    return table.to_csv(index=False, float_format="%.6g").encode()


def read(folder: Path) -> Numbers:
    """What is kept in a folder.

    Raises:
        CaseJaxError: where there is nothing.
    """
    rows = {file.stem: pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))}
    tables = {file.stem: pd.read_csv(file) for file in sorted(folder.glob("*.csv"))}
    require(bool(rows or tables), "out", folder, "a folder with the tables or rows of a former run, or no --again")
    return Numbers(rows, tables)


def compact(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of the rows, those that are there, and what the images share: floats in 32 bits, integers in as few as hold them, words once."""
    wanted = [c for c in rows if c in columns or str(c).startswith("cluster_")]
    found = rows[wanted].reset_index(drop=True).copy()
    for name, column in found.items():
        if pd.api.types.is_bool_dtype(column):
            continue
        if pd.api.types.is_float_dtype(column):
            found[name] = column.astype("float32")
        elif pd.api.types.is_integer_dtype(column):
            found[name] = pd.to_numeric(column, downcast="integer")
        else:
            found[name] = column.astype(str).astype("category")
    return found


def packed(rows: pd.DataFrame) -> bytes:
    """Rows as Parquet, the bytes of equal weight of floats beside each other: a third smaller."""
    floats = [str(c) for c in rows if pd.api.types.is_float_dtype(rows[c])]
    others = [str(c) for c in rows if c not in floats]
    options: dict[str, Any] = {"use_byte_stream_split": floats, "use_dictionary": others}
    return rows.to_parquet(None, index=False, compression="zstd", compression_level=19, **options)


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows one below the other; words stay kept once."""
    table = pd.concat(frames, ignore_index=True)
    words = [c for c in table if not pd.api.types.is_numeric_dtype(table[c])]
    return table.astype(dict.fromkeys(words, "category"))


def parts(rows: pd.DataFrame, *keys: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The rows of each value of these columns, in the order of the rows, the values as words."""
    for values, group in rows.groupby(list(keys), sort=False, observed=True):
        yield tuple(map(str, values)), group  # type: ignore[arg-type]


def keep(answer: Answer, out: Path) -> None:
    """Write an answer below `out`, beside what it was concluded from, and print it."""
    out.mkdir(parents=True, exist_ok=True)
    shown = {}
    for name, table in answer.tables.items():
        write_atomically(out / f"{name}.csv", as_csv(table.numbers))
        if table.shown is not None:
            shown[name] = table.title
            text = table.shown.to_markdown(index=False, disable_numparse=True)
            write_atomically(out / f"{name}.md", f"{text}\n".encode())
            print(f"\n{table.title}\n\n{text}")
    for name, figure in answer.figures.items():
        write_atomically(out / f"{name}.png", rendered(figure)[0])
    findings = [finding.record() for finding in answer.findings]
    write_json(out / FINDINGS, {"findings": findings, "tables": shown, "figures": list(answer.figures)})
    for finding in answer.findings:
        print(f"\n{finding.claim}\n  {finding.verdict}, {finding.where}: {finding.words}")


def commit() -> str | None:
    """The commit that runs, with `+` where files were changed since; None outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


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
    return any(getattr(part, "quick", False) for part in (config, *vars(config).values()))

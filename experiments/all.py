"""All experiments, one after the other, and the page that shows what they found.

Question   Which claims of the two papers hold here?
Command    python -m experiments.all [--quick] [--only sensitivity ties] [--index]
Cost       four hours on 2 CPU cores; --quick under ten minutes
Expected   `experiments/results/index.html`; an experiment that fails is named there and at the end, and the others run all the same
"""

import ast
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jinja2

from case_jax._checks import unknown
from case_jax.files import write_atomically
from experiments.claim import FINDINGS, QUICK, SESSION, from_shell

HERE = Path(__file__).parent
EXPERIMENTS = (
    "sensitivity",
    "fidelity",
    "ties",
    "contrasts",
    "seeds",
    "masking",
    "sanity",
    "crossover",
    "scenes",
    "peers",
)
"""In the order of the page; `ties` reads what `sensitivity` wrote, `crossover` the maskers of `masking`."""
NEEDS = {"peers": ("torch", "pytorch_grad_cam", "quantus")}


@dataclasses.dataclass(frozen=True)
class Config:
    """What runs, and where its answers go."""

    quick: bool = False
    """Small sizes, to prove that everything runs; answers go below runs/ then."""
    only: tuple[str, ...] = ()
    """These experiments alone."""
    index: bool = False
    """Run nothing: write the page again."""
    out: Path | None = None
    """By default experiments/results, or runs/experiments/quick/results."""

    @property
    def folder(self) -> Path:
        """Where answers go."""
        return self.out or (QUICK if self.quick else HERE / "results")


def header(name: str) -> dict[str, str]:
    """Title and facts on top of an experiment's file."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    title, _, rest = text.partition("\n")
    facts: dict[str, str] = {"title": title.rstrip(".")}
    key = ""
    for line in rest.strip().splitlines():
        if line[:1].strip():
            key, _, line = line.partition(" ")
            facts[key.lower()] = line.strip()
        elif key:
            facts[key.lower()] += f" {line.strip()}"
    return facts


def lacking(name: str) -> list[str]:
    """Packages that an experiment needs and that are not there."""
    from importlib.util import find_spec

    return [package for package in NEEDS.get(name, ()) if find_spec(package) is None]


def run(name: str, config: Config) -> str | None:
    """Run an experiment in a process of its own; why not, when it failed."""
    missing = lacking(name)
    if missing:
        return f"not run: {', '.join(missing)} not installed (pip install '.[bench]')"
    words = [sys.executable, "-m", f"experiments.{name}", "--out", str(config.folder / name)]
    status = subprocess.run([*words, *(["--quick"] if config.quick else [])], check=False).returncode
    return None if status == 0 else f"failed with status {status}: {' '.join(words[1:])}"


def table_of(file: Path) -> list[list[str]]:
    """Cells of a Markdown table, its head first."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return cells[:1] + cells[2:]


def section(name: str, folder: Path, reason: str | None) -> dict[str, Any]:
    """What the page shows of an experiment."""
    here = folder / name
    found: dict[str, Any] = {
        "name": name,
        "reason": reason,
        **header(name),
        "findings": [],
        "tables": [],
        "figures": [],
    }
    if (here / FINDINGS).exists():
        answer = json.loads((here / FINDINGS).read_text())
        session = json.loads((here / SESSION).read_text())
        found |= {"findings": answer["findings"], "figures": [f"{name}/{figure}.png" for figure in answer["figures"]]}
        found["tables"] = [
            {"title": title, "file": f"{name}/{table}.csv", "cells": table_of(here / f"{table}.md")}
            for table, title in answer["tables"].items()
        ]
        versions = session["versions"]
        found["session"] = (
            f"{session['date'][:10]}, {session['machine']}, {', '.join(session['devices'])}; Python {versions['python']}, "
            f"jax {versions['jax']}, flax {versions['flax']}"
        )
    return found


def write_index(folder: Path, reasons: dict[str, str | None]) -> Path:
    """The page, from what is in the folders."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    sections = [section(name, folder, reasons.get(name)) for name in EXPERIMENTS]
    page = environment.get_template("index.html.jinja").render(sections=sections)
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def main(config: Config) -> None:
    """Run, and write the page."""
    for name in config.only:
        if name not in EXPERIMENTS:
            raise unknown("only", name, EXPERIMENTS)
    config.folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str | None] = {}
    for name in () if config.index else config.only or EXPERIMENTS:
        start = time.monotonic()
        print(f"\n=== {name}", flush=True)
        reasons[name] = run(name, config)
        print(reasons[name] or f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        write_index(config.folder, reasons)
    print(f"\n{write_index(config.folder, reasons)}")
    failed = [f"{name} {reason}" for name, reason in reasons.items() if reason and reason.startswith("failed")]
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    from_shell(main, Config)

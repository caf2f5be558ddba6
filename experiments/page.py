"""The two pages of all claims, `index.html` and `README.md`, from what the experiments have left."""

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from case_jax.files import write_atomically
from experiments.before import BEFORE
from experiments.kept import FINDINGS, SESSION
from experiments.pictures import as_svg, forest

HERE = Path(__file__).parent
TEMPLATES = {"index.html": "index.html.jinja", "README.md": "results.md.jinja"}


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


def cells_of(file: Path) -> list[list[str]]:
    """Cells of a Markdown table, its head first."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return cells[:1] + cells[2:]


def section(name: str, folder: Path, reason: str | None) -> dict[str, Any]:
    """What the pages show of an experiment."""
    here = folder / name
    found: dict[str, Any] = {"name": name, "reason": reason, **header(name), "findings": [], "tables": [], "figures": [], "session": ""}  # fmt: skip
    if (here / FINDINGS).exists():
        answer = json.loads((here / FINDINGS).read_text())
        session = json.loads((here / SESSION).read_text())
        found["findings"] = [
            {**one, "id": f"{name}-{i}", "picture": picture_of(name, i) if one["comparisons"] else ""}
            for i, one in enumerate(answer["findings"], start=1)
        ]
        found["figures"] = [f"{name}/{figure}.png" for figure in answer["figures"]]
        found["tables"] = [
            {"title": title, "file": f"{name}/{table}.csv", "cells": cells_of(here / f"{table}.md")}
            for table, title in answer["tables"].items()
        ]
        versions, commit = session["versions"], session.get("commit")
        found["session"] = (
            f"{session['date'][:10]}, {session['machine']}, {', '.join(session['devices'])}; Python {versions['python']}, "
            f"jax {versions['jax']}, flax {versions['flax']}" + (f"; commit {commit[:10]}" if commit else "")
        )
    return found


def picture_of(name: str, number: int) -> str:
    """The file of a claim's forest plot."""
    return f"{name}/claim-{number}.svg"


def draw(folder: Path, sections: Sequence[Mapping[str, Any]]) -> None:
    """The forest plot of every claim that has comparisons; plots of former findings go."""
    for one in sections:
        wanted = {finding["picture"]: finding for finding in one["findings"] if finding["picture"]}
        for file in (folder / one["name"]).glob("claim-*.svg"):
            if f"{one['name']}/{file.name}" not in wanted:
                file.unlink()
        for picture, finding in wanted.items():
            write_atomically(folder / picture, as_svg(forest(finding)))


def changes(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Verdicts before and after, of the experiments that have answers."""
    after = {(s["name"], finding["claim"]): finding["verdict"] for s in sections for finding in s["findings"]}
    answered = {name for name, _ in after}
    return [
        {**one._asdict(), "after": after.get((one.experiment, one.now), "no longer asked")}
        for one in BEFORE
        if one.experiment in answered
    ]


def write_pages(folder: Path, names: Sequence[str], reasons: Mapping[str, str | None]) -> Path:
    """Both pages and their pictures, from what is in the folders; returns the HTML page.

    Args:
        folder: the answers, a folder an experiment.
        names: of the experiments, in the order of the page.
        reasons: why an experiment has no answer, or an old one.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=jinja2.select_autoescape(["html", "html.jinja"]), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    sections = [section(name, folder, reasons.get(name)) for name in names]
    draw(folder, sections)
    for file, template in TEMPLATES.items():
        page = environment.get_template(template).render(sections=sections, changes=changes(sections))
        write_atomically(folder / file, page.encode())
    return folder / "index.html"

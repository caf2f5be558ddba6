"""A result's JSON as Markdown tables."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from experiments.benchmarks.accelerator.timetable import shown

NO_ROW = ("left_out", "failed")


def markdown(result: Mapping[str, Any]) -> str:
    """All sections; rows of the same columns that follow each other are one table, rows without numbers are listed below them."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [f"{result['date']}, {', '.join(result['devices'])}; {versions}."]
    for section in result["sections"]:
        took = f", {section['seconds']:.0f} of {section['budget_s']:.0f} s" if "seconds" in section else ""
        parts.append(f"**({section['section']}) {section['title']}** ({section['state']}{took})")
        parts += _tables(section["rows"])
    return "\n\n".join(parts) + "\n"


def _tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    measured = [row for row in rows if not any(key in row for key in NO_ROW)]
    for columns, group in groupby(measured, key=lambda row: tuple(row)):
        lines = [columns, ["---"] * len(columns), *([shown(row[c]) for c in columns] for row in group)]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    for key in NO_ROW:
        listed = [f"{row['what']} ({row[key]})" for row in rows if key in row]
        if listed:
            yield f"{key.replace('_', ' ').capitalize()}: {'; '.join(listed)}."

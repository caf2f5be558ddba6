"""The page: what the template is given, and rendering it."""

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from case_jax.report.loading import Run, numbers_of
from case_jax.report.tables import MainTable, pairs_table, title_of
from case_jax.report.words import counted
from case_jax.stats import Summary

CLASSES_SHOWN, CONTRASTS_SHOWN, NAMES_SHOWN = 1000, 12, 200


class Drawing(NamedTuple):
    """A figure as files and in words."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    pdf: bytes

    @property
    def uri(self) -> str:
        """The PNG as a data: address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


class Tables(NamedTuple):
    """The tables of methods, in the order in which they are shown."""

    main: MainTable
    further: MainTable | None
    """Scores that metrics describe themselves; None where the run has none."""
    ranks: MainTable | None
    """None where there is nothing to rank."""


def template(name: str) -> jinja2.Template:
    """A page of this folder; every text that it is given is escaped."""
    loader = jinja2.PackageLoader("case_jax.report", package_path="")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["title_of"] = title_of
    environment.globals["NAMES_SHOWN"] = NAMES_SHOWN
    return environment.get_template(f"{name}.html")


def render(run: Run, summary: Summary, *, sentence: str, tables: Tables, drawings: Sequence[Drawing]) -> str:
    """The whole page.

    Args:
        run: what the folder holds.
        summary: its statistics.
        sentence: the answer.
        tables: of methods.
        drawings: figures in order.
    """
    return template("evaluation").render(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: class sensitivity",
        sentence=sentence,
        unfinished=unfinished(run),
        tables=tables,
        drawings=drawings,
        captions=gallery_captions(run),
        contrast=contrast_facts(run),
        pairs=pairs_table(summary.pairs, {m.name: m.title for m in run.methods}),
        reference=next(
            (m.title for m in run.methods if not summary.pairs.empty and m.name == summary.pairs["reference"].iloc[0]),
            None,
        ),
        left_out=left_out(run, summary),
        unreadable=[(entry["name"], entry["reason"]) for entry in run.excluded],
        rerun=rerun_facts(run.config, run.sessions),
    )


def unfinished(run: Run) -> str | None:
    """A warning where rows are missing, else None."""
    done, planned = run.rows["image_id"].nunique() + len(run.excluded), run.config["data"]["images"]
    if done >= planned:
        return None
    return f"This run is unfinished: {done:,} of {counted(planned, 'image')} so far. All numbers below are of these images alone."


def gallery_captions(run: Run) -> list[str]:
    """One line of text per image of the gallery: its name, label and two likeliest classes."""
    gallery = run.gallery
    if gallery is None:
        return []
    lines = []
    for i in range(len(gallery.images)):
        label = int(gallery.labels[i])
        known = f"labelled {run.class_name(label)}" if label >= 0 else "without a label"
        likeliest = [
            f"{run.class_name(int(c))} ({p:.1%})"
            for c, p in zip(gallery.targets[i], gallery.probabilities[i], strict=True)
        ]
        lines.append(f"{gallery.names[i]}, {known}; likeliest: {likeliest[0]}, then {likeliest[1]}")
    return lines


def contrast_facts(run: Run) -> dict[str, Any]:
    """The contrast sets: name, split, options of the methods that use them, and the table where there is one."""
    facts = run.contrast
    sets, filled = facts.get("table") or [], facts.get("filled")
    users = [(m.title, method_options(m.options)) for m in run.methods if m.contrastive]
    rows = [contrast_row(run, c, found, filled[c] if filled else 0) for c, found in enumerate(sets[:CLASSES_SHOWN])]
    return {
        "name": facts["name"],
        "source": facts.get("source"),
        "users": users,
        "rows": rows,
        "more": max(0, len(sets) - CLASSES_SHOWN),
        "filled": sum(filled or []),
        "entries": sum(map(len, sets)),
        "left_out": len(facts.get("left_out") or []),
    }


def contrast_row(run: Run, target: int, contrast: Sequence[int], filled: int) -> dict[str, Any]:
    """One class with the classes it is contrasted with, each with whether it was filled in."""
    entries = [(run.class_name(c), place >= len(contrast) - filled) for place, c in enumerate(contrast)]
    more = max(0, len(entries) - CONTRASTS_SHOWN)
    return {"name": run.class_name(target), "entries": entries[:CONTRASTS_SHOWN], "more": more, "filled": filled}


def method_options(options: dict[str, Any]) -> str:
    """A method's options in words."""
    if not options:
        return "default options"
    words = [f"{name} = {value}" for name, value in options.items()]
    if "eps_relative" in options:
        words.append(
            "so ε is relative to the gradients' scale"
            if options["eps_relative"]
            else "so ε is absolute, the paper's form"
        )
    return ", ".join(words)


def left_out(run: Run, summary: Summary) -> dict[str, Any]:
    """What entered no score, and why."""
    numbers = numbers_of(summary.table)
    degenerate = [
        (m.title, numbers[m.name]["degenerate"], numbers[m.name]["images"])
        for m in run.methods
        if m.name in numbers and numbers[m.name]["degenerate"]
    ]
    return {
        "counts": [("images that could not be read", len(run.excluded)), *summary.counts.items()],
        "degenerate": degenerate,
    }


def rerun_facts(config: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last session's command, versions and devices, the dates of all, and the configuration."""
    last = sessions[-1] if sessions else {}
    return {
        "command": shlex.join(last.get("command", [])),
        "versions": last.get("versions", {}),
        "devices": last.get("devices", []),
        "machine": last.get("machine", "unknown"),
        "dates": [session.get("date", "unknown") for session in sessions],
        "config": json.dumps(config, indent=2, ensure_ascii=False),
    }

"""The page: what the template is given, and rendering it."""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from case_jax.files import write_atomically
from case_jax.report.formatting import counted, listed
from case_jax.report.listening import Players, players_of
from case_jax.report.loading import Run
from case_jax.report.spectrogram import lying
from case_jax.report.tables import MainTable, markdown, title_of

PLAYED, SOUNDS_PLAYED = ("grad_cam", "finer_cam"), 3
"""Whose maps are played, where they are there, and of how many sounds."""
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


class Section(NamedTuple):
    """A part of the page that is folded up."""

    title: str
    table: MainTable | None = None
    drawings: Sequence[Drawing] = ()
    words: Sequence[str] = ()
    """Paragraphs below."""


class Page(NamedTuple):
    """What every study's page is made of, in its order."""

    title: str
    sentences: Sequence[str]
    """The answer, at most three."""
    picture: Drawing | None
    table: MainTable
    """What a reader needs first; fits the page and a terminal."""
    unit: str = ""
    """By what intervals and tests are, in a sentence."""
    gallery: Sequence[Drawing] = ()
    sections: Sequence[Section] = ()
    counts: Mapping[str, int] = {}
    """What was left out and why."""
    files: Mapping[str, bytes] = {}
    """Further files of the folder, by name."""

    def drawings(self) -> list[Drawing]:
        """All of them."""
        first = [] if self.picture is None else [self.picture]
        return [*first, *self.gallery, *(d for section in self.sections for d in section.drawings)]

    def text(self) -> str:
        """The answer and the first table, for a terminal and for `summary.md`."""
        left_out = [f"- {what}: {number:,}" for what, number in self.counts.items() if number]
        return (
            "\n\n".join(
                [*self.sentences, markdown(self.table), *filter(None, [self.unit]), "\n".join(left_out)]
            ).rstrip()
            + "\n"
        )


def template(name: str) -> jinja2.Template:
    """A page of this folder; every text that it is given is escaped."""
    loader = jinja2.PackageLoader("case_jax.report", package_path="")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["title_of"] = title_of
    environment.globals["NAMES_SHOWN"] = NAMES_SHOWN
    return environment.get_template(f"{name}.html")


def write_page(run: Run, page: Page) -> Path:
    """Write `report.html`, `summary.md`, `figures/` and the study's own files into the run folder, each atomically."""
    folder = run.path
    page = page._replace(counts={**page.counts, **{f"images with {what}": n for what, n in run.changed.items()}})
    (folder / "figures").mkdir(exist_ok=True)
    for drawing in page.drawings():
        write_atomically(folder / "figures" / f"{drawing.name}.png", drawing.png)
        write_atomically(folder / "figures" / f"{drawing.name}.pdf", drawing.pdf)
    for name, data in page.files.items():
        write_atomically(folder / name, data)
    write_atomically(folder / "summary.md", page.text().encode())
    html = template("page").render(
        page=page,
        title=page.title,
        warning=unfinished(run),
        captions=gallery_captions(run),
        listening=playing(run),
        link=link_words(run.config),
        contrast=contrast_facts(run),
        unreadable=[(entry["name"], entry["reason"]) for entry in run.excluded],
        rerun=rerun_facts(run.config, run.sessions),
    )
    write_atomically(folder / "report.html", html.encode())
    return folder / "report.html"


def unfinished(run: Run) -> str | None:
    """A warning where rows are missing, else None."""
    done, planned = run.done + len(run.excluded), run.config["data"]["images"]
    if done >= planned:
        return None
    return f"This run is unfinished: {done:,} of {counted(planned, 'image')} so far. All numbers below are of these images alone."


def gallery_captions(run: Run) -> list[str]:
    """One line of text per image of the gallery: its name, label and the classes that are shown."""
    gallery = run.gallery
    if gallery is None:
        return []
    lines = []
    for i in range(len(gallery.images)):
        labels = [run.class_name(int(label)) for label in gallery.labels[i] if label >= 0]
        known = f"labelled {listed(labels)}" if labels else "without a label"
        likeliest = [
            run.class_name(int(c)) + ("" if math.isnan(p) else f" ({p:.1%})")
            for c, p in zip(gallery.targets[i], gallery.probabilities[i], strict=True)
        ]
        lines.append(f"{gallery.names[i]}, {known}; maps of {listed(likeliest)}")
    return lines


def playing(run: Run) -> list[Players]:
    """The first sounds of the gallery with what a few methods' maps of their two likeliest classes keep and leave; none of images."""
    gallery = run.gallery
    if gallery is None or gallery.stft is None or gallery.sounds is None:
        return []
    kept, titles = gallery.methods.tolist(), {m.name: m.title for m in run.methods if not m.control}
    known = [name for name in kept if name in titles]
    chosen = ([name for name in PLAYED if name in known] or known)[: len(PLAYED)]
    found = []
    for i, sound in enumerate(gallery.sounds[:SOUNDS_PLAYED]):
        maps = {
            f"{titles[name]}, {run.class_name(int(target))}": lying(gallery.maps[i, kept.index(name), rank])
            for name in chosen
            for rank, target in enumerate(gallery.targets[i])
            if not gallery.degenerate[i, kept.index(name), rank]
        }
        found.append(players_of(str(gallery.names[i]), sound, maps, gallery.stft))
    return found


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


def link_words(config: Mapping[str, Any]) -> str:
    """What is said of probabilities where they are not the usual ones."""
    link = config["model"].get("link", "softmax")
    known = {
        "sigmoid": "Labels are independent: every probability is the sigmoid of the label's own logit, and several may be near 1.",
        "identity": "The model's outputs are no logits: there are no probabilities, and the “likeliest” classes are the largest outputs.",
    }
    return known.get(link, "")


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

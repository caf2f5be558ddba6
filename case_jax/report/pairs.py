"""The page of agreements of all pairs of classes (no JAX here but for reading sums)."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from case_jax.report.figures import plain_style, rendered
from case_jax.report.formatting import counted, percent
from case_jax.report.heat_map import Groups, heat_map, superclass_map
from case_jax.report.loading import Method, Run, load_run
from case_jax.report.page import Drawing, Page, Section
from case_jax.report.tables import MainTable, plain_table, ranked_first

HIERARCHY = "hierarchy.csv"


def page_of(path: Path) -> tuple[Run, Page]:
    """Read the folder of a count of pairs.

    Raises:
        CaseJaxError: when its files are missing or damaged.
    """
    from case_jax.evaluation.studies.pair_agreements import agreements, confused_pairs  # JAX
    from case_jax.evaluation.studies.superclasses import ALL, blocks, read_hierarchy, superclass_table

    found = agreements(path)
    run = load_run(path, done=found.counted)
    names = [run.class_name(c) for c in range(run.config["model"]["classes"])]
    titles, agreement = {m.name: m.title for m in run.methods}, found.agreement
    worst = confused_pairs(found, names)
    arrays: dict[str, Any] = {
        "methods": np.array(found.methods),
        "classes": np.array(names),
        "agreement": agreement,
        "images": found.images,
    }
    files, sections, groups = {"pairs.csv": worst.to_csv(index=False).encode()}, [], None
    if (path / HIERARCHY).exists():
        hierarchy = read_hierarchy(path / HIERARCHY, names)
        groups = Groups(hierarchy.order(), hierarchy.names, hierarchy.sizes())
        cells, table = blocks(found, hierarchy), superclass_table(found, hierarchy)
        files["superclasses.csv"] = table.to_csv(index=False).encode()
        arrays |= {"superclasses": np.array(hierarchy.names), "superclass": hierarchy.of_class}
        arrays |= {"superclass_agreement": cells.agreement, "superclass_images": cells.images}
        overall = table[table["superclass"] == ALL].set_index("method")
        sections.append(_superclasses(run.methods, overall, titles, cells.agreement, hierarchy.names))
    figures = (heat_map(t, a, names, groups) for t, a in zip(titles.values(), agreement, strict=True))
    maps = _drawn("agreement", titles, figures)
    means = {m: _mean(a) for m, a in zip(found.methods, agreement, strict=True)}
    order = sorted(means, key=lambda m: (means[m] != means[m], means[m]))
    methods = ranked_first(run.methods, order)
    degenerate = zip(found.methods, found.degenerate, strict=True)
    left_out = {f"degenerate maps of {titles[m]} (left out)": int(n) for m, n in degenerate if n}
    counts = {"images": found.counted, "images that could not be read": len(found.excluded), **left_out}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    files |= {
        "pairs.npz": buffer.getvalue(),
        "summary.json": (json.dumps({"counts": counts, "excluded": found.excluded}, indent=2) + "\n").encode(),
    }
    page = Page(
        title=f"{run.config['model']['name']} on {run.config['data']['name']}: which classes does a method fail to tell apart?",
        sentences=_answer(means, methods, worst, run),
        picture=maps[0] if maps else None,
        table=_table(means, methods, worst),
        unit=f"Means over pairs of classes in {counted(found.counted, 'image')}, without intervals or tests: the run keeps sums, not what images share.",
        sections=[Section("All heat maps", drawings=maps), _worst(run.methods, worst), *sections],
        counts=counts,
        files=files,
    )
    return run._replace(excluded=found.excluded, changed=found.changed), page


def _superclasses(
    methods: Sequence[Method],
    overall: pd.DataFrame,
    titles: Mapping[str, str],
    agreement: np.ndarray,
    names: Sequence[str],
) -> Section:
    shares = {str(m): {k: percent(r[k]) for k in ("within", "between")} for m, r in overall.iterrows()}
    figures = (superclass_map(t, a, names) for t, a in zip(titles.values(), agreement, strict=True))
    drawn = _drawn("superclasses", titles, figures)
    return Section("Within and between super-classes", plain_table(methods, shares, {}), drawn)


def _mean(agreement: np.ndarray) -> float:
    """Over different classes, as often as they were seen together."""
    off = agreement[~np.eye(len(agreement), dtype=bool)]
    known = off[~np.isnan(off)]
    return float(known.mean()) if len(known) else float("nan")


def _drawn(prefix: str, titles: Mapping[str, str], figures: Any) -> list[Drawing]:
    found = []
    with plain_style():
        for (name, title), figure in zip(titles.items(), figures, strict=True):
            caption = "Mean share of the top pixels that the maps of two classes have in common: dark = told apart."
            found.append(Drawing(f"{prefix}-{name}", title, caption, f"Heat map of {title}.", *rendered(figure)))
    return found


def _answer(means: Mapping[str, float], methods: Sequence[Method], worst: pd.DataFrame, run: Run) -> list[str]:
    known = [m for m in methods if not m.control and means.get(m.name, np.nan) == means.get(m.name, np.nan)]
    if not known:
        return ["No pair of classes has usable maps."]
    best, top = known[0], run.config["pairs"]["top"]
    sentences = [
        f"The maps of two classes share least with {best.title}: {percent(means[best.name], digits=0)} of their top pixels, averaged over all pairs."
    ]
    pair = worst[worst["method"] == best.name].head(1)
    if len(pair):
        first = pair.iloc[0]
        sentences.append(
            f"What it tells apart least are {first['class_a']} and {first['class_b']} ({percent(first['agreement'], digits=0)})."
        )
    if top > 2:
        sentences.append(
            "Most of these pairs are of classes that nobody confuses, whose maps differ by any method, and which a contrast with the "
            "confused classes is not about; --top 2 compares the two likeliest classes of each image."
        )
    return sentences


def _table(means: Mapping[str, float], methods: Sequence[Method], worst: pd.DataFrame) -> MainTable:
    cells = {}
    for m in methods:
        if m.name in means:
            pair = worst[worst["method"] == m.name].head(1)
            words = (
                "–"
                if pair.empty
                else f"{pair.iloc[0]['class_a']}, {pair.iloc[0]['class_b']} ({percent(pair.iloc[0]['agreement'], digits=0)})"
            )
            cells[m.name] = {"mean agreement": percent(means[m.name]), "told apart least": words}
    notes = {
        "mean agreement": "Share of the top pixels that the maps of two different classes have in common, averaged over pairs: low = told apart."
    }
    return plain_table(methods, cells, notes)


def _worst(methods: Sequence[Method], worst: pd.DataFrame) -> Section:
    words = []
    for m in methods:
        rows = worst[worst["method"] == m.name].head(10).to_dict("records")
        pairs = "; ".join(f"{r['class_a']}, {r['class_b']} {percent(r['agreement'], digits=0)}" for r in rows)
        words.append(f"{m.title}: {pairs or 'no pair'}.")
    return Section("The pairs that each method tells apart least", words=[*words, "More of them are in pairs.csv."])

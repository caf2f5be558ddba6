"""The papers' claims again, on trained ImageNet networks and photographs.

Question   Does what digit scenes show hold for networks that the world uses, on photographs?
Command    python -m experiments.photographs [--quick] [--again] [--views 10]
Cost       about 15 minutes of one CPU core: a pass of EfficientNet-Lite0 takes 20 ms, and class-specific deletion has 216 of them a view (13 methods),
           fidelity 196 or 42; 2 views of each of 10 photographs for the first, 1 for the second, 6 for what needs maps alone; 100 mosaics; a third is
           compilation
Expected   the directions of digit scenes, with wide intervals: ten photographs are ten, however many views are taken of them
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from case_jax import METHODS
from case_jax._checks import require
from case_jax.report.loading import Method
from case_jax.report.sanity import curves_figure, layer_table
from case_jax.report.scores import Scored
from case_jax.stats import Interval
from case_jax.stats.estimates import clusters_in
from experiments import sensitivity, ties
from experiments.claim import Estimate, Finding, Shown, percent, written
from experiments.families import SHIPPED
from experiments.kept import Answer, Numbers, Table, carry_out, from_shell, joined, parts
from experiments.networks import Where, only
from experiments.photographs_beside import side_by_side
from experiments.photographs_claims import (
    crossover_claims,
    fidelity_claims,
    likeness_claims,
    medians_of,
    pair_claims,
    pointing_claims,
    sanity_claims,
    sensitivity_claims,
    tests_of,
    tie_claims,
)
from experiments.photographs_estimates import YARDSTICKS, by_photograph, dropped, short, wide
from experiments.photographs_rows import (
    FEW,
    SANITY,
    at_the_convolution,
    cells_of,
    faithful,
    fidelity_of,
    likeness_of,
    maps_of,
    pairs_of,
    pointing,
    sanity_of,
    subject_of,
    ties_of,
    with_maps,
    with_pairs,
)
from experiments.pictures import heat, pair_of_scores
from experiments.specificity import PERCENTS

SCENES = 100
"""Digit scenes whose maps are looked at beside those of photographs."""
NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, how much is asked of them, and where the answer goes."""

    networks: tuple[str, ...] = NETWORKS
    """Of `case-jax list models`; some questions are asked of the first alone."""
    views: int = 6
    """Of each photograph, where maps alone are needed: the middle, the same mirrored, the corners, two of them mirrored; 10 is all both ways."""
    altered_views: int = 2
    """Of each, for class-specific deletion by the first network; all else that looks at altered copies has the middle one alone."""
    mosaics: int = 100
    """Of four photographs each."""
    runs: Path = Path("runs/experiments")
    """Rows; the same command goes on."""
    quick: bool = False
    """One network and few images, to prove that it runs."""
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/photographs")


def measured(config: Config) -> Numbers:
    """Rows of every piece, all of one network before the next."""
    require(len(config.networks) >= 1, "networks", "none", "at least one")
    where = Where(data="photos", networks=config.networks, runs=config.runs, quick=config.quick)
    few = 2 if config.quick else None
    views, altered, mosaics = (1, 1, 4) if config.quick else (config.views, config.altered_views, config.mosaics)
    rows: dict[str, list[pd.DataFrame]] = {}

    def keep(**frames: pd.DataFrame) -> None:
        for piece, frame in frames.items():
            rows.setdefault(piece, []).append(frame)

    for number, name in enumerate(config.networks[:1] if config.quick else config.networks):
        one, some, many = (subject_of(name, where, count) for count in (1, altered, views))
        paired = some if number == 0 else one
        keep(pairs=pairs_of(paired, with_pairs(paired), few), maps=maps_of(many, with_maps(), few))
        keep(cells=cells_of(one, pointing(), mosaics), fidelity=fidelity_of(one, faithful(), few, whole=number == 0))
        if number == 0:
            depth = 1 if config.quick else 2
            keep(ties=ties_of(one, with_maps(), few), sanity=sanity_of(one, SANITY, few or len(one.source), depth))
            scenes = Where(networks=(SHIPPED,), limit=SCENES, runs=config.runs, quick=config.quick)
            keep(likeness=likeness_of(one, len(one.source)))
            keep(likeness=likeness_of(only(scenes), SCENES))
        if number == 0 and not config.quick:
            keep(pairs=pairs_of(one, at_the_convolution(), few, [*one.layers.values()][1]))
    return Numbers({piece: joined(frames) for piece, frames in rows.items()}, {})


Facts = dict[str, pd.DataFrame]
"""Tables by name."""


class Places(NamedTuple):
    """Where verdicts hold."""

    networks: str
    first: str
    mosaics: str


def places(rows: Mapping[str, pd.DataFrame]) -> Places:
    """Of all networks, of those that ask the first alone, and of mosaics."""
    names = [short(name) for name in dict.fromkeys(rows["pairs"]["network"])]
    all_ = names[0] if len(names) == 1 else f"{names[0]} to {names[-1].removeprefix('Lite')}"
    photographs = f"{rows['pairs']['cluster_1'].nunique()} photographs"
    cells = rows.get("cells", pd.DataFrame({"image_id": []}))
    mosaics = f"{cells['image_id'].nunique()} mosaics of {len(np.unique(clusters_in(cells)))} photographs"
    where = ((photographs, all_), (photographs, names[0]), (mosaics, all_))
    return Places(*(f"on {images}, trained EfficientNet-{words}" for images, words in where))


def pair_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The pair of every method with its intervals by photograph, by layer, best specificity first; mean over networks."""
    found = []
    for (layer,), group in parts(rows, "layer"):
        columns = {name: wide(group, name) for name in ("specificity", "necessity", "hurts_own", "F", *(f"{n}_{k}" for n in ("specificity", "necessity") for k in PERCENTS))}  # fmt: skip
        mean = columns["specificity"].mean().sort_values(ascending=False)
        for method in mean.index:
            row: dict[str, Any] = {"layer": layer, "method": method}
            for name, table in columns.items():
                one = by_photograph(name, table[method], statistic="median" if name == "F" else "mean")
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
            found.append(row)
    return pd.DataFrame(found)


def pair_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The same to read."""

    def cell(row: pd.Series, name: str, shown: Shown) -> str:
        return written(Estimate("", row[name], row[f"{name}_low"], row[f"{name}_high"]), shown)

    columns: dict[str, tuple[str, Shown]] = {"specificity": ("specificity", "number"), "necessity": ("necessity", "number"), "each hurts its own": ("hurts_own", "percent"), "median F": ("F", "percent")}  # fmt: skip
    columns |= {f"specificity at {k}%": (f"specificity_{k}", "number") for k in PERCENTS}
    cells = {words: [cell(row, name, shown) for _, row in table.iterrows()] for words, (name, shown) in columns.items()}
    return pd.DataFrame({"layer": table["layer"], "method": table["method"], **cells})


def medians_shown(table: pd.DataFrame) -> pd.DataFrame:
    """Median F by network and layer, and the threshold that it is significantly below."""
    cells = table.assign(cell=table.apply(sensitivity.cell, axis=1))
    text = cells.pivot(index="method", columns="where", values="cell")
    return text.reindex(index=list(dict.fromkeys(table["method"])), columns=list(dict.fromkeys(table["where"]))).reset_index()  # fmt: skip


def drops_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean drop by network, protocol, share removed and method."""
    found = []
    for (network,), group in parts(rows, "network"):
        for column in [str(c) for c in group if "p_removed_" in str(c) and group[c].notna().any()]:
            protocol, _, share = column.rpartition("p_removed_")
            protocol = protocol.rstrip(":") or "mean"
            table = dropped(group, float(share), protocol)
            for method in table:
                one = by_photograph(str(method), table[method])
                found.append([network, protocol, float(share), method, one.value, one.low, one.high])
    return pd.DataFrame(found, columns=["network", "protocol", "removed", "method", "drop", "low", "high"])


def drops_shown(table: pd.DataFrame) -> pd.DataFrame:
    """Mean fill alone."""
    mean = table[(table["protocol"] == "mean") & table["removed"].isin(FEW)]
    where = mean["network"].map(short) + ", " + mean["removed"].map("{:g}%".format)
    cells = [percent(*values) for values in mean[["drop", "low", "high"]].itertuples(index=False)]
    text = mean.assign(where=where, cell=cells).pivot(index="method", columns="where", values="cell")
    return text.reindex(list(dict.fromkeys(mean["method"])))[list(dict.fromkeys(where))].reset_index()


def picture(table: pd.DataFrame) -> Figure:
    """Specificity against necessity at the default layer, with intervals by photograph."""
    marks = [
        Scored(
            Method(row["method"], row["method"], row["method"] in YARDSTICKS, False, {}),
            *(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("specificity", "necessity")),
        )
        for _, row in table[table["layer"] == table["layer"].iloc[0]].iterrows()
    ]  # fmt: skip
    return pair_of_scores(marks)


def claims(rows: Mapping[str, pd.DataFrame], facts: Facts) -> list[Finding]:
    """Every claim about the pieces that are there."""
    here, first, mosaics = places(rows)
    made: dict[str, Callable[[], Sequence[Finding]]] = {
        "pairs": lambda: pair_claims(rows["pairs"], here),
        "maps": lambda: sensitivity_claims(facts["medians"], here),
        "likeness": lambda: likeness_claims(rows["likeness"], first),
        "fidelity": lambda: fidelity_claims(rows["fidelity"], here, first),
        "ties": lambda: tie_claims(facts["rules"], first),
        "cells": lambda: pointing_claims(rows["cells"], mosaics),
        "sanity": lambda: sanity_claims(rows["sanity"], first),
    }
    found = [finding for piece, make in made.items() if piece in rows for finding in make()]
    return found + crossover_claims(facts["tests"], here)


def facts_of(rows: Mapping[str, pd.DataFrame]) -> Facts:
    """The tables of the pieces that are there."""
    found: Facts = {"pairs": pair_table(rows["pairs"])}
    if "maps" in rows:
        found["medians"] = medians_of(rows["maps"])
    if "fidelity" in rows:
        found["drops"] = drops_table(rows["fidelity"])
    if "ties" in rows:
        ties_ = rows["ties"].drop(columns="cluster_1")
        found["rules"] = ties.verdicts(ties_).assign(network=ties_["network"].iloc[0])
    if "sanity" in rows:
        found["layers"] = layer_table(rows["sanity"].astype({"kind": str, "layer": str}))
    return found | {"tests": tests_of(rows)}


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Every claim by photograph, beside what digit scenes say of it; of rows that a run left that was stopped, what they allow."""
    del config
    rows = {
        name: frame.astype({c: str for c in ("network", "method") if c in frame}) for name, frame in numbers.rows.items()
    }  # fmt: skip
    facts = facts_of(rows)
    found = claims(rows, facts)
    beside, tests = side_by_side(found), facts["tests"]
    shown: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame] | None]] = {
        "pairs": ("Class-specific deletion: mean over networks, at the raw convolution of the first alone [95% by photograph]", pair_shown),
        "medians": ("Median F [95% over photographs], and the threshold that it is significantly below (Holm-corrected within a column)", medians_shown),
        "drops": ("Mean drop, mean fill [95% by photograph]", drops_shown),
        "rules": ("Mean F under each rule for ties", None),
        "layers": ("Sanity: every layer", None),
    }  # fmt: skip
    tables = {"verdicts": Table("The verdicts of digit scenes and those of photographs", beside, beside)}
    for name, (title, reads) in shown.items():
        if name in facts:
            tables[name] = Table(title, facts[name], reads(facts[name]) if reads else None)
    words = "Every method that most tests know, mean over networks; signs such that large is good"
    tables["tests"] = Table(words, tests.reset_index(names="method"), tests.map("{:.2f}".format).reset_index(names="method"))  # fmt: skip
    return Answer(found, tables, figures_of(facts))


def figures_of(facts: Facts) -> dict[str, Figure]:
    """The pair, medians, and the cascade."""
    figures = {"pair": picture(facts["pairs"])}
    if "medians" in facts:
        table = facts["medians"]
        values = table.pivot(index="method", columns="where", values="F_median")
        figures["medians"] = heat(values.reindex(list(dict.fromkeys(table["method"])))[list(dict.fromkeys(table["where"]))], "median F, %")  # fmt: skip
    if "layers" in facts:
        layers = facts["layers"]
        drawn = [Method(n, METHODS[n].title, METHODS[n].control, False, {}) for n in dict.fromkeys(layers["method"])]
        words = "as before training: from the logits down to this layer"
        figures["cascading"] = curves_figure(layers, "cascading", words, drawn)
    return figures


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""Which contrast should a user take?

Question   Of the ways to take other classes out (none, mean-orthogonal, span, difference, softmax), the sets of classes (confused, likeliest, random,
           all) and their sizes, which gives maps that are class-sensitive, faithful and on their own class's evidence?
Command    python -m experiments.contrasts [--quick] [--data tfds:imagenet2012:validation --contrast-data tfds:imagenet2012:train]
Cost       about 10 minutes on 2 CPU cores, without the training of the small networks
Expected   difference and softmax lie best on their own evidence; the mean-orthogonal contrast depends most on the set
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from case_jax import METHODS
from case_jax.methods import MapFunction
from case_jax.stats import ranked, summarise
from experiments.claim import Answer, Finding, Table, from_shell, heat, keep, percent
from experiments.networks import Where, asked, subjects

OPERATORS = {"case": "mean-orthogonal (CASE)", "case_span": "span-orthogonal", "finer_cam": "difference (Finer-CAM)"}
FREE = {"grad_cam": "none (Grad-CAM)", "softmax_contrast": "softmax"}
SETS = ("confusion", "topk_logits", "random")
SIZES = (1, 3, 5, 10)
PERCENTS = (5.0, 20.0, 50.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    out: Path = Path("experiments/results/contrasts")


def tested(sizes: tuple[int, ...], *, free: bool) -> dict[str, MapFunction]:
    """Methods by `OPERATOR|k`."""
    found: dict[str, MapFunction] = {
        f"{words}|{k}": partial(asked, method=name, k=k) for name, words in OPERATORS.items() for k in sizes
    }
    return found | ({f"{words}|": METHODS[name].maps for name, words in FREE.items()} if free else {})


def measured(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The numbers of every operator and size with one kind of set."""
    table = summarise(rows, resamples=500).table.reset_index()
    table[["operator", "k"]] = table["method"].str.split("|", expand=True)
    table["set"] = np.where(table["k"] == "", "", kind)
    degenerate = table["degenerate"] / table["images"]
    columns = [
        "operator",
        "set",
        "k",
        "F_median",
        "F_mean",
        "sweep_mean",
        "drop_mean",
        "own_mean",
        "shared_mean",
        "pointing_mean",
    ]
    return table.reindex(columns=columns).assign(
        degenerate=degenerate
    )  # NaN without evidence, or where no image is right


def named(row: pd.Series) -> str:
    """A contrast in words."""
    return f"{row['operator']} with {row['set']}, k = {row['k']}" if row["set"] else str(row["operator"])


def answer(config: Config) -> Answer:
    """All contrasts on all networks, and their mean ranks."""
    frames = []
    for subject in subjects(config.where):
        classes = len(subject.classifier.class_names)
        kinds = SETS if subject.confusions is not None else SETS[1:]
        for kind in (*kinds, "all"):
            sizes = (classes - 1,) if kind == "all" else tuple(k for k in SIZES if k < classes)
            name = kind if kind == "all" else f"{kind}:{max(sizes)}"
            rows = subject.rows(
                f"contrasts-{kind}",
                tested(sizes, free=kind == kinds[0]),
                contrast=name,
                options={"fidelity": {"percents": PERCENTS}},
            )
            frames.append(measured(rows, kind).assign(network=subject.name))
    table = pd.concat(frames, ignore_index=True)
    nearest = table["set"].iloc[0]
    table["k"] = table["k"].where(table["set"] != "all", "all")
    keys = ["operator", "set", "k"]
    better = {"F_mean": "low", "sweep_mean": "high", "own_mean": "high"}
    better = {column: good for column, good in better.items() if table[column].notna().any()}
    table["rank"] = pd.concat([ranked(group, better)["mean_rank"] for _, group in table.groupby("network")])
    mean = table.groupby(keys, sort=False).mean(numeric_only=True).sort_values("rank")
    shown = mean.reset_index()[
        [*keys, "F_mean", "sweep_mean", "own_mean", "shared_mean", "pointing_mean", "degenerate", "rank"]
    ]
    ends = table.groupby(keys, sort=False)[[*better]].agg(["min", "max"]).loc[mean.index]
    cells = {c: shown[c].map(percent) for c in shown.columns[3:-1]}
    cells |= {c: [*map(percent, shown[c], ends[c]["min"], ends[c]["max"])] for c in better}
    text = shown.assign(
        **cells, rank=shown["rank"].map("{:.1f}".format)
    ).rename(
        columns={
            "F_mean": "mean F", "sweep_mean": "drop over 5, 20, 50%", "own_mean": "mass on own evidence",
            "shared_mean": "on shared", "pointing_mean": "both peak on their own", "rank": "mean rank",
        }
    )  # fmt: skip
    first, *next_ = (row for _, row in shown.head(4).iterrows())
    of = mean.reset_index().set_index("operator")
    plain = of.loc[FREE["grad_cam"]]
    spread = {words: of.loc[words].groupby("set")["own_mean"].mean() for words in OPERATORS.values()}
    by_k = {
        words: of.loc[words][of.loc[words]["set"] == nearest].set_index("k")["own_mean"].reindex(map(str, SIZES))
        for words in OPERATORS.values()
    }
    say = "; ".join(f"{w}: " + ", ".join(f"{s} {percent(v)}" for s, v in found.items()) for w, found in spread.items())
    sizes = "; ".join(
        f"{w}: " + ", ".join(f"k = {k} {percent(v)}" for k, v in found.items()) for w, found in by_k.items()
    )
    findings = [
        Finding(
            "Which contrast should a user take?",
            "answered",
            f"By mean rank over networks and over sensitivity, fidelity and evidence: {named(first)}, then {', '.join(map(named, next_))}"
            + f" (first: mean F {percent(first['F_mean'])}, own evidence {percent(first['own_mean'])}; without contrast {percent(plain['F_mean'])}, {percent(plain['own_mean'])}).",
        ),
        Finding("Does the kind of set matter?", "answered", f"Mass on the class's own evidence, mean over k and networks. {say}."),
        Finding("Does its size matter?", "answered", f"The same with the set {nearest}. {sizes}."),
    ]  # fmt: skip
    wide = table.assign(
        row=table["operator"] + np.where(table["set"] == "", "", ", " + table["set"] + " " + table["k"])
    )
    figure = wide.pivot_table(index="row", columns="network", values="own_mean", sort=False)
    figures = {} if figure.empty else {"own": heat(figure, "map's mass on its own class's evidence, %")}
    tables = {"contrasts": Table("Means over networks [smallest, largest], best mean rank first", table, text)}
    return Answer(findings, tables, figures)


def main(config: Config) -> None:
    """Answer, and keep it."""
    keep(answer(config), config, config.out)


if __name__ == "__main__":
    from_shell(main, Config)

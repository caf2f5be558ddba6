"""Which contrast should a user take?

Question   Of the ways to take other classes out (none, mean-orthogonal, span, difference, softmax), the sets of classes (confused, likeliest, random,
           all) and their sizes, which gives maps that are class-sensitive, faithful and on their own class's evidence?
Command    python -m experiments.contrasts [--quick] [--again] [--data tfds:imagenet2012:validation --contrast-data tfds:imagenet2012:train]
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
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import paired
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined, parts
from experiments.networks import Where, asked, subjects
from experiments.pictures import heat

OPERATORS = {"case": "mean-orthogonal (CASE)", "case_span": "span-orthogonal", "finer_cam": "difference (Finer-CAM)"}
FREE = {"grad_cam": "none (Grad-CAM)", "softmax_contrast": "softmax"}
SETS = ("confusion", "topk_logits", "random")
SIZES = (1, 3, 5, 10)
PERCENTS = (5.0, 20.0, 50.0)
USUAL = 5
"""The size that others are compared with."""
COLUMNS = (
    "image_id", "method", "network", "set", "label", "top1", "degenerate_1", "degenerate_2", "F", "F_plus", "zeros_in_top", "p1",
    *(f"p_removed_{percent:g}" for percent in PERCENTS), "mass_own", "mass_shared", "mass_other", "top_own", "top_shared", "top_other",
    "points_1", "points_2",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/contrasts")


def tested(sizes: tuple[int, ...], *, free: bool) -> dict[str, MapFunction]:
    """Methods by `OPERATOR|k`."""
    found: dict[str, MapFunction] = {
        f"{words}|{k}": partial(asked, method=name, k=k) for name, words in OPERATORS.items() for k in sizes
    }
    return found | ({f"{words}|": METHODS[name].maps for name, words in FREE.items()} if free else {})


def statistics(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
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


def measured(config: Config) -> Numbers:
    """A row per image, contrast and network."""
    frames = []
    for subject in subjects(config.where):
        classes = len(subject.classifier.class_names)
        kinds = SETS if subject.confusions is not None else SETS[1:]
        for kind in (*kinds, "all"):
            sizes = (classes - 1,) if kind == "all" else tuple(k for k in SIZES if k < classes)
            name = kind if kind == "all" else f"{kind}:{max(sizes)}"
            methods, options = tested(sizes, free=kind == kinds[0]), {"fidelity": {"percents": PERCENTS}}
            rows = subject.rows(f"contrasts-{kind}", methods, contrast=name, options=options)
            frames.append(compact(rows.assign(set=kind), COLUMNS))
    return Numbers({"rows": joined(frames)}, {})


def better_of(table: pd.DataFrame) -> dict[str, str]:
    """What contrasts are ranked by: sensitivity, fidelity and evidence, where they are known."""
    better = {"F_mean": "low", "sweep_mean": "high", "own_mean": "high"}
    return {column: good for column, good in better.items() if table[column].notna().any()}


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers and mean rank of every contrast, by network."""
    found = [
        statistics(group, kind).assign(network=network) for (network, kind), group in parts(rows, "network", "set")
    ]
    table = pd.concat(found, ignore_index=True)
    table["k"] = table["k"].where(table["set"] != "all", "all")
    better = better_of(table)
    ranks = [ranked(group, better)["mean_rank"] for _, group in table.groupby("network", sort=False)]
    return table.assign(rank=pd.concat(ranks))


def changes(table: pd.DataFrame, column: str, usual: str) -> list[Estimate]:
    """Own evidence of every operator with other sets, or sizes, less that with the usual one: means over the rest, paired by network."""
    found = []
    for words in OPERATORS.values():
        mine = table[(table["operator"] == words) & (table["k"] != "all")]
        by = mine.pivot_table(index="network", columns=column, values="own_mean", sort=False, dropna=False)
        for other in [c for c in by.columns if c != usual]:
            label = f"{words}, {'k = ' if column == 'k' else ''}{other}"
            found.append(paired(label, by[other], by[usual], unit="networks"))
    return found


def ahead(table: pd.DataFrame, mean: pd.DataFrame) -> list[Estimate]:
    """Own evidence of each operator's best contrast, by mean rank, less that of Grad-CAM, paired by network."""
    own = table.set_index(["operator", "set", "k", "network"])["own_mean"].sort_index()
    plain = own[FREE["grad_cam"]].droplevel(["set", "k"])
    best = mean.reset_index().drop_duplicates("operator")
    best = best[best["operator"] != FREE["grad_cam"]]
    return [
        paired(named(row), own[row["operator"], row["set"], row["k"]], plain, unit="networks")
        for _, row in best.iterrows()
    ]


def concluded(numbers: Numbers, config: Config) -> Answer:
    """All contrasts on all networks, and their mean ranks."""
    table = summary_of(numbers.rows["rows"]) if numbers.rows else numbers.tables["summary"]
    table = table.assign(**{key: table[key].fillna("").astype(str) for key in ("set", "k")})
    nearest, keys, better = table["set"].iloc[0], ["operator", "set", "k"], better_of(table)
    mean = table.groupby(keys, sort=False).mean(numeric_only=True).sort_values("rank", kind="stable")
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
    here = place(config.where.data, "small networks, one training each" if config.where.offline else "one network each")
    sizes = list(dict.fromkeys(table.loc[table["set"] == nearest, "k"]))
    usual = str(USUAL) if str(USUAL) in sizes else sizes[-1]
    order = [named(row) for _, row in shown.head(4).iterrows()]
    findings = [
        Finding(
            "Which contrast should a user take?", here, ahead(table, mean), measure="own evidence, less Grad-CAM's", shown="points",
            note=f"The best set and size of each operator by mean rank over networks, sensitivity, fidelity and evidence; first {order[0]}, then "
            f"{'; '.join(order[1:])}. Chosen and reported on the same images, and sets of one operator hardly differ.",
        ),
        Finding(
            "Does the kind of set matter?", here, changes(table, "set", nearest), measure=f"own evidence, mean over sizes, less that with {nearest}", shown="points",
        ),
        Finding(
            "Does its size matter?", here, changes(table[table["set"] == nearest], "k", usual), measure=f"own evidence with {nearest}, less that with k = {usual}", shown="points",
        ),
    ]  # fmt: skip
    wide = table.assign(
        row=table["operator"] + np.where(table["set"] == "", "", ", " + table["set"] + " " + table["k"])
    )
    figure = wide.pivot_table(index="row", columns="network", values="own_mean", sort=False)
    figures = {} if figure.empty else {"own": heat(figure, "map's mass on its own class's evidence, %")}
    tables = {"summary": Table("Means over networks [smallest, largest], best mean rank first", table, text)}
    return Answer(findings, tables, figures)


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

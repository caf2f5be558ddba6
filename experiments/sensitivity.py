"""Class sensitivity (RQ1 of the CASE paper).

Question   On which networks, at which layer, are the maps of an image's two likeliest classes different, and for which methods?
Command    python -m experiments.sensitivity [--quick] [--data tfds:imagenet2012:validation]
Cost       about 25 minutes on 2 CPU cores, 20 of them the training of four small networks that other experiments share
Expected   the paper's: CASE rejects "median F ≥ θ" on every network, most class activation maps on few
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from case_jax import METHODS
from case_jax.methods import MapFunction
from case_jax.stats import RANK_DECIMALS, THETAS, summarise
from experiments.claim import Answer, Finding, Table, from_shell, heat, keep, percent
from experiments.networks import Subject, Where, asked, correct, subjects

CAMS = (
    "grad_cam", "hires_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "eigen_cam", "eigen_grad_cam", "ablation_cam",
)  # fmt: skip
CONTRASTIVE = ("case", "case_span", "finer_cam")
SIZES = (1, 3, 5, 10)
CONTROLS = ("random", "sobel")


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    out: Path = Path("experiments/results/sensitivity")


def methods() -> dict[str, MapFunction]:
    """What is tested: class activation maps, CASE with 1 to 10 contrast classes, other contrasts with 5, controls."""
    found: dict[str, MapFunction] = {METHODS[name].title: METHODS[name].maps for name in CAMS}
    found |= {f"CASE, k = {k}": partial(asked, method="case", k=k) for k in SIZES}
    found |= {f"{METHODS[m].title}, k = 5": partial(asked, method=m, k=5) for m in CONTRASTIVE[1:]}
    found |= {METHODS[name].title: METHODS[name].maps for name in ("softmax_contrast", *CONTROLS)}
    return found


def of_subject(subject: Subject) -> list[pd.DataFrame]:
    """Statistics of every method at the two layers of a network."""
    found = []
    for kind, layer in subject.layers.items():
        rows = subject.rows(f"sensitivity-{kind.replace(' ', '-')}", methods(), metrics=("sensitivity",), layer=layer)
        table = summarise(rows).table.reset_index()
        found.append(table.assign(network=subject.name, layer=layer, kind=kind, accuracy=correct(rows)))
    return found


def cell(row: Any) -> str:
    """Median F with its interval; `<θ` for the thresholds that it is significantly below."""
    rejected = [f"{theta:g}" for theta in THETAS if row[f"sensitive_{theta:g}"]]
    left_out = f", {row['degenerate']} degenerate" if row["degenerate"] else ""
    return percent(row["F_median"], row["F_low"], row["F_high"]) + (f" < {rejected[0]}" if rejected else "") + left_out


def answer(config: Config) -> Answer:
    """The table of all networks, layers and methods."""
    table = pd.concat([frame for subject in subjects(config.where) for frame in of_subject(subject)])
    table["where"] = table["network"] + ", " + table["kind"]
    order = [*methods()]
    text = table.assign(cell=table.apply(cell, axis=1)).pivot(index="method", columns="where", values="cell").loc[order]
    columns = list(dict.fromkeys(table["where"]))
    medians = table.pivot(index="method", columns="where", values="F_median").loc[order, columns]
    tested = table.pivot(index="method", columns="where", values="sensitive_0.5").loc[order, columns].astype(bool)
    n = len(columns)
    plain = [METHODS[name].title for name in CAMS]
    distinct = table[table["method"].isin(plain) & (table["degenerate"] < table["images"] / 2)]
    distinct = distinct.assign(mean=distinct["F_mean"].round(RANK_DECIMALS)).drop_duplicates(["where", "mean"])
    blind = int((~distinct["sensitive_0.5"].astype(bool)).sum())
    right = ", ".join(
        f"{name} {percent(value)}" for name, value in table.groupby("network", sort=False)["accuracy"].first().items()
    )
    rejecting = {name: int(n) for name, n in zip(order, tested.sum(axis=1), strict=True)}
    case = rejecting["CASE, k = 1"]
    findings = [
        Finding(
            "Most class activation maps are not class-sensitive (CASE paper, RQ1).",
            "reproduced" if blind > 2 / 3 * len(distinct) else "in part" if blind > len(distinct) / 3 else "not reproduced",
            f"Median F ≥ 0.5 is not rejected for {blind} of {len(distinct)} maps that are not contrastive (two thirds would reproduce it), counted at each of {n} pairs of "
            "network and layer, maps that are one counted once and those that are degenerate for half of the images left out. Rejected at: "
            + ", ".join(f"{name} {rejecting[name]}" for name in plain)
            + f". The networks are right on: {right}.",
        ),
        Finding(
            "CASE is class-sensitive on every network (CASE paper, RQ1; k = 1 as in its runs).",
            "reproduced" if case == n else "in part" if case else "not reproduced",
            f"Rejected at {case} of {n} with k = 1, "
            + ", ".join(f"{rejecting[f'CASE, k = {k}']} with k = {k}" for k in SIZES[1:]) + ".",
        ),
        Finding(
            "Does passing the test say enough?",
            "answered",
            f"No: the random map rejects at {rejecting[METHODS['random'].title]} of {n}, Eigen-Grad-CAM at {rejecting[METHODS['eigen_grad_cam'].title]}.",
        ),
    ]  # fmt: skip
    tables = {
        "methods": Table(
            "Median F [95%], and the threshold that it is significantly below (Wilcoxon, Holm-corrected within a column)",
            table,
            text[columns].reset_index(),
        )
    }
    figure = heat(medians, "median F, %; bold: significantly below 50%", marks=tested)
    return Answer(findings, tables, {"medians": figure})


def main(config: Config) -> None:
    """Answer, and keep it."""
    keep(answer(config), config, config.out)


if __name__ == "__main__":
    from_shell(main, Config)

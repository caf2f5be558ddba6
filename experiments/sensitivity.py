"""Class sensitivity (RQ1 of the CASE paper).

Question   On which networks, at which layer, are the maps of an image's two likeliest classes different, and for which methods?
Command    python -m experiments.sensitivity [--quick] [--again] [--data tfds:imagenet2012:validation]
Cost       about 25 minutes on 2 CPU cores, 20 of them the training of four small networks that other experiments share
Expected   the paper's: CASE rejects "median F ≥ θ" on every network, most class activation maps on few
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from case_jax import METHODS
from case_jax.methods import MapFunction
from case_jax.stats import RANK_DECIMALS, THETAS, summarise
from experiments.claim import Estimate, Finding, judged, percent, place, weighed
from experiments.estimates import BY_CLUSTER, mean_of, widened
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined, parts
from experiments.networks import Subject, Where, asked, correct, subjects
from experiments.pictures import heat

CAMS = (
    "grad_cam", "hires_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "eigen_cam", "eigen_grad_cam", "ablation_cam",
)  # fmt: skip
CONTRASTIVE = ("case", "case_span", "finer_cam")
SIZES = (1, 3, 5, 10)
CONTROLS = ("random", "sobel")
MOST = 2 / 3
"""The share of maps that is "most"."""
COLUMNS = (
    "image_id", "method", "network", "layer", "kind", "label", "top1", "p1", "degenerate_1", "degenerate_2", "F", "F_plus", "zeros_in_top",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/sensitivity")


def methods() -> dict[str, MapFunction]:
    """What is tested: class activation maps, CASE with 1 to 10 contrast classes, other contrasts with 5, controls."""
    found: dict[str, MapFunction] = {METHODS[name].title: METHODS[name].maps for name in CAMS}
    found |= {f"CASE, k = {k}": partial(asked, method="case", k=k) for k in SIZES}
    found |= {f"{METHODS[m].title}, k = 5": partial(asked, method=m, k=5) for m in CONTRASTIVE[1:]}
    found |= {METHODS[name].title: METHODS[name].maps for name in ("softmax_contrast", *CONTROLS)}
    return found


def of_subject(subject: Subject) -> list[pd.DataFrame]:
    """Rows of every method at the two layers of a network."""
    found = []
    for kind, layer in subject.layers.items():
        rows = subject.rows(f"sensitivity-{kind.replace(' ', '-')}", methods(), metrics=("sensitivity",), layer=layer)
        found.append(compact(rows.assign(layer=layer, kind=kind), COLUMNS))
    return found


def measured(config: Config) -> Numbers:
    """A row per image, method, network and layer."""
    return Numbers({"rows": joined([frame for subject in subjects(config.where) for frame in of_subject(subject)])}, {})


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Statistics of every method, by network and layer."""
    found = []
    for (network, layer, kind), group in parts(rows, "network", "layer", "kind"):
        table = summarise(group, controls=[METHODS[c].title for c in CONTROLS]).table.reset_index()
        found.append(table.assign(network=network, layer=layer, kind=kind, accuracy=correct(group)))
    table = pd.concat(found, ignore_index=True)
    return table.assign(where=table["network"].astype(str) + ", " + table["kind"].astype(str))


def cell(row: Any) -> str:
    """Median F with its interval; `<θ` for the thresholds that it is significantly below."""
    rejected = [f"{theta:g}" for theta in THETAS if row[f"sensitive_{theta:g}"]]
    left_out = f", {row['degenerate']} degenerate" if row["degenerate"] else ""
    return percent(row["F_median"], row["F_low"], row["F_high"]) + (f" < {rejected[0]}" if rejected else "") + left_out


def medians(table: pd.DataFrame, method: str, theta: float, *, clustered: bool) -> list[Estimate]:
    """Median F of a method at every network and layer, with the sign test by cluster; where rows were not kept, intervals are widened."""
    rows, unit = table[table["method"] == method], BY_CLUSTER if clustered else "images"
    found = [
        Estimate(r["where"], r["F_median"], r["F_low"], r["F_high"], int(r["n_F"]), unit, theta)
        for _, r in rows.iterrows()
    ]
    if not clustered:
        return [widened(one, within=(0, 1)) for one in found]
    two_sided = 2 * np.minimum(rows[f"p_{theta:g}"], 1 - rows[f"p_{theta:g}"])
    return [one._replace(p=float(p)) for one, p in zip(found, two_sided, strict=True)]


def blind_shares(table: pd.DataFrame) -> list[Estimate]:
    """At both θ, the share of class activation maps that are not sensitive, by network, maps that are one counted once."""
    plain = [METHODS[name].title for name in CAMS]
    distinct = table[table["method"].isin(plain) & (table["degenerate"] < table["images"] / 2)]
    distinct = distinct.assign(mean=distinct["F_mean"].round(RANK_DECIMALS)).drop_duplicates(["where", "mean"])
    found = []
    for theta in THETAS:
        blind = ~(distinct[f"sensitive_{theta:g}"].astype(bool) & (distinct["F_high"] < theta))
        shares = blind.groupby(distinct["network"], sort=False, observed=True).mean()
        found.append(mean_of(f"not sensitive at {theta:g}", shares, unit="networks", margin=MOST))
    return found


WIDER = (
    "Rows were not kept: intervals over images are taken 2.5 times as wide, as scenes share strokes, and which maps are sensitive is by Wilcoxon's "
    "test and intervals over images."
)


def concluded(numbers: Numbers, config: Config) -> Answer:
    """The table of all networks, layers and methods."""
    clustered = "rows" in numbers.rows
    table = summary_of(numbers.rows["rows"]) if clustered else numbers.tables["summary"]
    order, columns = [name for name in methods() if name in set(table["method"])], list(dict.fromkeys(table["where"]))
    text = table.assign(cell=table.apply(cell, axis=1)).pivot(index="method", columns="where", values="cell").loc[order]
    values = table.pivot(index="method", columns="where", values="F_median").loc[order, columns]
    marks = table.pivot(index="method", columns="where", values="sensitive_0.5").loc[order, columns].astype(bool)
    right = ", ".join(f"{n} {percent(v)}" for n, v in table.groupby("network", sort=False)["accuracy"].first().items())
    here = place(config.where.data, "small networks, one training each" if config.where.offline else "one network each")
    caution = "" if clustered else f" {WIDER}"
    theta, stricter = THETAS[::-1]
    case = medians(table, "CASE, k = 1", stricter, clustered=clustered)
    lenient = medians(table, "CASE, k = 1", theta, clustered=clustered)
    at = sum(one.status == "holds" for one in weighed(lenient, "universal", "below"))
    controls = {
        name: medians(table, name, stricter, clustered=clustered)
        for name in (METHODS["random"].title, METHODS["eigen_grad_cam"].title, METHODS["sobel"].title)
    }
    passes = {
        n: sum(o.status == "holds" for o in weighed(found, "universal", "below")) for n, found in controls.items()
    }
    findings = [
        Finding(
            "Most class activation maps are not class-sensitive, at 0.5 and at 0.7 (CASE paper, RQ1).", here, blind_shares(table), "universal",
            measure="share of distinct maps, mean over networks", shown="percent",
            note=f"Two thirds would be most. Maps that are one count once, those degenerate for half of the images not. The networks are right on: {right}.{caution}",
        ),
        Finding(
            "CASE is class-sensitive at 0.5 on every network (CASE paper, RQ1; k = 1 as in its runs).", here, case, "universal", "below",
            measure="median F of CASE with one class", shown="percent",
            note=f"At 0.7: {judged(lenient, 'universal', 'below')}, holds in {at} of {len(lenient)}.{caution}",
        ),
        Finding(
            "Does passing the test at 0.5 say enough?", here,
            [mean_of(name, [o.value for o in found], unit="pairs of network and layer") for name, found in controls.items()],
            measure="median F, mean over networks and layers", shown="percent",
            note=f"Pass, of {len(columns)} pairs of network and layer: " + ", ".join(f"{n} {count}" for n, count in passes.items()) + f".{caution}",
        ),
    ]  # fmt: skip
    title = "Median F [95%], and the threshold that it is significantly below (Holm-corrected within a column)"
    tables = {"summary": Table(title, table, text[columns].reset_index())}
    return Answer(
        findings, tables, {"medians": heat(values, "median F, %; bold: significantly below 50%", marks=marks)}
    )


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""Does a map hold its own class, and what the network needs? (class-specific deletion, ours)

Question   Which methods' maps hurt their own class more than the rival when removed, and the pair of classes more than as much of the image elsewhere does?
           Does contrast cost necessity? Do the diagnostic F, the drop and the mass on evidence rank methods alike? Which contrast should a user take?
Command    python -m experiments.specificity [--seeds 5] [--quick] [--again] [--data tfds:imagenet2012:validation]
Cost       about 40 minutes on 2 CPU cores, beside 90 for the training of 20 small networks that `seeds` shares
Expected   a low F alone says nothing: controls that are contrasts of noise, or maps exchanged, have it, too; contrast gains specificity and costs necessity
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from case_jax import METHODS
from case_jax._checks import require
from case_jax.methods import MapFunction, untrained_contrast
from case_jax.models.initial import initial_params
from case_jax.report.loading import Method
from case_jax.report.scores import Scored
from case_jax.stats import THETAS, Interval, both_usable, estimates_of, mean_drop, summarise
from case_jax.stats.estimates import cluster_names, clusters_in
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import kendall, mean_of, of_images, paired
from experiments.families import CONVOLUTIONAL, SHIPPED
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined
from experiments.networks import Subject, Where, asked, correct, subjects
from experiments.pictures import pair_of_scores

PLAIN = (
    "grad_cam", "hires_cam", "grad_cam_plus_plus", "layer_cam", "ablation_cam", "eigen_grad_cam", "guided_backprop", "integrated_gradients",
)  # fmt: skip
CONTRASTS = (("case", 1), ("case", 5), ("case_span", 5), ("finer_cam", 1), ("finer_cam", 5))
CONTROLS = ("random", "centre_gaussian", "sobel", "exchanged", "noise_contrast")
UNTRAINED = "Finer-CAM, untrained network"
GRAD_CAM, SOFTMAX, RANDOM = (METHODS[name].title for name in ("grad_cam", "softmax_contrast", "random"))
PERCENTS = (2, 5, 10, 20)
REMOVED = (5.0, 20.0, 50.0)
HALVES = ("the first half of the strokes", "the second")
COLUMNS = (
    "image_id", "method", "network", "seed", "label", "top1", "p1", "degenerate_1", "degenerate_2", "F", "F_plus", "zeros_in_top", "mass_own",
    *(f"p_removed_{percent:g}" for percent in REMOVED), "specificity", "necessity", "necessity_random", "hurts_own",
    *(f"{name}_{k}" for name in ("specificity", "necessity") for k in PERCENTS), "specificity_oracle", "necessity_oracle",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    seeds: int = 5
    """Trainings of each family."""
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/specificity")


def contrasts() -> dict[str, MapFunction]:
    """Contrasts with one and with five classes, and that with all."""
    found: dict[str, MapFunction] = {
        f"{METHODS[name].title}, k = {k}": partial(asked, method=name, k=k) for name, k in CONTRASTS
    }
    return found | {SOFTMAX: METHODS["softmax_contrast"].maps}


def titles(names: Sequence[str]) -> list[str]:
    """Of methods by name."""
    return [METHODS[name].title for name in names]


def methods(subject: Subject) -> dict[str, MapFunction]:
    """What is tested on a network: plain maps, contrasts, controls."""
    model, classifier = subject.model(), subject.classifier
    untrained = untrained_contrast(model, initial_params(classifier, seed=subject.where.seed), seed=subject.where.seed)
    named = {METHODS[name].title: METHODS[name].maps for name in (*PLAIN, *CONTROLS)}
    return {**named, **contrasts(), UNTRAINED: untrained}


def networks_of(config: Config) -> Iterator[tuple[int, Subject]]:
    """Every family with every seed, and the shipped network once."""
    require(config.seeds >= 1, "seeds", config.seeds, "at least 1")
    for seed in range(1 if config.where.quick or not config.where.offline else config.seeds):
        where = dataclasses.replace(config.where, seed=seed)
        for subject in subjects(where, small=(*CONVOLUTIONAL, SHIPPED) if seed == 0 else CONVOLUTIONAL):
            yield seed, subject


def measured(config: Config) -> Numbers:
    """A row per image, method and network."""
    frames, facts = [], []
    for seed, subject in networks_of(config):
        metrics = ("sensitivity", "fidelity", "evidence", "specificity")
        rows = subject.rows(
            f"specificity-{seed}", methods(subject), metrics=metrics, options={"fidelity": {"percents": REMOVED}}
        )
        frames.append(compact(rows.assign(seed=seed), COLUMNS))
        facts.append({"network": subject.name, "seed": seed, "accuracy": correct(rows)})
    return Numbers({"rows": joined(frames)}, {"networks": pd.DataFrame(facts)})


SCORES = {
    "specificity": "specificity", "necessity": "necessity", "1 − F": "unlike", "drop": "drop", "own mass": "mass_own",
}  # fmt: skip
"""What methods are ranked by; a large value is good of each."""


def scored(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with usable maps of both classes, with what is asked of them beside the metrics' own columns."""
    usable = rows[both_usable(rows)]
    return usable.assign(unlike=1 - usable["F"], drop=mean_drop(usable))


ONE = ["network", "seed", "method"]


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over images of every method, network and training; of F the median."""
    by = scored(rows).groupby(ONE, sort=False, observed=True)
    named = COLUMNS[COLUMNS.index("mass_own") :]
    numbers = [c for c in named if c in rows] + ["drop"]
    return by[numbers].mean().assign(n=by.size(), F=by["F"].median(), unlike=by["unlike"].median()).reset_index()


def verdicts_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Which methods are class-sensitive on which network and training, and their maps that are degenerate."""
    controls = [*titles(CONTROLS), UNTRAINED]
    found = []
    for _, group in rows.groupby(ONE[:2], sort=False, observed=True):
        asked = group.drop(columns=[c for c in group if c == "mass_own" or str(c).startswith("p_removed")])
        table = summarise(asked, controls=controls).table.reset_index()
        kept = table[["method", "degenerate", *(f"sensitive_{theta:g}" for theta in THETAS)]]
        found.append(kept.assign(network=group["network"].iloc[0], seed=group["seed"].iloc[0]))
    return pd.concat(found, ignore_index=True).astype(dict.fromkeys(("network", "method"), str))


def of_families(table: pd.DataFrame, method: str, other: str, column: str) -> list[Estimate]:
    """How much larger a method's mean is than another's, by family over trainings, where there are several."""
    wide = table.pivot_table(index=["network", "seed"], columns="method", values=column, sort=False, observed=True)
    found = []
    for network in dict.fromkeys(wide.index.get_level_values("network")):
        part = wide.loc[network]
        if len(part) < 2:
            continue
        found.append(paired(f"{method}: {network}", part[method], part[other], unit="trainings"))
    return found


def over_all(table: pd.DataFrame, method: str, other: str, column: str, *, label: str | None = None) -> Estimate:
    """How much larger a method's mean is than another's, over all networks and trainings."""
    wide = table.pivot_table(index=["network", "seed"], columns="method", values=column, sort=False, observed=True)
    return paired(label or method, wide[method], wide[other], unit="trained networks")


def agreements(table: pd.DataFrame) -> dict[str, Estimate]:
    """Kendall's τ of the order of methods by specificity with their order by each other score, over trained networks; controls left out."""
    known = table[~table["method"].isin([*titles(CONTROLS), UNTRAINED])]
    found: dict[str, list[float]] = {name: [] for name in list(SCORES)[1:]}
    for _, group in known.groupby(["network", "seed"], sort=False, observed=True):
        for name, taus in found.items():
            if group[SCORES[name]].notna().sum() > 2:
                taus.append(kendall(group["specificity"], group[SCORES[name]]))
    return {name: mean_of(name, taus, unit="trained networks") for name, taus in found.items() if taus}


def half_of(rows: pd.DataFrame) -> pd.Series:
    """0 or 1 for images all of whose strokes are in the first or the second half, −1 for the others; by image, where nothing is shared."""
    ids = clusters_in(rows) if cluster_names(rows) else rows[["image_id"]].to_numpy()
    halves = np.random.default_rng(0).integers(0, 2, int(ids.max()) + 1)[ids]
    return pd.Series(np.where((halves == halves[:, :1]).all(1), halves[:, 0], -1), index=rows.index)


def recommended(rows: pd.DataFrame, column: str) -> tuple[str, list[Estimate]]:
    """The contrast with the largest mean of a score on one half of the strokes, and how far it is ahead of the others on the other half."""
    halves = half_of(rows)
    first, second = (means_of(rows[halves == half]) for half in (0, 1))
    names = [name for name in (*contrasts(), GRAD_CAM) if name in set(first["method"])]
    best = first[first["method"].isin(names)].groupby("method", observed=True)[column].mean().idxmax()
    ahead = [over_all(second, str(best), name, column, label=f"over {name}") for name in names if name != best]
    return str(best), ahead


def table_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The pair and the other scores: means over networks [smallest, largest family], by specificity."""
    families = table.groupby(["method", "network"], sort=False, observed=True).mean(numeric_only=True)
    mean = families.groupby("method", sort=False).mean().sort_values("specificity", ascending=False)
    ends = families.groupby("method", sort=False).agg(["min", "max"])

    def cell(method: str, column: str, form: str = "{:.2f}") -> str:
        low, high = ends.loc[method, (column, "min")], ends.loc[method, (column, "max")]
        return f"{form.format(mean.loc[method, column])} [{form.format(low)}, {form.format(high)}]"

    rows = []
    for method, numbers in mean.astype(float).to_dict("index").items():
        row = {"method": str(method), "specificity": cell(str(method), "specificity")}
        if not np.isnan(numbers.get("specificity_oracle", np.nan)):
            row["of the oracle's"] = percent(numbers["specificity"] / numbers["specificity_oracle"])
        row |= {"each hurts its own": percent(numbers["hurts_own"]), "necessity": cell(str(method), "necessity")}
        row |= {"F": percent(numbers["F"]), "drop": percent(numbers["drop"])}
        rows.append(row | {"own mass": percent(numbers.get("mass_own", np.nan))})
    return pd.DataFrame(rows)


def by_share(table: pd.DataFrame) -> pd.DataFrame:
    """Specificity and necessity at each share of the pixels removed: means over all networks."""
    names = [GRAD_CAM, METHODS["layer_cam"].title, *contrasts(), RANDOM]
    families = table.groupby(["method", "network"], sort=False, observed=True).mean(numeric_only=True)
    mean = families.groupby("method", sort=False).mean()
    columns = {f"{name} at {k}%": f"{name}_{k}" for name in ("specificity", "necessity") for k in PERCENTS}
    known = [name for name in names if name in mean.index]
    cells = {title: [f"{mean.loc[name, column]:.2f}" for name in known] for title, column in columns.items()}
    return pd.DataFrame({"method": known, **cells})


def picture(table: pd.DataFrame) -> Figure:
    """Specificity against necessity, means over trained networks with Student's intervals."""
    grey = {*titles(CONTROLS), UNTRAINED}
    marks = []
    for name, group in table.groupby("method", sort=False, observed=True):
        across, up = (mean_of("", group[column], unit="") for column in ("specificity", "necessity"))
        method = Method(str(name), str(name), str(name) in grey, False, {})
        marks.append(Scored(method, *(Interval(one.value, one.low, one.high) for one in (across, up))))
    return pair_of_scores(marks)


def shipped(rows: pd.DataFrame) -> list[Estimate]:
    """Specificity on the network that the package ships, by image, with what images share."""
    mine = scored(rows[(rows["network"] == SHIPPED) & (rows["seed"] == 0)])
    among = estimates_of(mine)
    return [
        of_images(str(name), group.set_index("image_id")["specificity"], among)
        for name, group in mine.groupby("method", sort=False, observed=True)
    ]


def findings(rows: pd.DataFrame, table: pd.DataFrame, here: str) -> list[Finding]:
    """What was found."""
    named = [name for name in contrasts() if name in set(table["method"])]
    finer, case = "Finer-CAM, k = 5", "CASE, k = 1"
    costs = [
        over_all(table, name, GRAD_CAM, f"necessity_{k}", label=f"{name}, {k}% removed")
        for name in (case, finer, SOFTMAX) for k in PERCENTS
    ]  # fmt: skip
    above = [
        over_all(table, name, RANDOM, f"necessity_{k}", label=f"{name}, {k}% removed")
        for name in (case, finer, SOFTMAX) for k in PERCENTS
    ]  # fmt: skip
    controls = [*titles(("exchanged", "noise_contrast")), UNTRAINED, RANDOM]
    won = [
        mean_of(name, table.loc[table["method"] == name, "specificity"], unit="trained networks") for name in controls
    ]
    low = {name: percent(float(table.loc[table["method"] == name, "F"].mean())) for name in controls}
    taus = agreements(table)
    best, ahead = recommended(rows, "specificity")
    fullest, fuller = recommended(rows, "necessity")
    logits, difference = "logits", "specificity, less Grad-CAM's, in logits"
    return [
        Finding(
            "Maps of contrastive methods hold their own class more than Grad-CAM's do.", here,
            [over_all(table, name, GRAD_CAM, "specificity") for name in named], "universal", measure=difference,
        ),
        Finding(
            "CASE's with one class do so on every architecture.", here, of_families(table, case, GRAD_CAM, "specificity"), "universal",
            measure=difference,
        ),
        Finding(
            "Contrast costs necessity, whatever the share of pixels removed.", here, costs, "universal", "below",
            measure="necessity, less Grad-CAM's, in logits", note="Three contrasts at four shares; by share also in the table.",
        ),
        Finding(
            "What a contrastive map marks is still more necessary than what a random map marks.", here, above, "universal",
            measure="necessity, less the random map's, in logits",
        ),
        Finding(
            "What have the controls of contrast?", here, won, measure=f"specificity, in {logits}",
            note="Their median F all the same: " + ", ".join(f"{name} {value}" for name, value in low.items()) + ".",
        ),
        Finding(
            "Do F, the drop, own mass and necessity rank methods as specificity does?", here, [*taus.values()],
            measure="Kendall's τ with the order by specificity", note="Controls left out; mean over trained networks.",
        ),
        Finding(
            "Which contrast holds its class best?", here, ahead, measure="specificity, in logits",
            note=f"{best}, chosen on {HALVES[0]}; on {HALVES[1]} it is ahead by so much.",
        ),
        Finding(
            "Which is most necessary?", here, fuller, measure="necessity, in logits",
            note=f"{fullest}, chosen on {HALVES[0]}; on {HALVES[1]} it is ahead by so much.",
        ),
    ]  # fmt: skip


def concluded(numbers: Numbers, config: Config) -> Answer:
    """The pair for all methods and networks, and what follows."""
    rows, networks = numbers.rows["rows"].astype(dict.fromkeys(("network", "method"), str)), numbers.tables["networks"]
    table = means_of(rows).merge(verdicts_of(rows), on=ONE)
    trained = networks.groupby("network", sort=False).size()
    said = ", ".join(f"{name} {count}" for name, count in trained.items())
    right: Any = networks.groupby("network", sort=False)["accuracy"].mean()
    here = place(config.where.data, "small networks" if config.where.offline else "one network each")
    found = findings(rows, table, here)
    images = rows["image_id"].nunique()
    about = networks.assign(accuracy=networks["accuracy"].map(percent)) if config.where.offline else networks
    if SHIPPED in set(table["network"]):
        found.append(
            Finding(
                "And on the network that the package ships, by handwritten stroke?", place(config.where.data, SHIPPED), shipped(rows),
                measure="specificity, in logits", note="Right on " + ", ".join(f"{k} {percent(v)}" for k, v in right.items()) + ".",
            )
        )  # fmt: skip
    tables = {
        "summary": Table(
            f"Means over families [smallest, largest], {images} images each; trainings: {said}",
            table,
            table_shown(table),
        ),
        "shares": Table(
            "By share of the pixels removed: means over families, in logits", by_share(table), by_share(table)
        ),
        "networks": Table("The networks", networks, about),
    }
    return Answer(found, tables, {"pair": picture(table)})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

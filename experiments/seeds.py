"""Is class sensitivity a property of the architecture or of the training run? (the CASE paper's study of DenseNet)

Question   Over networks trained from several seeds, how often is "median F ≥ θ" rejected, how far does the mean agreement of one method scatter, and
           do classes share their channels?
Command    python -m experiments.seeds [--seeds 5] [--quick]
Cost       about 80 minutes on 2 CPU cores, nearly all of it the training of 16 small networks beside the four that other experiments share
Expected   the paper's: architectures differ, DenseNet least sensitive, its classes sharing most of their channels
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array
from matplotlib.figure import Figure

from case_jax import class_maps
from case_jax.metrics import METRICS, Metric, Scored
from case_jax.report.figures import COLOURS, PERCENT, plain_style
from case_jax.stats import THETAS, both_usable, summarise
from experiments.claim import Answer, Finding, Table, keep, percent
from experiments.sensitivity import methods
from experiments.subjects import Subject, Where, correct, subjects

FAMILIES_TESTED = ("ResNet", "VGG", "DenseNet", "ConvNeXt")
NAMES = (
    "Grad-CAM",
    "LayerCAM",
    "Ablation-CAM",
    "Eigen-Grad-CAM",
    "CASE, k = 1",
    "CASE, k = 5",
    "Finer-CAM, k = 5",
    "softmax-contrast",
)
SHARE, MASS, SMALL = 0.1, 0.9, 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    seeds: int = 5
    out: Path = Path("experiments/results/seeds")


def channel_columns(scored: Scored) -> dict[str, Array]:
    """`jaccard`: of the top tenth of the channels of the two likeliest classes; `active`: share of the channels that hold 90% of the likeliest's;
    `rank`: of the class weights of all classes, singular values below a thousandth of the largest not counted.

    A channel's part in a class is `|α_c[k] · mean_{hw} A[h,w,k]|`.
    """
    view = scored.view
    parts = jnp.abs(view.class_weights(scored.targets[:2]) * view.activation.mean((0, 1)))
    count = max(1, round(SHARE * parts.shape[1]))
    tops = jnp.zeros(parts.shape, bool).at[jnp.arange(2)[:, None], jax.lax.top_k(parts, count)[1]].set(True)
    falling = -jnp.sort(-parts[0])
    needed = (jnp.cumsum(falling) < MASS * falling.sum()).sum() + 1
    values = jnp.linalg.svd(view.class_weights(jnp.arange(view.logits.shape[0])), compute_uv=False)
    return {
        "jaccard": (tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum(),
        "active": needed / parts.shape[1],
        "rank": (values > SMALL * values[0]).sum(),
    }


def spatial_columns(scored: Scored) -> dict[str, Array]:
    """`row` and `column`: centre of the positive part of the likeliest class's class map, in units of the map's side."""
    view = scored.view
    maps = jax.nn.relu(class_maps(view.activation, view.class_weights(scored.targets[:1])))[0]
    mass = maps / jnp.maximum(maps.sum(), 1e-30)
    height, width = maps.shape
    rows, columns = (jnp.arange(n) / max(1, n - 1) for n in (height, width))
    return {"row": (mass.sum(1) * rows).sum(), "column": (mass.sum(0) * columns).sum()}


SCORES = {
    "sensitivity": METRICS["sensitivity"],
    "channels": Metric(channel_columns, "do the two likeliest classes use the same channels?"),
    "place": Metric(spatial_columns, "where does the class map lie?"),
}


def of_network(subject: Subject, seed: int) -> tuple[pd.DataFrame, dict[str, float | str | int]]:
    """Statistics of every method, and facts about the network."""
    every = methods()
    rows = subject.rows(f"seeds-{seed}", {name: every[name] for name in NAMES}, metrics=SCORES)
    table = summarise(rows, resamples=500).table.reset_index()
    images = rows.drop_duplicates("image_id")
    within = images.groupby("top1")[["row", "column"]].var(ddof=1).dropna().mean().sum()
    overall = images[["row", "column"]].var(ddof=1).sum()
    facts = {
        "network": subject.name, "seed": seed, "accuracy": correct(rows),
        "jaccard": float(images["jaccard"].mean()), "active": float(images["active"].mean()), "rank": float(images["rank"].mean()),
        "consistency": float(1 - within / overall),
    }  # fmt: skip
    usable = rows[both_usable(rows)]
    means = usable.groupby("method")["F"].mean().rename("mean_F").reset_index()
    return table.merge(means, on="method").assign(network=subject.name, seed=seed), facts


def draw(table: pd.DataFrame, networks: list[str]) -> Figure:
    """Mean agreement of every network, a dot each."""
    with plain_style():
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axis = figure.subplots()
        for i, network in enumerate(networks):
            for j, name in enumerate(NAMES):
                values = table[(table["network"] == network) & (table["method"] == name)]["mean_F"]
                place = j + 0.16 * (i - (len(networks) - 1) / 2)
                label = network if j == 0 else None
                axis.plot(np.full(len(values), place), values, "o", ms=3.5, color=COLOURS[i], label=label, alpha=0.8)
        axis.axhline(0.5, color="#444444", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(len(NAMES)), NAMES, rotation=15, ha="right")
        axis.yaxis.set_major_formatter(PERCENT)
        axis.set_ylabel("mean F of a network")
        figure.legend(loc="outside upper center", ncols=len(networks))
    return figure


def answer(config: Config) -> Answer:
    """Rejections, scatter and channels of every family."""
    seeds = 1 if config.where.quick else config.seeds
    tables, facts = [], []
    for seed in range(seeds):
        for subject in subjects(dataclasses.replace(config.where, seed=seed), small=FAMILIES_TESTED):
            table, fact = of_network(subject, seed)
            tables.append(table)
            facts.append(fact)
    table, networks = pd.concat(tables), pd.DataFrame(facts)
    names = list(dict.fromkeys(networks["network"]))
    grouped = table.groupby(["method", "network"], sort=False)
    rejected = {theta: grouped[f"sensitive_{theta:g}"].sum().astype(int) for theta in THETAS}
    spread = grouped["mean_F"].agg(["mean", "min", "max"])
    cells = [
        f"{rejected[0.5][k]} / {rejected[0.7][k]} of {seeds}; {percent(v['mean'], v['min'], v['max'])}"
        for k, v in spread.iterrows()
    ]
    shown = spread.assign(cell=cells)["cell"].unstack().loc[list(NAMES), names].reset_index()
    by = networks.groupby("network", sort=False)
    ends = by[["accuracy", "jaccard", "active", "consistency", "rank"]].agg(["mean", "min", "max"])
    about = pd.DataFrame(
        {"network": names}
        | {
            title: [percent(*(ends.loc[n, (c, s)] for s in ("mean", "min", "max"))) for n in names]  # type: ignore[misc]
            for c, title in {
                "accuracy": "accuracy", "jaccard": "channels shared by the two likeliest classes (Jaccard)",
                "active": "channels that hold 90% of a class", "consistency": "variance of place explained by the class",
            }.items()
        }
    )  # fmt: skip
    about["rank of the 25 classes' weights"] = [f"{ends.loc[n, ('rank', 'mean')]:.1f}" for n in names]
    between = spread["mean"].unstack().std(axis=1).mean()
    within = grouped["mean_F"].std(ddof=1).mean() if seeds > 1 else np.nan
    plain = spread.loc[NAMES[0], "mean"]
    least = plain.idxmax()
    sharing = by["jaccard"].mean().idxmax()
    findings = [
        Finding(
            "Class sensitivity depends on the architecture, and DenseNet has least of it (CASE paper).",
            "reproduced" if least == "DenseNet" else "not reproduced",
            "Mean F of Grad-CAM: " + ", ".join(f"{n} {percent(v)}" for n, v in plain.items()) + f"; the least sensitive is {least}.",
        ),
        Finding(
            "Is it the architecture or the run?",
            "answered",
            f"Standard deviation of mean F between families {between:.1%}, between seeds of a family {within:.1%} (means over methods, {seeds} seeds).",
        ),
        Finding(
            "Classes share their channels most where maps are least class-sensitive.",
            "reproduced" if sharing == least else "not reproduced",
            f"Jaccard index of the top tenth of the channels is highest in {sharing} ("
            + ", ".join(f"{n} {percent(v)}" for n, v in by["jaccard"].mean().items()) + f"); Grad-CAM is least sensitive in {least}.",
        ),
        Finding(
            "The same on CIFAR-100 with DenseNet, fine-tuned.",
            "not testable offline",
            "The images and the weights are not here. `case-jax train classifier` fine-tunes and `python -m experiments.sensitivity --data tfds:cifar100:test` tests.",
        ),
    ]  # fmt: skip
    tables_ = {
        "seeds": Table(
            "Networks that reject median F ≥ 0.5 / ≥ 0.7; mean F over seeds [smallest, largest]", table, shown
        ),
        "networks": Table("The networks: means over seeds [smallest, largest]", networks, about),
    }
    return Answer(findings, tables_, {"mean_agreement": draw(table, names)})


def main(config: Config) -> None:
    """Answer, and keep it."""
    keep(answer(config), config, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

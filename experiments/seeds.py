"""Is class sensitivity a property of the architecture or of the training run? (the CASE paper's study of DenseNet)

Question   Over networks trained from several seeds, how often is "median F ≥ θ" rejected, how far does the mean agreement of one method scatter, and
           do classes share their channels?
Command    python -m experiments.seeds [--seeds 5] [--quick] [--again] [--data tfds:cifar100:test --networks densenet201]
Cost       about 70 minutes on 2 CPU cores, nearly all of it the training of 16 small networks beside the four that other experiments share; on CIFAR-100 each
           seed fine-tunes for 20 epochs, an hour on a GPU
Expected   the paper's: DenseNet separates the maps of classes more than other architectures, whatever the seed, and its classes share fewest channels
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array
from matplotlib.figure import Figure

from case_jax._checks import require
from case_jax.data import open_source
from case_jax.evaluation.batches import select
from case_jax.imageops import normalise_image
from case_jax.metrics import METRICS, Metric, MetricInputs
from case_jax.report.figures import COLOURS, PERCENT, plain_style
from case_jax.source import UnreadableImageError
from case_jax.stats import THETAS, both_usable, summarise
from experiments.cifar100 import fine_tuned
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import mean_of, unpaired
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined, parts
from experiments.networks import Subject, Where, correct, subjects, weights_of
from experiments.sensitivity import methods

FAMILIES_TESTED = ("ResNet", "VGG", "DenseNet", "ConvNeXt")
DENSE = "DenseNet"
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
LARGE_TESTED = ("densenet201",)
COLUMNS = (
    "image_id", "method", "network", "seed", "label", "top1", "p1", "degenerate_1", "degenerate_2", "F", "F_plus", "zeros_in_top", "jaccard", "active",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    seeds: int = 5
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/seeds")


def channel_columns(inputs: MetricInputs) -> dict[str, Array]:
    """`jaccard`: of the top tenth of the channels of the two likeliest classes; `active`: share of the channels that hold 90% of the likeliest's.

    A channel's part in a class is `|α_c[k] · mean_{hw} A[h,w,k]|`.
    """
    view = inputs.view
    parts = jnp.abs(view.class_weights(inputs.targets[:2]) * view.activation.mean((0, 1)))
    count = max(1, round(SHARE * parts.shape[1]))
    tops = jnp.zeros(parts.shape, bool).at[jnp.arange(2)[:, None], jax.lax.top_k(parts, count)[1]].set(True)
    falling = -jnp.sort(-parts[0])
    needed = (jnp.cumsum(falling) < MASS * falling.sum()).sum() + 1
    return {"jaccard": (tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum(), "active": needed / parts.shape[1]}


SCORES = {
    "sensitivity": METRICS["sensitivity"],
    "channels": Metric(channel_columns, "do the two likeliest classes use the same channels?"),
}


def rank(weights: np.ndarray) -> int:
    """Rank of the class weights of all classes of an image, (C, K): singular values below a thousandth of the largest do not count.

    On the host: a decomposition is a call of LAPACK, which has no place in a step.
    """
    values = np.linalg.svd(weights, compute_uv=False)
    return int((values > SMALL * values[0]).sum())


def activations(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last maps of the images, (N, h, w, K), their labels and ranks; images that cannot be read or have no label are left out."""
    model, source = subject.model(), subject.source

    @jax.jit
    def look(params, image):
        with jax.default_matmul_precision("highest"):
            view = model.view(params, image)
            return view.activation, view.class_weights(jnp.arange(model.num_classes))

    maps, labels, ranks = [], [], []
    for index in select(source, min(subject.where.images, len(source)), subject.where.seed).tolist():
        try:
            example = source[index]
        except UnreadableImageError:
            continue
        if example.label >= 0:
            activation, weights = look(model.params, normalise_image(example.image, *subject.pixels))
            maps.append(np.asarray(activation))
            labels.append(example.label)
            ranks.append(rank(np.asarray(weights)))
    return np.array(maps), np.array(labels), np.array(ranks)


def channel_overlap(pooled: np.ndarray, labels: np.ndarray) -> float:
    """Mean Jaccard index, over pairs of classes, of the channels that are among the strongest tenth in any image of the class.

    The public code's measure, which takes ten channels of however many.

    Args:
        pooled: mean activation of every image and channel, (N, K).
        labels: (N,).
    """
    count = max(1, round(SHARE * pooled.shape[1]))
    strong = np.zeros(pooled.shape, bool)
    np.put_along_axis(strong, np.argpartition(-pooled, count - 1, axis=1)[:, :count], True, axis=1)
    used = [strong[labels == c].any(0) for c in np.unique(labels)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(used, 2)]))


def spatial_consistency(maps: np.ndarray, labels: np.ndarray) -> float:
    """Mean cosine of an image's activation with the mean activation of its class, the public code's measure; 0 for one that is all zero."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    means = {c: flat[labels == c].mean(0) for c in np.unique(labels)}
    cosines = [
        a @ means[c] / max(np.linalg.norm(a) * np.linalg.norm(means[c]), 1e-12)
        for a, c in zip(flat, labels, strict=True)
    ]
    return float(np.mean(cosines))


def networks_of(config: Config, seed: int) -> Iterator[Subject]:
    """The networks of one seed: small ones trained on digit scenes, or large ones fine-tuned on CIFAR-100.

    Raises:
        CaseJaxError: for other data.
    """
    where = dataclasses.replace(config.where, seed=seed)
    if where.offline:
        yield from subjects(where, small=FAMILIES_TESTED)
        return
    require(where.data.startswith("tfds:cifar100"), "data", where.data, "digit_scenes:SPLIT or tfds:cifar100:SPLIT")
    names = where.networks or LARGE_TESTED
    for name, weights in zip(names, weights_of(where, names), strict=True):
        network = fine_tuned(name, weights, seed, where.kept / "networks" / f"{name}-{seed}", quick=where.quick)
        facts = network.of_images
        yield Subject(
            name,
            network,
            open_source(where.data, network.class_names, resize=facts.resize, crop=facts.crop),
            None,
            where,
        )


def of_network(subject: Subject, seed: int) -> tuple[pd.DataFrame, dict[str, float | str | int]]:
    """Rows of every method, and facts about the network."""
    every = methods()
    rows = subject.rows(f"seeds-{seed}", {name: every[name] for name in NAMES}, metrics=SCORES)
    images = rows.drop_duplicates("image_id")
    maps, labels, ranks = activations(subject)
    facts = {
        "network": subject.name, "seed": seed, "accuracy": correct(rows), "overlap": channel_overlap(maps.mean((1, 2)), labels),
        "consistency": spatial_consistency(maps, labels),
        "jaccard": float(images["jaccard"].mean()), "active": float(images["active"].mean()), "rank": float(ranks.mean()),
    }  # fmt: skip
    return compact(rows.assign(seed=seed), COLUMNS), facts


def measured(config: Config) -> Numbers:
    """A row per image, method and network; facts about every network."""
    require(config.seeds >= 1, "seeds", config.seeds, "at least 1")
    frames, facts = [], []
    for seed in range(1 if config.where.quick else config.seeds):
        for subject in networks_of(config, seed):
            rows, fact = of_network(subject, seed)
            frames.append(rows)
            facts.append(fact)
    return Numbers({"rows": joined(frames)}, {"networks": pd.DataFrame(facts)})


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Statistics of every method, by network and seed."""
    found = []
    for (network, seed), group in parts(rows, "network", "seed"):
        usable = group[both_usable(group)]
        means = usable.groupby("method", observed=True)["F"].mean().rename("mean_F").reset_index()
        table = summarise(group, resamples=500).table.reset_index()
        found.append(table.merge(means, on="method").assign(network=network, seed=int(seed)))
    return pd.concat(found, ignore_index=True)


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


FACTS = {
    "accuracy": "accuracy", "overlap": "channels shared by two classes (Jaccard)", "jaccard": "... by an image's two likeliest", "active": "channels that hold 90% of a class",
    "consistency": "cosine with the class's mean activation",
}  # fmt: skip


def findings(table: pd.DataFrame, networks: pd.DataFrame, here: str) -> list[Finding]:
    """What was found over seeds."""
    names = list(dict.fromkeys(networks["network"]))
    means = table.pivot_table(index=["network", "seed"], columns="method", values="mean_F", observed=True)
    values = {n: means.loc[n, NAMES[0]].to_numpy() for n in names}
    found = [case_everywhere(table, names, here, theta) for theta in THETAS[:1]]
    if len(names) > 1:
        between, within = means.groupby("network").mean().std(ddof=1), means.groupby("network").std(ddof=1).mean()
        scatter = [
            mean_of(label, spread.reindex(list(NAMES)), unit="methods")
            for label, spread in (("between families", between), ("between seeds of a family", within))
        ]
        text = f"Means over {len(NAMES)} methods of the standard deviation; {len(names)} families, {networks['seed'].nunique()} seeds."
        question = "Is it the architecture or the run?"
        found.append(
            Finding(
                question, here, scatter, measure="standard deviation of a method's mean F", shown="percent", note=text
            )
        )
    others = [n for n in names if n != DENSE]
    if DENSE in names and others:
        gains = [unpaired(n, values[n], values[DENSE], unit="trainings of each") for n in others]
        shared = {n: networks.loc[networks["network"] == n, "overlap"].to_numpy() for n in names}
        fewer = [unpaired(n, shared[n], shared[DENSE], unit="trainings of each") for n in others]
        said = ", ".join(f"{n} {percent(float(v.mean()), float(v.min()), float(v.max()))}" for n, v in values.items())
        channels = ", ".join(f"{n} {percent(float(v.mean()))}" for n, v in shared.items())
        found += [
            Finding(
                "DenseNet separates the maps of classes more than other architectures (CASE paper).", here, gains, "universal",
                measure="mean F of Grad-CAM, less DenseNet's", shown="points", note=f"Mean F [smallest, largest]: {said}.",
            ),
            Finding(
                "Its classes share fewest channels (CASE paper).", here, fewer, "universal",
                measure="Jaccard index of two classes' strongest channels, less DenseNet's", shown="points", note=f"Jaccard index: {channels}.",
            ),
        ]  # fmt: skip
    return found


def case_everywhere(table: pd.DataFrame, names: list[str], here: str, theta: float) -> Finding:
    """Whether CASE with one class is class-sensitive on every architecture, over trainings."""
    rows = table[table["method"] == "CASE, k = 1"]
    comparisons: list[Estimate] = [
        mean_of(n, rows.loc[rows["network"] == n, "F_median"], unit="trainings", margin=theta) for n in names
    ]
    short = rows[rows["F_high"] >= theta]
    said = ", ".join(f"{r['network']} {percent(r['F_median'], r['F_low'], r['F_high'])}" for _, r in short.iterrows())
    return Finding(
        f"CASE is class-sensitive at {theta:g} on every architecture (CASE paper, RQ1; k = 1 as in its runs).", here, comparisons, "universal", "below",
        measure="median F of CASE with one class, mean over trainings", shown="percent",
        note=f"The interval over images is not below {theta:g} on {len(short)} of {len(rows)} single networks" + (f": {said}." if said else "."),
    )  # fmt: skip


CIFAR = (
    "The images and the weights are not here; python -m experiments.seeds --data tfds:cifar100:test fine-tunes as the paper's code does, and says "
    "how often each method rejects."
)


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Rejections, scatter and channels of every family."""
    table = summary_of(numbers.rows["rows"]) if numbers.rows else numbers.tables["summary"]
    networks = numbers.tables["networks"]
    names = list(dict.fromkeys(networks["network"]))
    grouped = table.groupby(["method", "network"], sort=False, observed=True)
    rejected = {theta: grouped[f"sensitive_{theta:g}"].sum().astype(int) for theta in THETAS}
    spread = grouped["mean_F"].agg(["mean", "min", "max", "size"])
    spread = spread.assign(**{f"at_{theta:g}": rejected[theta] for theta in THETAS})
    cells = [
        f"{v['at_0.5']:.0f} / {v['at_0.7']:.0f} of {v['size']:.0f}; {percent(v['mean'], v['min'], v['max'])}"
        for _, v in spread.iterrows()
    ]
    shown = spread.assign(cell=cells)["cell"].unstack().loc[list(NAMES), names].reset_index()
    by = networks.groupby("network", sort=False)
    ends = by[[*FACTS, "rank"]].agg(["mean", "min", "max"])
    about = pd.DataFrame(
        {"network": names}
        | {title: [percent(*(ends.loc[n, (c, s)] for s in ("mean", "min", "max"))) for n in names] for c, title in FACTS.items()}  # type: ignore[misc]
    )  # fmt: skip
    about["rank of all classes' weights"] = [f"{ends.loc[n, ('rank', 'mean')]:.1f}" for n in names]
    here = place(config.where.data, "small networks" if config.where.offline else "fine-tuned networks")
    found = findings(table, networks, here)
    if config.where.offline:
        claim = "The same of DenseNet-201 fine-tuned on CIFAR-100."
        found.append(Finding(claim, "on CIFAR-100, DenseNet-201", stated="not testable offline", note=CIFAR))
    title = "Networks that reject median F ≥ 0.5 / ≥ 0.7; mean F over seeds [smallest, largest]"
    tables = {
        "summary": Table(title, table, shown),
        "networks": Table("The networks: means over seeds [smallest, largest]", networks, about),
    }
    return Answer(found, tables, {"mean_agreement": draw(table, names)})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

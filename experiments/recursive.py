"""Does the accuracy on masked images reward masks that give the answer away?

Question   A mask made for the label is scored by whether the classifier then names the label (Attribution Mask, Lee and Chang 2021). Does the score rise
           over rounds, and more without biases, as the paper says? Does it rise as well for a random class that is not in the image?
Command    python -m experiments.recursive [--seeds 3] [--quick] [--again]
Cost       about 70 minutes on 2 CPU cores, most of it the training of the networks without biases beside as many that other experiments share
Expected   gradient × sign without biases: near 100% for the label, and so for most wrong classes: the score is no evidence that the class is there
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from case_jax import METHODS
from case_jax._checks import require
from case_jax.data import DigitScenes, open_source
from case_jax.data.digit_scenes import CLASS_NAMES
from case_jax.methods import MapFunction, integrated_gradients
from case_jax.report.figures import COLOURS, PERCENT, plain_style
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import mean_of, paired, unpaired
from experiments.families import WEIGHTS, in_processes, small_network, train_network, training_of
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined, parts
from experiments.networks import CONFUSION_SCENES, Subject, Where, subjects

FAMILIES_TESTED = ("ResNet", "DenseNet")
"""Of ReLUs, convolutions, dense layers and pools alone, so homogeneous without biases; `--networks` takes VGG and digit_resnet as well."""
ROUNDS = 5
ASKED = ("label", "predicted", "wrong")
SIGN, INPUT = "gradient × sign", "input × gradient"
TESTED: dict[str, MapFunction] = {
    SIGN: METHODS["gradient_x_sign"].maps,
    INPUT: METHODS["input_x_gradient"].maps,
    "integrated gradients": partial(integrated_gradients, steps=8),
    "Grad-CAM": METHODS["grad_cam"].maps,
    "CASE": METHODS["case"].maps,
    "random map (control)": METHODS["random"].maps,
    "centre Gaussian (control)": METHODS["centre_gaussian"].maps,
    "whole image but one pixel (control)": METHODS["whole_image"].maps,
}
DRAWN = tuple(TESTED)[:6]
SCORES = [f"mia_{asked}_{i}" for asked in ASKED for i in range(ROUNDS + 1)]
KEYS = ["network", "biases", "seed", "method"]
CONFIDENCE = ("average_drop", "average_gain", "average_increase", "mask_mean")
COLUMNS = ("image_id", "method", "network", "biases", "seed", "label", "top1", *SCORES, *CONFIDENCE)
FREE, BIASED = "without biases", "with biases"
HARMLESS, MOST = 0.95, 0.5
UNIT = "trainings"


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=lambda: Where(limit=200))
    seeds: int = 3
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/recursive")


def bias_free(where: Where) -> Iterator[Subject]:
    """Networks without biases of one seed, trained where that has not been done."""
    names = where.networks or FAMILIES_TESTED
    folders = {name: where.kept / "networks" / f"{name}-without-biases-{where.seed}" for name in names}
    trainings = {name: training_of(name, quick=where.quick, biases=False) for name in names}
    in_processes(
        [
            partial(train_network, name, where.seed, folder, training=trainings[name], biases=False)
            for name, folder in folders.items()
            if not (folder / WEIGHTS).exists()
        ],
        where.processes,
    )
    source = open_source(where.data, CLASS_NAMES, resize=48, crop=48, size=where.images)
    for name, folder in folders.items():
        network = small_network(name, where.seed, folder, training=trainings[name], biases=False)
        yield Subject(name, network, source, DigitScenes("confusion", CONFUSION_SCENES), where)


def rows_of(subject: Subject, biases: str) -> pd.DataFrame:
    """One row per image and method."""
    rows = subject.rows(
        f"recursive-{biases.replace(' ', '-')}-{subject.where.seed}",
        TESTED,
        contrast="topk_logits:5",
        metrics=("masked_accuracy", "masked_confidence"),
        options={"masked_accuracy": {"rounds": ROUNDS}},
    )
    return compact(rows.assign(biases=biases, seed=subject.where.seed), COLUMNS)


def measured(config: Config) -> Numbers:
    """A row per image, method and network."""
    require(config.seeds >= 1, "seeds", config.seeds, "at least 1")
    require(config.where.offline, "data", config.where.data, "digit_scenes:SPLIT, on which these networks are trained")
    frames = []
    for seed in range(1 if config.where.quick else config.seeds):
        where = dataclasses.replace(config.where, seed=seed)
        named = dataclasses.replace(where, networks=where.networks or FAMILIES_TESTED)
        for biases, networks in ((BIASED, subjects(named)), (FREE, bias_free(where))):
            frames += [rows_of(subject, biases) for subject in networks]
    return Numbers({"rows": joined(frames)}, {})


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The scores of every network and method: means over images."""
    shown = [c for c in rows if c in (*SCORES, *CONFIDENCE)]
    return rows.groupby(KEYS, sort=False, observed=True)[shown].mean().reset_index()


def of(means: pd.DataFrame, network: str, biases: str, method: str, column: str) -> pd.Series:
    """One score by seed."""
    chosen = (means["network"] == network) & (means["biases"] == biases) & (means["method"] == method)
    return means[chosen].set_index("seed")[column].sort_index()


def findings(means: pd.DataFrame) -> list[Finding]:
    """The paper's claims, and what they leave out."""
    names, last = list(dict.fromkeys(means["network"])), ROUNDS
    here = place("digit_scenes", f"small networks ({', '.join(names)})")

    def rise(network: str, biases: str, asked: str, *, start: int = 0) -> pd.Series:
        score = partial(of, means, network, biases, SIGN)
        return score(f"mia_{asked}_{last}") - score(f"mia_{asked}_{start}")

    def each(score: str, *, method: str = SIGN, margin: float = 0.0) -> list[Estimate]:
        return [mean_of(n, of(means, n, FREE, method, score), unit=UNIT, margin=margin) for n in names]

    gains = [mean_of(n, rise(n, FREE, "label"), unit=UNIT) for n in names]
    more = [unpaired(n, rise(n, FREE, "label"), rise(n, BIASED, "label"), unit=f"{UNIT} of each") for n in names]
    ahead = [paired(n, *(of(means, n, FREE, m, f"mia_label_{last}") for m in (SIGN, INPUT)), unit=UNIT) for n in names]
    wrong = [mean_of(n, rise(n, FREE, "wrong", start=1), unit=UNIT) for n in names]

    def told(network: str, biases: str) -> str:
        shares = [
            percent(float(of(means, network, biases, SIGN, f"mia_{a}_{last}").mean())) for a in ("label", "wrong")
        ]
        return f"{' and '.join(shares)} ({network})"

    said = "; ".join(f"{biases} {', '.join(told(n, biases) for n in names)}" for biases in (FREE, BIASED))
    after = f"after {last} rounds"
    return [
        Finding(
            "Without biases, gradient × sign raises the accuracy on masked images above the plain accuracy (Attribution Mask).", here, gains,
            "universal", measure=f"masked accuracy for the label {after}, less the plain accuracy", shown="points",
        ),
        Finding(
            "It rises more without biases than with them (Attribution Mask).", here, more, "universal",
            measure=f"rise of the masked accuracy for the label {after}, less that with biases", shown="points",
        ),
        Finding(
            "Without biases gradient × sign is ahead of input × gradient (Attribution Mask).", here, ahead, "universal",
            measure=f"masked accuracy for the label {after}, less that of input × gradient", shown="points",
        ),
        Finding(
            f"Without biases, masks made for the prediction keep it in more than {percent(HARMLESS)} of the images.", here,
            each(f"mia_predicted_{last}", margin=HARMLESS), "universal",
            measure=f"masked accuracy for the prediction {after}", shown="percent",
        ),
        Finding(
            "Without biases, masks of gradient × sign made for a random class that is not in the image make the classifier name it in most images.", here,
            each(f"mia_wrong_{last}", margin=MOST), "universal", measure=f"masked accuracy for a wrong class {after}", shown="percent",
            note=f"What the mask is told, the classifier says; for the label and for a wrong class: {said}.",
        ),
        Finding(
            "Recursion raises the masked accuracy for a wrong class, too.", here, wrong, "universal",
            measure=f"masked accuracy for a wrong class {after}, less that after one", shown="points",
        ),
    ]  # fmt: skip


def table_of(means: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Methods × networks: these scores, means over trainings."""
    cells: dict[str, dict[str, str]] = {}
    for (network, biases, method), group in parts(means, "network", "biases", "method"):
        found = [percent(float(group[score].mean())) for score in scores]
        cells.setdefault(method, {})[f"{network} {biases}"] = " / ".join(found)
    return pd.DataFrame([{"method": method, **found} for method, found in cells.items()])


def accuracy_of(means: pd.DataFrame) -> pd.DataFrame:
    """The last round's scores for label, prediction and wrong class, below the plain accuracy."""
    table = table_of(means, [f"mia_{asked}_{ROUNDS}" for asked in ASKED])
    plain = table_of(means, ["mia_label_0"]).head(1).assign(method="the whole image (accuracy)")
    return pd.concat([plain, table], ignore_index=True)


def draw(means: pd.DataFrame) -> Figure:
    """The three scores over rounds, a line of panels for each network, without biases as lines and with them as dots; means over trainings."""
    names = list(dict.fromkeys(means["network"]))
    with plain_style():
        figure = Figure(figsize=(9.5, 1 + 2.1 * len(names)), layout="constrained")
        axes = figure.subplots(len(names), 3, sharex=True, sharey=True, squeeze=False)
        heads = ("for the label", "for the prediction", "for a random wrong class")
        for line, name in zip(axes, names, strict=True):
            for axis, asked, head in zip(line, ASKED, heads, strict=True):
                for (biases, method), group in parts(means[means["network"] == name], "biases", "method"):
                    if method not in DRAWN:
                        continue
                    style = {"ls": "-", "label": method} if biases == FREE else {"ls": ":", "lw": 1}
                    values = [group[f"mia_{asked}_{i}"].mean() for i in range(ROUNDS + 1)]
                    colour = COLOURS[DRAWN.index(method)]
                    axis.plot(
                        range(ROUNDS + 1), values, marker="o", ms=3 if biases == FREE else 0, color=colour, **style
                    )
                axis.set_title(f"{name}, {head}", fontsize=9)
        for axis in axes[:, 0]:
            axis.yaxis.set_major_formatter(PERCENT)
            axis.set_ylabel("named by the classifier")
        for axis in axes[-1]:
            axis.set_xlabel("rounds of masking")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        handles.append(Line2D([], [], color="black", ls=":", lw=1))
        figure.legend(handles, [*labels, BIASED], loc="outside upper center", ncols=4)
    return figure


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Tables, findings and a picture."""
    means = means_of(numbers.rows["rows"])
    title = f"Masked accuracy after {ROUNDS} rounds for the label / the prediction / a random wrong class, means over trainings"
    drop = "The map of the prediction as a mask: average drop / gain / increase / mean of the map, means over trainings"
    confidence = [c for c in CONFIDENCE if c in means]
    tables = {
        "accuracy": Table(title, means.drop(columns=confidence), accuracy_of(means)),
        "confidence": Table(drop, means[[*KEYS, *confidence]], table_of(means, confidence)),
    }
    return Answer(findings(means), tables, {"rounds": draw(means)})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

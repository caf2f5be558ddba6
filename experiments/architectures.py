"""Transformers beside convolutional networks (ours).

Question   Are transformers' explanations class-sensitive, and does contrast repair them?
Command    python -m experiments.architectures [--seeds 5] [--beside 5] [--quick] [--again] [--data tfds:imagenet2012:validation]
Cost       about 20 minutes of one CPU core, beside 20 for the training of ten small transformers, and 100 for twenty convolutional networks that `seeds` shares
Expected   attention marks the same for both classes, and its contrast holds each class; a low F alone says nothing, as a contrast of noise has it, too
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from case_jax import METHODS
from case_jax._checks import require, unknown
from case_jax.methods import MapFunction, contrasted, difference_of_maps
from case_jax.stats import THETAS
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import mean_of, paired, unpaired
from experiments.families import CONVOLUTIONAL, TRANSFORMERS
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined
from experiments.networks import LARGE, Subject, Where, asked, correct, subjects
from experiments.pictures import heat
from experiments.specificity import COLUMNS, ONE, REMOVED, means_of, verdicts_of

CAMS, PROPAGATION, ATTENTION = (
    ("grad_cam", "hires_cam", "layer_cam"),
    ("libra_grad", "attn_lrp"),
    ("gradient_rollout", "le_grad"),
)
CONTROLS = ("random", "noise_contrast")
BLIND = METHODS["attention_rollout"].title
CONTRAST, DIFFERENCE = "{}, contrast", "{}, difference of maps"
LARGE_TRANSFORMERS = ("vit_base_patch16_224", "swin_tiny")
FEW_CLASSES = 100
"""A difference of maps asks for the maps of all classes: it is left out where there are more than so many."""
UNIT = "trainings"


def titled(*names: str) -> tuple[str, ...]:
    """The titles of methods by name."""
    return tuple(METHODS[name].title for name in names)


GRAD_CAM, SOFTMAX = titled("grad_cam", "softmax_contrast")
FINER = "Finer-CAM, k = 5"
CAM_CONTRASTS = {"CASE, k = 1": ("case", 1), FINER: ("finer_cam", 5)}
OWN = titled(*ATTENTION, *PROPAGATION)
"""Methods made for transformers that know of classes."""
REPAIRED = {CONTRAST.format(name): name for name in OWN} | dict.fromkeys((*CAM_CONTRASTS, SOFTMAX), GRAD_CAM)
"""The contrasts, and the method without."""
DIFFERENCES = {DIFFERENCE.format(name): name for name in titled(*ATTENTION)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=lambda: Where(limit=40))
    seeds: int = 5
    """Trainings of each transformer."""
    beside: int = 5
    """Trainings of each convolutional family."""
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/architectures")


def methods(subject: Subject) -> dict[str, MapFunction]:
    """What is tested on a network: class activation maps, their contrasts and controls on all; what was made for transformers on these.

    Methods that read attention need it over all tokens, which windows (Swin) do not have.
    """
    found: dict[str, MapFunction] = {METHODS[name].title: METHODS[name].maps for name in CAMS}
    found |= {title: partial(asked, method=name, k=k) for title, (name, k) in CAM_CONTRASTS.items()}
    found |= {METHODS[name].title: METHODS[name].maps for name in ("softmax_contrast", *CONTROLS)}
    kinds = {"vision transformer": (*PROPAGATION, *ATTENTION), "Swin transformer": PROPAGATION}
    family = subject.classifier.entry.family
    for name in kinds.get(family.title if family else "", ()):
        title, maps = METHODS[name].title, METHODS[name].maps
        found |= {title: maps, CONTRAST.format(title): contrasted(maps)}
        if name in ATTENTION:
            found[BLIND] = METHODS["attention_rollout"].maps
            if len(subject.classifier.class_names) <= FEW_CLASSES:
                found[DIFFERENCE.format(title)] = difference_of_maps(maps)
    return found


def networks_of(config: Config) -> Iterator[tuple[int, Subject]]:
    """Every family with every seed; with other data the large networks once."""
    for name in ("seeds", "beside"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "a number of trainings of at least 1")
    where = config.where
    if not where.offline:
        named = where.networks or (*LARGE_TRANSFORMERS, *LARGE)
        for subject in subjects(dataclasses.replace(where, networks=named)):
            yield where.seed, subject
        return
    for name in where.networks:
        if name not in (*TRANSFORMERS, *CONVOLUTIONAL):
            raise unknown("networks", name, (*TRANSFORMERS, *CONVOLUTIONAL))
    for names, seeds in ((TRANSFORMERS, config.seeds), (CONVOLUTIONAL, config.beside)):
        usual = names[:1] if where.quick else names
        named = tuple(name for name in names if name in (where.networks or usual))
        for seed in range(1 if where.quick else seeds) if named else ():
            for subject in subjects(dataclasses.replace(where, networks=named, seed=seed)):
                yield seed, subject


def of_subject(seed: int, subject: Subject) -> pd.DataFrame:
    """Rows of every method on a network."""
    metrics = ("sensitivity", "fidelity", "evidence", "specificity")
    options = {"fidelity": {"percents": REMOVED}}
    return subject.rows(f"architectures-{seed}", methods(subject), metrics=metrics, options=options)


def measured(config: Config) -> Numbers:
    """A row per image, method and network."""
    frames, facts = [], []
    for seed, subject in networks_of(config):
        rows = of_subject(seed, subject)
        frames.append(compact(rows.assign(seed=seed), COLUMNS))
        facts.append({"network": subject.name, "seed": seed, "accuracy": correct(rows)})
    return Numbers({"rows": joined(frames)}, {"networks": pd.DataFrame(facts)})


def values(table: pd.DataFrame, network: str, method: str, column: str) -> pd.Series:
    """One number of a method for each training of a family."""
    return table[(table["network"] == network) & (table["method"] == method)].set_index("seed")[column].sort_index()


def over_trainings(
    table: pd.DataFrame, names: tuple[str, ...], column: str, networks: list[str], *, margin: float = 0.0
) -> list[Estimate]:
    """The mean of each method over trainings, by family."""
    return [
        mean_of(f"{name}: {network}", found, unit=UNIT, margin=margin)
        for network in networks
        for name in names
        if len(found := values(table, network, name, column))
    ]


def gains(table: pd.DataFrame, pairs: Mapping[str, str], column: str, networks: list[str]) -> list[Estimate]:
    """How much larger the first method's number is than the second's, over the same trainings, by family."""
    found = []
    for network in networks:
        for name, other in pairs.items():
            first, second = (values(table, network, method, column) for method in (name, other))
            if len(first):
                label = f"{name}: {network}" if other in name else f"{name} over {other}: {network}"
                found.append(paired(label, first, second.reindex(first.index), unit=UNIT))
    return found


def findings(table: pd.DataFrame, here: str, images: int) -> list[Finding]:
    """What was found; margins, sides and rules were set before the first run."""
    known = list(dict.fromkeys(table["network"]))
    transformers = [name for name in known if name in (*TRANSFORMERS, *LARGE_TRANSFORMERS)]
    theta, logits, F = THETAS[0], "in logits", "median F, mean over trainings"
    controls = over_trainings(table, (*titled(*CONTROLS), BLIND), "F", transformers)
    passing = ", ".join(f"{one.label} {percent(one.value)}" for one in controls)
    plain = table[table["network"].isin(transformers) & (table["method"] == GRAD_CAM)]
    pairs = f"Grad-CAM has maps of both classes that are not empty in {plain['n'].min()} to {plain['n'].max()} of {images} scenes, by training."
    others = table[~table["network"].isin(transformers) & (table["method"] == GRAD_CAM)]["F"]
    differ = [
        unpaired(f"{name}, less {len(others)} convolutional networks", values(table, name, GRAD_CAM, "F"), others, unit="networks of each")
        for name in transformers if len(others)
    ]  # fmt: skip
    return [
        Finding(
            f"What was made for transformers is class-sensitive at {theta:g}.", here,
            over_trainings(table, OWN, "F", transformers, margin=theta), "universal", "below", measure=F, shown="percent",
        ),
        Finding(
            f"Class activation maps of transformers are class-sensitive at {theta:g}.", here,
            over_trainings(table, titled(*CAMS), "F", transformers, margin=theta), "universal", "below", measure=F, shown="percent", note=pairs,
        ),
        Finding(
            "Grad-CAM's maps of two classes are more alike on transformers than on convolutional networks.", here, differ, "universal",
            measure="median F of Grad-CAM, difference of means over networks", shown="points",
        ),
        Finding(
            f"With contrast all are class-sensitive at {theta:g}.", here,
            over_trainings(table, (*REPAIRED, *DIFFERENCES), "F", transformers, margin=theta), "universal", "below", measure=F, shown="percent",
            note=f"Which alone says little; the controls' median F: {passing}.",
        ),
        Finding(
            "With contrast each map holds its own class more.", here, gains(table, REPAIRED, "specificity", transformers), "universal",
            measure=f"specificity, less that of the method without contrast, {logits}",
        ),
        Finding(
            "With contrast more of the map lies on its own class's evidence.", here, gains(table, REPAIRED, "mass_own", transformers), "universal",
            measure="mass on own evidence, less that of the method without contrast", shown="points",
        ),
        Finding(
            "Contrast costs necessity on transformers.", here, gains(table, REPAIRED, "necessity", transformers), "universal", "below",
            measure=f"necessity, less that of the method without contrast, {logits}",
        ),
        Finding(
            "What was made for transformers holds its class more than Grad-CAM does.", here,
            gains(table, dict.fromkeys(OWN, GRAD_CAM), "specificity", transformers), "universal", measure=f"specificity, less Grad-CAM's, {logits}",
        ),
        Finding(
            "How much does contrast gain on which architecture?", here, gains(table, {FINER: GRAD_CAM}, "specificity", known),
            measure=f"specificity of Finer-CAM, less Grad-CAM's, {logits}",
        ),
        Finding(
            "Which contrast of attention holds the class more: the map of a difference, or the difference of maps?", here,
            gains(table, {CONTRAST.format(name): DIFFERENCE.format(name) for name in titled(*ATTENTION)}, "specificity", transformers),
            measure=f"specificity of the map of a difference, less that of the difference of maps, {logits}",
        ),
    ]  # fmt: skip


def by_family(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means over trainings: a row a method, a column a family."""
    names, families = (list(dict.fromkeys(table[key])) for key in ("method", "network"))
    wide = table.pivot_table(index="method", columns="network", values=column, observed=True)
    return wide.reindex(index=names, columns=families)


def in_logits(mean: float, low: float, high: float) -> str:
    """A mean with the smallest and the largest, where they differ."""
    return f"{mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low < high else "")


def shown(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The same as text: mean over trainings [smallest, largest]."""
    form = percent if column in ("F", "mass_own") else in_logits
    by = table.groupby(["method", "network"], sort=False, observed=True)[column].agg(["mean", "min", "max"])
    cells = pd.Series(["" if np.isnan(row[0]) else form(*row) for row in by.to_numpy(float)], by.index).unstack()
    wanted = by_family(table, column)
    return cells.reindex(wanted.index, columns=wanted.columns).fillna("").reset_index()


TABLES = {
    "F": "median F", "specificity": "specificity, in logits", "necessity": "necessity, in logits", "mass_own": "mass on own evidence",
}  # fmt: skip


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Every score by method and family, and what follows."""
    rows, networks = numbers.rows["rows"].astype(dict.fromkeys(("network", "method"), str)), numbers.tables["networks"]
    table = means_of(rows).merge(verdicts_of(rows), on=ONE)
    here = place(config.where.data, "small networks" if config.where.offline else "one network each")
    trained = networks.groupby("network", sort=False).size()
    said = ", ".join(f"{name} {count}" for name, count in trained.items())
    images = rows["image_id"].nunique()
    title = f"mean over trainings [smallest, largest]; {images} images each; trainings: {said}"
    about = networks.assign(accuracy=networks["accuracy"].map(percent))
    tables = {"summary": Table("By training", table), "networks": Table("The networks", networks, about)}
    for column, words in TABLES.items():
        if column in table:
            tables[column] = Table(
                f"{words[0].upper()}{words[1:]}: {title}", by_family(table, column).reset_index(), shown(table, column)
            )
    passed = by_family(table.assign(passed=table[f"sensitive_{THETAS[0]:g}"].astype(float)), "passed")
    picture = heat(by_family(table, "F"), "median F, %; bold: below 50% on every training", marks=passed == 1)
    return Answer(findings(table, here, images), tables, {"medians": picture})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

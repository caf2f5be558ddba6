"""Sound: does what holds of maps of pictures hold of maps of spectrograms?

Question   On sound scenes, do contrastive maps hold their own class more than Grad-CAM's, at the cost of necessity, and lie on their own marker?
Command    python -m experiments.sound [--seeds 5] [--quick] [--again]
Cost       about 35 minutes on 2 CPU cores, 20 of them the training of five classifiers
Expected   as on digit scenes: contrast gains specificity and own evidence, and costs necessity
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from case_jax import METHODS
from case_jax.methods import MapFunction
from case_jax.stats import both_usable, estimates_of
from experiments.claim import Estimate, Finding, percent
from experiments.estimates import mean_of, of_images, paired
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined
from experiments.networks import asked_by_name, correct
from experiments.sound_networks import Sounds, about, over_trainings, trainings
from experiments.specificity import GRAD_CAM, contrasts, titles

PLAIN = ("grad_cam", "hires_cam", "grad_cam_plus_plus", "layer_cam", "eigen_grad_cam", "saliency", "guided_backprop")
CONTROLS = ("random", "centre_gaussian", "sobel", "exchanged", "noise_contrast")
CONFIDENCE = {"average_drop": "AD", "average_gain": "AG", "average_increase": "AI"}
MEANS = ("specificity", "necessity", "necessity_random", "mass_own", "hurts_own", *CONFIDENCE)
LOGITS: Callable[[float], str] = "{:.1f}".format
SHOWN = {
    "specificity": ("specificity", LOGITS),
    "necessity": ("necessity", LOGITS),
    "F": ("median F", percent),
    "mass_own": ("mass on own marker", percent),
} | {column: (title, percent) for column, title in CONFIDENCE.items()}
METRICS = ("sensitivity", "evidence", "specificity", "masked_confidence")
COLUMNS = (
    "image_id", "method", "network", "seed", "label", "top1", "p1", "degenerate_1", "degenerate_2", "F", "F_plus", "mass_own", "mass_shared",
    "mass_other", "specificity", "necessity", "necessity_random", "hurts_own", "specificity_oracle", "necessity_oracle", *CONFIDENCE,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, sounds and where the answer goes."""

    sounds: tyro.conf.OmitArgPrefixes[Sounds] = dataclasses.field(default_factory=Sounds)
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/sound")


def methods() -> dict[str, MapFunction]:
    """What is tested: plain maps, contrasts with one and five classes, controls."""
    named = asked_by_name((*PLAIN, *CONTROLS))
    return {METHODS[name].title: maps for name, maps in named.items()} | contrasts()


def measured(config: Config) -> Numbers:
    """A row per sound, method and training."""
    frames, facts = [], []
    for subject in config.sounds.subjects():
        rows, known = (
            subject.rows("sound", methods(), metrics=METRICS),
            {"network": "sound_cnn", "seed": subject.where.seed},
        )
        frames.append(compact(rows.assign(**known), COLUMNS))
        facts.append(known | {"accuracy": correct(rows), "scenes": len(subject.source)})
    return Numbers({"rows": joined(frames)}, {"networks": pd.DataFrame(facts)})


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over sounds with usable maps of both classes, of every method and training; of F the median."""
    by = rows[both_usable(rows)].groupby(["seed", "method"], sort=False, observed=True)
    means = by[list(MEANS)].mean().assign(n=by.size(), F=by["F"].median())
    return means.reset_index()


def against(table: pd.DataFrame, name: str, other: str, column: str) -> Estimate:
    """How much larger a method's mean is than another's, paired by training."""
    values = table.pivot(index="seed", columns="method", values=column)
    return paired(name, values[name], values[other], unit="trained networks")


def by_sound(rows: pd.DataFrame, column: str) -> list[Estimate]:
    """The first training's means over sounds, which share nothing, less Grad-CAM's."""
    mine = rows[(rows["seed"] == 0) & both_usable(rows)]
    values: Any = mine.pivot(index="image_id", columns="method", values=column)
    among = estimates_of(mine)
    return [
        of_images(name, (values[name] - values[GRAD_CAM]).dropna(), among) for name in contrasts() if name in values
    ]


def findings(rows: pd.DataFrame, table: pd.DataFrame, here: str) -> list[Finding]:
    """What was found; the rules were written before the rows."""
    contrastive = list(contrasts())
    over = {
        c: [against(table, name, GRAD_CAM, c) for name in contrastive]
        for c in ("specificity", "necessity", "mass_own", "F")
    }
    controls = [
        mean_of(n, table.loc[table["method"] == n, "specificity"], unit="trained networks") for n in titles(CONTROLS)
    ]
    return [
        Finding(
            "On sound, too, contrastive maps hold their own class more than Grad-CAM's do.", here, over["specificity"], "universal",
            measure="specificity, less Grad-CAM's, in logits",
        ),
        Finding(
            "On sound, too, contrast costs necessity.", here, over["necessity"], "universal", "below",
            measure="necessity, less Grad-CAM's, in logits",
        ),
        Finding(
            "Contrastive maps have more of their mass where their own marker sounds.", here, over["mass_own"], "universal",
            measure="share of mass on own evidence, less Grad-CAM's", shown="points",
        ),
        Finding(
            "The two classes' maps share fewer top pixels than Grad-CAM's.", here, over["F"], "universal", "below",
            measure="median F, less Grad-CAM's", shown="points",
        ),
        Finding(
            "And on the first network, by sound?", here, by_sound(rows, "specificity"), measure="specificity, less Grad-CAM's, in logits",
        ),
        Finding("What have the controls?", here, controls, measure="specificity, in logits"),
    ]  # fmt: skip


def concluded(numbers: Numbers, config: Config) -> Answer:
    """The table of all methods, and what follows."""
    rows, networks = numbers.rows["rows"].astype(dict.fromkeys(("network", "method"), str)), numbers.tables["networks"]
    table = means_of(rows)
    shown = over_trainings(table, SHOWN)
    tables = {"summary": Table("Means over trainings [smallest, largest]", table, shown), "networks": about(networks)}
    return Answer(findings(rows, table, trainings(networks, rows)), tables, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

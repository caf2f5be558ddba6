"""L-MAC on sound: a mask learnt for a classifier, and its contrast.

Question   Is L-MAC (arXiv 2403.13086) class-sensitive, does contrast help, and is it as faithful as its paper says?
Command    python -m experiments.lmac [--seeds 5] [--quick] [--again]
Cost       about 30 minutes on 2 CPU cores, 25 of them the training of twenty maskers; five more for each classifier of sounds that is not there
Expected   its mask is one for all classes, so no; told a class it is still the same without contrast, as a mask that shows the whole sound serves both; and
           more faithful than gradients' maps, since that is what it is trained for
"""

import dataclasses
from pathlib import Path

import pandas as pd
import tyro

from case_jax import METHODS
from case_jax.methods import MapFunction
from case_jax.stats import both_usable
from experiments.claim import Estimate, Finding, Shown, percent
from experiments.estimates import mean_of, paired
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined
from experiments.networks import asked_by_name, correct
from experiments.sound_maskers import (
    CONTRASTIVE,
    GUIDED,
    PLAIN,
    QUICK_TRAINING,
    TOLD,
    MaskerTraining,
    maskers_beforehand,
    sound_maskers,
)
from experiments.sound_networks import Sounds, about, over_trainings, trainings

GRADIENTS = ("grad_cam", "saliency", "smooth_grad", "integrated_gradients", "guided_backprop")
"""What the paper compares with, but guided Grad-CAM, SHAP and Listen to Interpret, which are not here."""
CONTRASTS = ("case", "finer_cam")
CONTROLS = ("random", "centre_gaussian", "whole_image")
ASKED = ("sensitivity", "evidence", "specificity", "masked_confidence", "faithfulness", "mask_complexity")
MEASURES = {
    "F": "F", "mass_own": "own mass", "specificity": "specificity", "necessity": "necessity", "average_increase": "AI", "average_drop": "AD",
    "average_gain": "AG", "faithfulness": "FF", "input_fidelity": "Fid-In", "gini": "SPS", "entropy": "COMP", "mask_mean": "mean of the map",
}  # fmt: skip
OF_BOTH = ("F", "mass_own", "specificity", "necessity")
"""Measures that need the maps of both classes; of F the median over sounds is taken, of all else the mean."""
IN_PERCENT = (
    "F",
    "mass_own",
    "average_increase",
    "average_drop",
    "average_gain",
    "faithfulness",
    "input_fidelity",
    "mask_mean",
)
FAITHFUL = ("average_increase", "average_drop", "average_gain", "faithfulness", "input_fidelity")
LOW = ("average_drop",)
COLUMNS = ("image_id", "method", "seed", "label", "top1", "degenerate_1", "degenerate_2", *MEASURES)
SENSITIVE = 0.5
"""θ of the test of class sensitivity."""
UNIT = "trainings of network and masker"
PAPER = "The paper, on ESC-50 with noise: L-MAC AI 62, AG 33, FF 0.40, Fid-In 0.82, SPS 0.93, COMP 9.8; fine-tuned 59, 31, 0.40, 0.82, 0.82, 10.7."


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, maskers, sounds and where the answer goes."""

    sounds: tyro.conf.OmitArgPrefixes[Sounds] = dataclasses.field(default_factory=Sounds)
    training: tyro.conf.Suppress[MaskerTraining] = dataclasses.field(default_factory=MaskerTraining)
    again: bool = False
    """Train and run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/lmac")


def methods() -> dict[str, MapFunction]:
    """What maskers are compared with."""
    named = asked_by_name((*GRADIENTS, *CONTRASTS, *CONTROLS))
    return {METHODS[name].title: maps for name, maps in named.items()}


def measured(config: Config) -> Numbers:
    """A row per sound, method and training."""
    subjects = list(config.sounds.subjects())
    maskers_beforehand(subjects, config.sounds, config.training)
    frames, facts = [], []
    for subject in subjects:
        maps = sound_maskers(subject, config.training) | methods()
        rows, seed = subject.rows("lmac", maps, metrics=ASKED), subject.where.seed
        frames.append(compact(rows.assign(seed=seed), COLUMNS))
        facts.append({"seed": seed, "accuracy": correct(rows), "scenes": len(subject.source)})
    return Numbers({"rows": joined(frames)}, {"networks": pd.DataFrame(facts)})


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over sounds with a usable map, or usable maps of both classes, of every method and training; of F the median."""
    both = both_usable(rows)
    one = rows[~rows["degenerate_1"]].groupby(["seed", "method"], sort=False, observed=True)
    two = rows[both].groupby(["seed", "method"], sort=False, observed=True)
    found = {c: (two if c in OF_BOTH else one)[c].mean() for c in MEASURES} | {"F": two["F"].median()}
    found |= {"n": one.size(), "n_both": two.size()}
    return pd.DataFrame(found).reset_index()


class Compared:
    """Means of methods and their differences, by training."""

    def __init__(self, means: pd.DataFrame):
        self.means = means

    def of(self, method: str, column: str) -> pd.Series:
        """By seed; empty where no map was usable."""
        mine = self.means[self.means["method"] == method]
        return mine.set_index("seed")[column]

    def mean(self, method: str, column: str, *, margin: float = 0.0) -> Estimate:
        """Over trainings."""
        return mean_of(method, self.of(method, column), unit=UNIT, margin=margin)

    def ahead(self, label: str, first: str, second: str, column: str) -> Estimate:
        """How much larger a measure is of the first method than of the second; smaller, of what is better low."""
        one, other = self.of(first, column).align(self.of(second, column), join="inner")
        values = (other, one) if column in LOW else (one, other)
        return paired(label, *values, unit=UNIT)


def findings(means: pd.DataFrame, here: str) -> list[Finding]:
    """What was found; the rules were written before the rows."""
    by = Compared(means)
    gradients, contrasts = ([METHODS[n].title for n in names] for names in (GRADIENTS, CONTRASTS))

    def gained(column: str, first: str, second: str) -> Estimate:
        return by.ahead(MEASURES[column], first, second, column)

    def claim(said: str, comparisons: list[Estimate], measure: str, shown: Shown, **rest: str) -> Finding:
        return Finding(said, here, comparisons, "universal", measure=measure, shown=shown, **rest)  # type: ignore[arg-type]

    found = [
        Finding(
            "Is L-MAC class-sensitive?", here, [by.mean(PLAIN, "F")], measure="median F, mean over trainings", shown="percent",
            note="No, by construction: its decoder is not told a class, so that both classes have one mask. What follows asks maskers that are told one.",
        ),
        claim(
            "A mask of L-MAC's losses that is told the class is class-sensitive at 0.5.", [by.mean(TOLD, "F", margin=SENSITIVE)],
            "median F, mean over trainings", "percent", side="below",
        ),
        claim(
            "A contrastive L-MAC is.", [by.mean(CONTRASTIVE, "F", margin=SENSITIVE)],
            "median F, mean over trainings", "percent", side="below",
        ),
        claim(
            "Contrast makes the mask hold its own class more.", [by.ahead(f"over {other}", CONTRASTIVE, other, "specificity") for other in (TOLD, PLAIN)],
            "specificity gained, in logits", "number",
        ),
        claim(
            "And lie on the own marker more.", [by.ahead(f"over {other}", CONTRASTIVE, other, "mass_own") for other in (TOLD, PLAIN)],
            "share of mass on own evidence gained", "points",
        ),
        claim(
            "At the cost of faithfulness.", [gained(column, TOLD, CONTRASTIVE) for column in FAITHFUL],
            "ahead without contrast: of AD the smaller is ahead", "points",
        ),
        claim(
            "And of necessity.", [by.ahead(other, other, CONTRASTIVE, "necessity") for other in (TOLD, PLAIN)],
            "necessity ahead of the contrastive mask's, in logits", "number",
        ),
        claim(
            "Does a contrastive masker hold its class more than contrastive class activation maps, which no one trains?",
            [by.ahead(f"over {other}", CONTRASTIVE, other, "specificity") for other in contrasts],
            "specificity gained, in logits", "number",
        ),
    ]  # fmt: skip
    for column in FAITHFUL:
        found.append(
            claim(
                f"L-MAC is more faithful than gradients' maps (L-MAC paper): {MEASURES[column]}.",
                [by.ahead(f"over {other}", PLAIN, other, column) for other in gradients],
                f"{MEASURES[column]}, ahead of the other's{'; the smaller is ahead' if column in LOW else ''}",
                "points",
                note=PAPER if column == FAITHFUL[0] else "",
            )
        )
    found.append(
        claim(
            "And its mask is sparser (L-MAC paper).", [by.ahead(f"over {other}", PLAIN, other, "gini") for other in gradients],
            "Gini index gained", "number",
        )
    )  # fmt: skip
    tuned = [gained(column, PLAIN, GUIDED) for column in (*FAITHFUL, "gini")]
    found.append(claim("The second stage costs faithfulness and sparseness (L-MAC paper).", tuned, "ahead before the second stage", "points"))  # fmt: skip
    return found


def concluded(numbers: Numbers, config: Config) -> Answer:
    """The table of all methods, and what follows."""
    rows, networks = numbers.rows["rows"].astype({"method": str}), numbers.tables["networks"]
    means = means_of(rows)
    written = {c: (title, percent if c in IN_PERCENT else "{:.2f}".format) for c, title in MEASURES.items()}
    shown = over_trainings(means, written)
    tables = {"summary": Table("Means over trainings [smallest, largest]", means, shown), "networks": about(networks)}
    return Answer(findings(means, f"{trainings(networks, rows)} and of each masker"), tables, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    if config.sounds.quick:
        config = dataclasses.replace(config, training=QUICK_TRAINING)
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

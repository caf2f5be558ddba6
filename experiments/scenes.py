"""Scenes that do not favour contrast.

Question   Is the known evidence of digit scenes the evidence that a classifier uses, and do the methods rank alike where the body decides, there is one
           object or three candidates, behind texture and distractors, and in larger scenes?
Command    python -m experiments.scenes [--quick] [--again] [--variants usual texture] [--limit 300]
Cost       about 90 minutes on 2 CPU cores, 70 of them the training of nine networks, two at a time
Expected   parts move the class that they speak for in nine scenes of ten; contrast keeps its lead in own mass wherever two classes compete, and has
           none to keep where there is one object
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from case_jax import METHODS
from case_jax._checks import require, require_seed, unknown
from case_jax.data import DigitScenes
from case_jax.data.scene_options import SceneOptions
from case_jax.stats import both_usable, estimates_of, mean_interval, median_interval
from case_jax.stats.estimates import clusters_in
from experiments.claim import Estimate, Finding, percent, place
from experiments.deleted_parts import deletions, summed_up
from experiments.estimates import of_images
from experiments.families import SHIPPED, WEIGHTS, in_processes, small_network, train_network, training_of
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined
from experiments.networks import CONFUSION_SCENES, Subject, Where, asked_by_name, correct
from experiments.pictures import heat

VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "hard labels": {"hard_labels": True},
    "one object": {"hard_labels": True, "dim_marker": False},
    "body decides": {"body_decides": True},
    "three candidates": {"third_marker": True},
    "texture": {"background": "texture"},
    "distractors": {"distractors": 2},
    "bent strokes": {"elastic": True},
    "96 px": {"side": 96},
}
QUICK = ("usual", "body decides", "96 px")
PLAIN, CONTRAST = "grad_cam", "finer_cam"
TESTED = (
    PLAIN, "layer_cam", "eigen_grad_cam", "guided_backprop", "case", CONTRAST, "softmax_contrast",
    "exchanged", "random", "centre_gaussian",
)  # fmt: skip
ASKED = ("sensitivity", "evidence", "specificity")
MEASURES = {"mass_own": "own mass", "specificity": "specificity", "necessity": "necessity"}
COLUMNS = ("image_id", "method", "network", "label", "top1", "degenerate_1", "degenerate_2", "F", *MEASURES)
UNIT, HERE = "scenes, by what they share", place("digit_scenes", "the shipped architecture, one training each")
ENOUGH = 0.9
"""A part is called what it is said to be where it moves its class in more than this share of the scenes."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Which scenes, and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    variants: tuple[str, ...] = ()
    """Kinds of scenes; all by default, three of them in a quick run."""
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/scenes")

    def check(self) -> None:
        """Raise for what this experiment does not take, before anything is trained."""
        usual, where = Where(), self.where
        for name in ("data", "networks", "weights", "contrast_data"):
            given = getattr(where, name)
            require(given == getattr(usual, name), name, given, "none here: every kind of scenes has its own network")
        for name in self.variants:
            if name not in VARIANTS:
                raise unknown("variants", name, VARIANTS)
        require(where.limit >= 1, "limit", where.limit, "a number of scenes of at least 1")
        require(where.processes >= 1, "processes", where.processes, "at least 1")
        require_seed(where.seed)


def networks(config: Config) -> Iterator[Subject]:
    """For each kind of scenes a network of the shipped architecture, trained on its own train split, with scenes of its test split."""
    where = config.where
    chosen = config.variants or (QUICK if where.quick else tuple(VARIANTS))
    folders = {v: where.kept / "networks" / f"scenes-{v.replace(' ', '-')}-{where.seed}" for v in chosen}
    training = training_of(SHIPPED, quick=where.quick)
    in_processes(
        [
            partial(train_network, SHIPPED, where.seed, folder, training=training, scenes=VARIANTS[v])
            for v, folder in folders.items()
            if not (folder / WEIGHTS).exists()
        ],
        where.processes,
    )
    for variant, folder in folders.items():
        options = VARIANTS[variant]
        network = small_network(SHIPPED, where.seed, folder, training=training, scenes=options)
        confusions = DigitScenes("confusion", 200 if where.quick else CONFUSION_SCENES, **options)
        yield Subject(variant, network, DigitScenes("test", where.images, **options), confusions, where)


def rows_of(subject: Subject) -> pd.DataFrame:
    """One row per scene and method."""
    return subject.rows("scenes", asked_by_name(TESTED), contrast="confusion:5", metrics=ASKED)


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Median F, and mean own mass, specificity and necessity of every method, with 95% intervals by stroke."""
    found = []
    for method, group in rows.groupby("method", sort=False, observed=True):
        usable = group[both_usable(group)]
        F = median_interval(usable["F"].to_numpy(np.float64), clusters_in(usable))
        row = {"method": method, "scenes_used": len(usable), "F_median": F.value, "F_low": F.low, "F_high": F.high}
        for column in MEASURES:
            if column in rows:
                known = group[~group["degenerate_1"] & group[column].notna()]
                mean = mean_interval(known[column].to_numpy(np.float64), clusters_in(known))
                row |= {f"{column}_{end}": value for end, value in mean._asdict().items()}
        found.append(row)
    return pd.DataFrame(found)


def gain_of(rows: pd.DataFrame, column: str) -> Estimate | None:
    """How much more of a column the contrast has than Grad-CAM, paired by scene, by stroke; None where nothing is known of it."""
    usable = rows[~rows["degenerate_1"] & rows[column].notna()].set_index("image_id")
    first, second = (usable[usable["method"] == name] for name in (CONTRAST, PLAIN))
    gains = (first[column] - second[column]).dropna()
    return of_images(str(rows["network"].iloc[0]), gains, estimates_of(rows)) if len(gains) else None


def number(value: float, low: float, high: float) -> str:
    """A number that is no share, with its interval."""
    return "–" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def by_variant(table: pd.DataFrame, prefix: str, value: str, say: Any) -> pd.DataFrame:
    """Methods × kinds of scenes, in words."""
    cells = table.assign(cell=[say(*row) for row in table[[value, f"{prefix}_low", f"{prefix}_high"]].to_numpy(float)])
    wide = cells.pivot(index="method", columns="scenes", values="cell")
    return wide.loc[table["method"].unique(), table["scenes"].unique()].reset_index()


def parts_in_words(parts: pd.DataFrame) -> pd.DataFrame:
    """What the loss of each part did, as it is read."""

    def say(column: str, how: Any) -> list[str]:
        return [how(*row) for row in parts[[column, f"{column}_low", f"{column}_high"]].to_numpy(float)]

    return pd.DataFrame(
        {
            "scenes": parts["scenes_of"], "part": parts["part"], "said to speak for": parts["speaks_for"], "holds in": say("holds", percent),
            "its logit falls by": say("own", number), "... more than its rivals'": say("over_rivals", number),
            "... than others'": say("over_others", number),
        }
    )  # fmt: skip


def truth_finding(parts: pd.DataFrame) -> Finding:
    """Whether the known truth is true."""
    shares = [
        Estimate(f"{r.part}, {r.scenes_of}", r.holds, r.holds_low, r.holds_high, int(r.scenes), UNIT, ENOUGH)  # type: ignore[arg-type]
        for r in parts.itertuples()
    ]
    claim = f"Each part moves what it is said to speak for in more than {percent(ENOUGH)} of the scenes."
    return Finding(claim, HERE, shares, "universal", measure="share of scenes", shown="percent")


def contrast_finding(rows: pd.DataFrame, column: str, words: str) -> Finding:
    """Whether the contrast is ahead of Grad-CAM on every kind of scenes."""
    gains = [
        gain for _, found in rows.groupby("network", sort=False, observed=True) if (gain := gain_of(found, column))
    ]
    shown = "points" if column == "mass_own" else "number"
    claim = f"Finer-CAM has more {words} than Grad-CAM on every kind of scenes."
    return Finding(claim, HERE, gains, "universal", measure=f"{words}, less Grad-CAM's", shown=shown)


def measured(config: Config) -> Numbers:
    """Train, take parts out, and ask all methods, on every kind of scenes."""
    config.check()
    rows, parts = [], []
    for subject in networks(config):
        assert isinstance(subject.source, DigitScenes)
        parts.append(deletions(subject.classifier, subject.source).assign(network=subject.name))
        rows.append(compact(rows_of(subject), COLUMNS))
    return Numbers({"rows": joined(rows), "parts": joined(parts)}, {})


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Tables, findings and a picture."""
    rows, deleted = numbers.rows["rows"], numbers.rows["parts"]
    kinds = list(rows["network"].unique())
    table = pd.concat(
        [summary_of(found).assign(scenes=kind) for kind, found in rows.groupby("network", sort=False, observed=True)]
    )
    table["method"] = [METHODS[name].title for name in table["method"]]
    taken = deleted.groupby("network", sort=False, observed=True)
    parts = pd.concat([summed_up(found).assign(scenes_of=kind) for kind, found in taken], ignore_index=True)
    right = [correct(rows[rows["network"] == kind]) for kind in kinds]
    options = [str(SceneOptions(**VARIANTS[kind])) or "–" for kind in kinds]
    about = pd.DataFrame({"scenes": kinds, "options": options, "accuracy": right})
    there = {column: words for column, words in MEASURES.items() if column in rows}
    shown = {"F": Table("Median F [95% by handwritten stroke]", table, by_variant(table, "F", "F_median", percent))}
    for column, words in there.items():
        columns = ["scenes", "method", *(f"{column}_{end}" for end in ("value", "low", "high"))]
        text = by_variant(table, column, f"{column}_value", percent if column == "mass_own" else number)
        shown[words.replace(" ", "_")] = Table(f"Mean {words} [95% by handwritten stroke]", table[columns], text)
    title = "Each part taken out: does it move what it is said to speak for? [95% by handwritten stroke]"
    shown["parts"] = Table(title, parts, parts_in_words(parts))
    text = about.assign(accuracy=about["accuracy"].map(percent))
    shown["networks"] = Table("Kinds of scenes and their networks", about, text)
    own = table.pivot(index="method", columns="scenes", values="mass_own_value").loc[table["method"].unique(), kinds]
    figures = {"own": heat(own, "map's mass on its own class's evidence, %")}
    findings = [truth_finding(parts), *(contrast_finding(rows, column, words) for column, words in there.items())]
    return Answer(findings, shown, figures)


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""Do maps depend on what the classifier has learnt? (Adebayo et al. 2018, as in the masking paper)

Question   How alike are a method's maps before and after layers of the classifier are as before training, and for a classifier of shuffled labels?
Command    python -m experiments.sanity [--quick] [--again]
Cost       about 6 minutes on 2 CPU cores
Expected   guided backprop changes less than gradients; contrastive maps depend on the last layer, which is where the classes are
"""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from flax import nnx

from case_jax import METHODS
from case_jax.evaluation import Sanity, prepare, run
from case_jax.models.initial import initial_params
from case_jax.report.loading import Method
from case_jax.report.sanity import curves_figure, layer_table, summarise
from case_jax.results import RunFolder
from case_jax.stats import estimates_of
from case_jax.training.loop import CURVES, read_curves
from experiments.claim import Estimate, Finding, place
from experiments.estimates import difference, of_images, widened
from experiments.families import SHIPPED, Training, small_network, training_of
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell
from experiments.networks import Where, asked_by_name, only

TESTED = (
    "grad_cam", "layer_cam", "eigen_grad_cam", "case", "finer_cam", "softmax_contrast", "guided_backprop", "saliency", "input_x_gradient",
    "random", "sobel",
)  # fmt: skip
SHUFFLED = Training(2000, scenes=500)
"""Few scenes: a small network can learn their shuffled labels by heart."""
HALF = 0.5
GUIDED, GRADIENTS = "guided_backprop", ("saliency", "input_x_gradient", "grad_cam")
SCORE = "spearman_abs"
COLUMNS = (
    "image_id", "method", "kind", "step", "layer", "degenerate", "degenerate_changed", "spearman", SCORE, "ssim", "hog", "top1", "target",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(
        default_factory=lambda: Where(networks=(SHIPPED,), limit=100)
    )
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/sanity")


def measured(config: Config) -> Numbers:
    """A row per image, method and changed layer; how much of the shuffled labels was learnt."""
    where = config.where
    subject = only(where)
    shuffled, known = None, float("nan")
    if where.offline:
        training = training_of(SHIPPED, quick=True) if where.quick else SHUFFLED
        folder = where.kept / "networks" / "shuffled-labels"
        other = small_network(subject.name, 1, folder, training=training, shuffled_labels=True)
        shuffled = nnx.split(other.module, nnx.RngState, ...)[2]
        known = read_curves(folder / CURVES)[-1]["accuracy"]
    names = TESTED[:4] if where.quick else TESTED
    studied = subject.studied(asked_by_name(names), "confusion:5")
    job = prepare(
        Sanity(initial_params(subject.classifier), shuffled), studied, limit=min(where.images, len(subject.source))
    )
    rows = run(job, RunFolder(where.kept / "sanity"), progress=False).rows()
    training = pd.DataFrame([{"labels": "shuffled", "scenes": SHUFFLED.scenes, "accuracy": known}])
    return Numbers({"rows": compact(rows, COLUMNS)}, {"training": training} if shuffled is not None else {})


def of(table: pd.DataFrame, method: str, part: str) -> Estimate:
    """A method's correlation of magnitudes in one part of the checks."""
    row: Any = table.set_index("method").loc[method]
    value, low, high = (float(row[f"{part}_{SCORE}{end}"]) for end in ("", "_low", "_high"))
    return Estimate(METHODS[method].title, value, low, high, int(row["images"]), "images")


def between(table: pd.DataFrame, rows: pd.DataFrame | None, method: str) -> Estimate:
    """Guided backprop's correlation over the cascade less another method's: paired by image, or of two intervals where no rows are kept."""
    if rows is None:
        both = difference(METHODS[method].title, of(table, GUIDED, "cascading"), of(table, method, "cascading"))
        return widened(both)
    cascade = rows[rows["kind"] == "cascading"]
    means = cascade.groupby(["image_id", "method"], observed=True)[SCORE].mean().unstack()
    return of_images(METHODS[method].title, (means[GUIDED] - means[method]).dropna(), estimates_of(rows))


ONE_TRAINING = "Which of these are due to the shuffled labels cannot be told: there is no control with true labels and as few scenes, and one training of each."


def findings(table: pd.DataFrame, rows: pd.DataFrame | None, training: pd.DataFrame | None, here: str) -> list[Finding]:
    """What depends on what was learnt."""
    learnt = [n for n in table["method"] if not METHODS[n].control]
    caution = (
        ""
        if rows is not None
        else " Intervals of the difference are not paired, and taken 2.5 times as wide, as scenes share strokes."
    )
    found = []
    if GUIDED in learnt:
        found.append(
            Finding(
                "Guided backprop depends less on what was learnt than gradients and Grad-CAM do (Adebayo et al.).", here,
                [between(table, rows, name) for name in GRADIENTS], "universal",
                measure="Spearman's ρ of magnitudes over the cascade, guided backprop less the other",
                note=f"With all layers as before training, guided backprop's is {of(table, GUIDED, 'all_layers').value:.2f}.{caution}",
            )
        )  # fmt: skip
    found.append(
        Finding(
            "Do maps notice when only the classes are forgotten?", here, [of(table, n, "first_layer") for n in learnt],
            measure="Spearman's ρ of magnitudes, the logits' layer as before training", note="Lower: noticed. Intervals over images.",
        )
    )  # fmt: skip
    if training is not None:
        row = training.iloc[0]
        found.append(
            Finding(
                "Maps of a classifier of shuffled labels are others (Adebayo et al., data randomisation).", here,
                [of(table, n, "labels")._replace(margin=HALF) for n in learnt], "universal", "below",
                measure="Spearman's ρ of magnitudes with the trained classifier's map", stated="undecided",
                note=f"{ONE_TRAINING} The classifier is right on {row['accuracy']:.0%} of its {row['scenes']:.0f} shuffled labels.",
            )
        )  # fmt: skip
    return found


def concluded(numbers: Numbers, config: Config) -> Answer:
    """All methods on the one network."""
    rows = numbers.rows.get("rows")
    table = numbers.tables["sanity"] if rows is None else summary_of(rows)
    layers = (
        numbers.tables["layers"]
        if rows is None
        else layer_table(rows.astype({"method": str, "kind": str, "layer": str}))
    )
    if "images" not in table:
        table = table.assign(images=int(layers["images"].max()))
    parts = {
        "first_layer": "logits' layer", "cascading": "cascade", "all_layers": "all layers", "labels": "shuffled labels",
    }  # fmt: skip
    parts = {part: words for part, words in parts.items() if f"{part}_{SCORE}" in table}
    text = table[[f"{part}_{SCORE}" for part in parts]].map("{:.2f}".format)
    text.columns = list(parts.values())
    text.insert(0, "method", [METHODS[name].title for name in table["method"]])
    here = place(config.where.data, "one small network" if config.where.offline else "one network")
    training = numbers.tables.get("training")
    tables = {
        "sanity": Table("Spearman correlation of magnitudes with the trained classifier's map", table, text),
        "layers": Table("Every layer", layers),
    } | ({} if training is None else {"training": Table("The classifier of shuffled labels", training)})
    drawn = [Method(n, METHODS[n].title, METHODS[n].control, False, {}) for n in dict.fromkeys(layers["method"])]
    words = "as before training: from the logits down to this layer"
    return Answer(
        findings(table, rows, training, here), tables, {"cascading": curves_figure(layers, "cascading", words, drawn)}
    )


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Statistics of every method; how many images."""
    return summarise(rows.astype({"method": str, "kind": str})).assign(images=rows["image_id"].nunique())


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

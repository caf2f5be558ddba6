"""Do maps depend on what the classifier has learnt? (Adebayo et al. 2018, as in the masking paper)

Question   How alike are a method's maps before and after layers of the classifier are as before training, and for a classifier of shuffled labels?
Command    python -m experiments.sanity [--quick]
Cost       about 6 minutes on 2 CPU cores
Expected   guided backprop changes less than gradients; contrastive maps depend on the last layer, which is where the classes are
"""

import dataclasses
from pathlib import Path
from typing import Any

import tyro
from flax import nnx

from case_jax import METHODS
from case_jax.evaluation import Sanity, prepare, run
from case_jax.models.initial import initial_params
from case_jax.report.loading import methods_of
from case_jax.report.sanity import curves_figure, layer_table, summarise
from case_jax.results import RunFolder
from case_jax.training.loop import CURVES, read_curves
from experiments.claim import Answer, Finding, Table, from_shell, keep
from experiments.families import SHIPPED, Training, small_network, training_of
from experiments.networks import Where, asked_by_name, only

TESTED = (
    "grad_cam", "layer_cam", "eigen_grad_cam", "case", "finer_cam", "softmax_contrast", "guided_backprop", "saliency", "input_x_gradient",
    "random", "sobel",
)  # fmt: skip
SHUFFLED = Training(2000, scenes=500)
"""Few scenes: a small network can learn their shuffled labels by heart."""
HALF = 0.5
GRADIENTS = ("saliency", "input_x_gradient", "grad_cam")


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(
        default_factory=lambda: Where(networks=(SHIPPED,), limit=100)
    )
    out: Path = Path("experiments/results/sanity")


def between(table: Any, method: str, part: str) -> str:
    """A method's correlation of magnitudes in one part of the checks, in words."""
    value, low, high = (table.loc[method, f"{part}_spearman_abs{end}"] for end in ("", "_low", "_high"))
    return f"{METHODS[method].title} {value:.2f} [{low:.2f}, {high:.2f}]"


def answer(config: Config) -> Answer:
    """All methods on the first network."""
    where = config.where
    subject = only(where)
    shuffled, known = None, 0.0
    if where.offline:
        training = training_of(SHIPPED, quick=True) if where.quick else SHUFFLED
        other = small_network(
            subject.name, 1, where.kept / "networks" / "shuffled-labels", training=training, shuffled_labels=True
        )
        shuffled = nnx.split(other.module, nnx.RngState, ...)[2]
        known = read_curves(where.kept / "networks" / "shuffled-labels" / CURVES)[-1]["accuracy"]
    names = TESTED[:4] if where.quick else TESTED
    studied = subject.studied(asked_by_name(names), "confusion:5")
    study = Sanity(initial_params(subject.classifier), shuffled)
    job = prepare(study, studied, limit=min(where.images, len(subject.source)))
    rows = run(job, folder := RunFolder(where.kept / "sanity"), progress=False).rows()
    table, layers = summarise(rows), layer_table(rows)
    numbers: Any = table.set_index("method")
    column = "spearman_abs"
    parts = {
        "first_layer": "logits' layer",
        "cascading": "cascade",
        "all_layers": "all layers",
        "labels": "shuffled labels",
    }
    parts = {part: words for part, words in parts.items() if f"{part}_{column}" in numbers}
    text = numbers[[f"{part}_{column}" for part in parts]].map("{:.2f}".format)
    text.columns = list(parts.values())
    text.index = [METHODS[name].title for name in text.index]
    learnt = numbers.drop(index=[n for n in ("random", "sobel") if n in numbers.index])
    cascade = f"cascading_{column}"
    plain = learnt[f"{cascade}_high"].reindex(GRADIENTS).max()
    firsts = learnt[f"first_layer_{column}"]
    contrastive = [n for n in ("case", "finer_cam", "softmax_contrast") if n in firsts]
    others = [n for n in firsts.index if n not in contrastive]
    findings = []
    if "guided_backprop" in learnt.index:
        guided = learnt.loc["guided_backprop"]
        low, high = guided[f"{cascade}_low"], guided[f"{cascade}_high"]
        findings.append(
            Finding(
                "Guided backprop depends less on what was learnt than gradients and Grad-CAM do (Adebayo et al.).",
                "reproduced" if low > plain else "undecided" if high > plain else "not reproduced",
                "Spearman correlation of magnitudes, mean over the cascade [95%]: "
                + ", ".join(between(learnt, n, "cascading") for n in learnt.index)
                + f". With all layers as before training, guided backprop's is {guided[f'all_layers_{column}']:.2f}.",
            )
        )
    findings.append(
        Finding(
            "Contrastive maps notice when only the classes are forgotten.",
            "answered",
            "With the logits' layer as before training: "
            + ", ".join(f"{METHODS[n].title} {firsts[n]:.2f}" for n in [*contrastive, *others])
            + ".",
        )
    )
    if shuffled is not None:
        labels = learnt[f"labels_{column}_high"]
        findings.append(
            Finding(
                "Maps of a classifier of shuffled labels are others (Adebayo et al., data randomisation).",
                "reproduced" if (labels < HALF).all() else "in part" if (labels < HALF).any() else "not reproduced",
                f"Correlation below {HALF} for {(labels < HALF).sum()} of {len(labels)} methods [95%]: "
                + ", ".join(between(learnt, n, "labels") for n in learnt.index)
                + f". The classifier is right on {known:.0%} of its {SHUFFLED.scenes} shuffled labels.",
            )
        )
    tables = {
        "sanity": Table(
            "Spearman correlation of magnitudes with the trained classifier's map",
            table,
            text.reset_index(names="method"),
        ),
        "layers": Table("Every layer", layers),
    }
    figure = curves_figure(
        layers, "cascading", "as before training: from the logits down to this layer", methods_of(folder.config())
    )
    return Answer(findings, tables, {"cascading": figure})


def main(config: Config) -> None:
    """Answer, and keep it."""
    keep(answer(config), config, config.out)


if __name__ == "__main__":
    from_shell(main, Config)

"""Attention pooling (CA-Stream) and Signature Activation.

Question   Does attention pooling change accuracy, AD, AG, AI and the class sensitivity of class activation maps as its paper says or implies? Is Signature
           Activation more than edges?
Command    python -m experiments.stream [--quick] [--again] [--seeds 5]
Cost       about 15 minutes on 2 CPU cores with five networks at hand, 10 of them the training of ten streams; three minutes for each network that is not there
Expected   the paper's, of a ResNet-50 on ImageNet: accuracy kept, AD of three class activation maps lower or the same, AG and AI higher; and that one attention for
           all classes makes their maps more alike, which nobody has asked
"""

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro

from case_jax import METHODS
from case_jax._checks import require
from case_jax.data import DigitScenes
from case_jax.evaluation import Evaluate, prepare, run
from case_jax.evaluation import Subject as Studied
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction, titles_of
from case_jax.results import RunFolder
from case_jax.stats import correct_rows, mean_drop
from case_jax.stream import Stream, TrainedStream
from case_jax.tap import TappedModel
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined
from experiments.networks import Subject, Where, asked_by_name, subjects
from experiments.stream_claims import MEASURES, findings, means_of, printed, summary_of
from experiments.streams import AVERAGE, LAST, POOLINGS, STREAM, StreamTraining, pooled_by, trained_stream

FAMILY, QUICK_STEPS = "ResNet", 20
SPREAD = 200
"""Scenes on which the attention's spread is measured."""
FAST = (
    "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "case", "finer_cam", "eigen_cam", "signature_activation",
    "image_signature", "sobel", "centre_gaussian",
)  # fmt: skip
SLOW = ("score_cam",)
ASKED = ("sensitivity", "fidelity", "evidence", "masked_confidence")
REMOVED = {"fidelity": {"percents": (5, 10, 20, 50)}}
COLUMNS = (
    "image_id",
    "method",
    "network",
    "seed",
    "pooling",
    "label",
    "top1",
    "degenerate_1",
    "degenerate_2",
    *MEASURES,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=lambda: Where(limit=120))
    seeds: int = 5
    """Networks, each with a stream of its own."""
    slow_images: int = 30
    """Images of Score-CAM."""
    judged: int = 2000
    """Scenes on which accuracy is counted."""
    training: StreamTraining = dataclasses.field(default_factory=StreamTraining)
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/stream")

    def check(self) -> None:
        """Raise for what this experiment does not take, before anything is trained."""
        given = (self.where.data, self.where.networks, self.where.weights)
        wanted = (Where().data, (), ())
        require(given == wanted, "data, networks, weights", given, f"none here: digit scenes and the small {FAMILY}")
        for name in ("seeds", "slow_images", "judged"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


def quick(config: Config) -> Config:
    """The same at sizes that prove that it runs."""
    training = config.training._replace(steps=QUICK_STEPS, scenes=200)
    return dataclasses.replace(config, seeds=1, slow_images=5, judged=100, training=training)


def networks(config: Config) -> Iterator[Subject]:
    """The same architecture, trained from several seeds."""
    for seed in range(config.seeds):
        where = dataclasses.replace(config.where, networks=(FAMILY,), seed=seed)
        yield next(subjects(where))


def methods_of(subject: Subject, config: Config) -> dict[str, MapFunction]:
    """What is asked of a network: methods, and the attention itself, of the first stage and the last."""
    attention = TrainedStream(trained_stream(STREAM, subject, config.training), "", f"seed {subject.where.seed}")
    first = partial(attention, stage=0)
    return asked_by_name(FAST) | {"attention": attention, "attention, first stage": first}


def rows_of(
    subject: Subject, pooling: str, methods: dict[str, MapFunction], model: TappedModel, limit: int
) -> pd.DataFrame:
    """One row per image and method."""
    pixels, seed = subject.pixels, subject.where.seed
    studied = Studied(
        subject.source,
        model,
        "topk_logits:5",
        pixels,
        methods,
        seed=seed,
        model_name=f"{FAMILY}, {pooling}",
    )
    job = prepare(Evaluate(ASKED, REMOVED), studied, limit=limit, tile=20, part=100)
    name = f"stream-{seed}-{pooling.replace(' ', '-')}-{len(methods)}"
    rows = run(job, RunFolder(subject.where.kept / name), progress=False).rows()
    rows["drop"] = mean_drop(rows).where(correct_rows(rows))
    return compact(rows.assign(network=FAMILY, seed=seed, pooling=pooling), COLUMNS)


@cache
def scenes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Test scenes, and their labels."""
    source = DigitScenes("test", count)
    examples = [source[i] for i in range(count)]
    return np.stack([e.image for e in examples]), np.array([e.label for e in examples])


def accuracy(subject: Subject, model: TappedModel, count: int) -> float:
    """Share of test scenes that a network gets right."""
    images, labels = scenes(count)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def top1(params, image):
        return model.apply(params, normalise_image(image, *subject.pixels)).argmax()

    return float(np.mean(np.concatenate([top1(model.params, part) for part in np.array_split(images, -(-count // 100))]) == labels))  # fmt: skip


def spread(subject: Subject, model: TappedModel, stream: Stream, count: int) -> float:
    """Over how many positions the attention of the last map spreads: `exp(−Σ a log a)`, mean over test scenes."""
    images, _ = scenes(count)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def positions(params, image):
        view = model.view(params, normalise_image(image, *subject.pixels))
        scores = stream.visits(view.activations()[-len(stream.channels) :])[-1].scores.ravel()
        log = jax.nn.log_softmax(scores)
        return jnp.exp(-(jnp.exp(log) * log).sum())

    return float(np.mean(positions(model.params, images[:SPREAD])))


def measured(config: Config) -> Numbers:
    """A row per image, method, pooling and network; facts about every network with every pooling."""
    config.check()
    rows, facts = [], []
    for subject in networks(config):
        for pooling in POOLINGS:
            model, seed = pooled_by(pooling, subject, config.training), subject.where.seed
            fact = {"seed": seed, "pooling": pooling, "accuracy": accuracy(subject, model, config.judged)}
            if pooling != AVERAGE:
                stream = trained_stream(pooling, subject, config.training)
                fact["positions"] = spread(subject, model, stream, config.judged)
            facts.append(fact)
            for asked, limit in ((methods_of(subject, config), subject.where.images), (asked_by_name(SLOW), config.slow_images)):  # fmt: skip
                if pooling != LAST:
                    rows.append(rows_of(subject, pooling, asked, model, min(limit, len(subject.source))))
    return Numbers({"rows": joined(rows)}, {"networks": pd.DataFrame(facts)})


def titles() -> dict[str, str]:
    """How tables name the methods."""
    attention = {"attention": "CA-Stream's attention", "attention, first stage": "CA-Stream's attention, first stage"}
    return titles_of({name: METHODS[name].maps for name in (*FAST, *SLOW)}) | attention


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Tables and findings."""
    rows, facts = numbers.rows["rows"], numbers.tables["networks"]
    means = means_of(rows.assign(method=rows["method"].astype(str).map(titles())))
    table = summary_of(means)
    poolings = [p for p in POOLINGS if p in set(facts["pooling"])]
    about = facts.pivot(index="seed", columns="pooling", values="accuracy")[poolings].reset_index()
    shown = about.assign(**{p: [f"{100 * v:.1f}%" for v in about[p]] for p in poolings})
    tables = {
        "summary": Table("Means over networks ± half of Student's 95% interval", table, printed(table)),
        "networks": Table("Right on test scenes, by the network's seed and what it pools by", facts, shown),
    }
    return Answer(findings(means, facts, AVERAGE, STREAM, LAST), tables, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(quick(config) if config.where.quick else config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

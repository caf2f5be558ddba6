"""The masking paper's findings (arXiv 2010.09750) on digit scenes, and maskers under the tests of CASE.

Question   Does a masker need both objectives? Does training the classifier alongside help? Do infilling, binary masks and more images? Is a
           masker class-sensitive, and can it be made so? All that on several networks, by
           three truths: the body, the marker, both together?
Command    python -m experiments.masking [--quick] [--seeds 3] [--again]; on ImageNet `case-jax train masker --model resnet50
           --data tfds:imagenet2012:train --augment`, then `case-jax localise` and `evaluate` with `--methods masker:RUN`
Cost       about 75 processor minutes
Expected   the paper's: both objectives beat either, training alongside beats a fixed classifier, ten images a class lose next to nothing
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from flax import nnx
from tqdm import tqdm

from case_jax import METHODS
from case_jax._checks import require
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.data.digit_scenes import TRUTHS
from case_jax.evaluation import Evaluate, Localise, Pixels, Subject, prepare, run
from case_jax.evaluation.folders import session
from case_jax.evaluation.studies import localisation
from case_jax.imageops import normalise_image
from case_jax.masking import InfillNet, Ingredients, TrainedMasker, infiller, masker_task, networks
from case_jax.masking.infill import as_infiller, infill_task
from case_jax.masking.ingredients import CONTRAST_IN, CONTRAST_OUT, OUT_TRAINED, described
from case_jax.masking.trained import still
from case_jax.models import Classifier, load_classifier, load_weights, save_weights, tap_classifier
from case_jax.models.trained_file import digest
from case_jax.results import RunFolder
from case_jax.stats import correct_rows, mean_drop
from case_jax.training import Examples, Network, Recipe, few_shot, train
from experiments.families import SHIPPED, small_network, training_of
from experiments.kept import Answer, Numbers, Table, carry_out, from_shell
from experiments.masking_findings import OBJECTIVE_NAMES, TRUTH, findings, printed, summary

BASELINES = ("grad_cam", "case", "finer_cam", "guided_backprop", "centre_gaussian", "random")
PLACES = {"whole_image": "the whole image", "centre_box": "a centre box", "truth_box": "the true box"}
"""What `Localise` scores beside the methods; with `BASELINES` nine rows that nothing is trained for."""
OBJECTIVES: dict[str, dict[str, Any]] = dict(
    zip(OBJECTIVE_NAMES, ({"masked_out": None}, {"masked_in": None}, {}), strict=True)
)
SHOTS = (1, 10)
RUNS = "runs"
Job = tuple[str, dict[str, Any], int | None]
"""A masker by name, its ingredients, and its images a class; None: all."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    seeds: int = 3
    """Networks, each with a masker of every kind: the shipped one, and others that are trained here from other parameters."""
    steps: int = 900
    """Enough for nine past classifiers."""
    batch: int = 8
    scenes: int = 4000
    """Training scenes."""
    tested: int = 200
    """Test scenes."""
    again: bool = False
    """Train nothing: conclude again from the single runs that `out` holds."""
    quick: bool = False
    """One seed, four steps, 25 test scenes and the first rows, to prove that it runs."""
    runs: Path = Path("runs/masking")
    """Checkpoints and single results; the same command goes on."""
    out: Path = Path("experiments/results/masking")


def quick(config: Config) -> Config:
    """The same at sizes that prove that it runs."""
    sizes = {"seeds": 1, "steps": 4, "batch": 10, "scenes": 200, "tested": 25}
    return dataclasses.replace(config, **sizes, runs=config.runs / "quick")


def table_rows() -> dict[str, dict[str, Any]]:
    """Ingredients of the central table, by name."""
    rows: dict[str, dict[str, Any]] = {}
    for mode in ("fixed", "alongside", "history"):
        trained = {} if mode == "fixed" else {"masked_out": OUT_TRAINED}
        for name, sides in OBJECTIVES.items():
            rows[f"{mode}, {name}"] = {"classifier": mode, **trained, **sides}
    for mode in ("fixed", "history"):
        both = rows[f"{mode}, both"]
        rows |= {f"{mode}, both, {fill}": both | {"infill": fill} for fill in ("blur", "cnn")}
        rows[f"{mode}, both, gumbel"] = both | {"gumbel": True}
    return rows


def bridge_rows() -> dict[str, dict[str, Any]]:
    """Maskers that are asked about a class."""
    conditional = {"class_conditional": True}
    two = conditional | {"targets": "two"}
    return {
        "class-conditional, label": conditional,
        "class-conditional, two likeliest": two,
        "contrastive": two | {"masked_in": CONTRAST_IN, "masked_out": CONTRAST_OUT},
    }


def network_of(seed: int, config: Config) -> Classifier:
    """The classifier of a seed: the shipped one, or one trained here as that was, from other parameters."""
    if seed == 0:
        return load_classifier()
    training = training_of(SHIPPED, quick=config.quick)
    return small_network(SHIPPED, seed, config.runs / "networks" / f"{SHIPPED}-{seed}", training=training)


def trained_fill(config: Config) -> Any:
    """The convolutional infiller, trained once."""
    folder, net = RunFolder(config.runs / "infiller"), InfillNet(rngs=nnx.Rngs(0))
    file = folder.path / "infiller.safetensors"
    if not file.exists():
        facts = load_classifier().preprocessing
        task = infill_task(net, mean=facts.mean, std=facts.std)
        recipe, examples = Recipe(config.steps, config.batch), Examples(DigitScenes("train", config.scenes))
        state = train(task, examples, recipe, folder, config={"infiller": True}, facts=session(), progress=False)
        save_weights(file, Network(net).module(state[0]))
    load_weights(file, net)
    return as_infiller(net)


def folder_of(name: str, seed: int, shots: int | None, config: Config) -> Path:
    """Where one masker's checkpoints are, and the result of one that has a classifier of its own."""
    return config.runs / f"{name.replace(', ', '-').replace(' ', '_')}-{shots or 'all'}-{seed}"


def trained(
    name: str, options: dict[str, Any], seed: int, shots: int | None, config: Config
) -> tuple[TrainedMasker, Classifier]:
    """One masker with its classifier, trained now or read from its folder."""
    folder = folder_of(name, seed, shots, config)
    classifier = network_of(seed, config)
    facts = classifier.preprocessing
    made_of = Ingredients(**options, decay_every=max(1, 2 * config.steps // 3))
    shape = facts.shape
    nets = networks(classifier.module, classifier.entry.taps.stages, made_of, shape, num_classes=25, seed=seed)
    fill = trained_fill(config) if made_of.infill == "cnn" else infiller(made_of.infill)
    task = masker_task(nets, made_of, mean=facts.mean, std=facts.std, fill=fill)
    source = DigitScenes("train", config.scenes)
    indices = None if shots is None else few_shot(source, shots, seed=seed)
    recipe = Recipe(config.steps, config.batch, seed=seed, log_every=min(50, config.steps))
    examples = Examples(source, indices, seed=seed)
    described_as = {"name": name, **described(made_of), "scenes": config.scenes, "shots": shots}
    state = train(task, examples, recipe, RunFolder(folder), config=described_as, facts=session(), progress=False)
    found: Any = nets.masker.module(state.masker)
    judge = classifier._replace(module=nets.classifier.module(state.classifier))
    return TrainedMasker(still(found), made_of.gumbel, digest(judge.module), name, digest(found)), judge


def scores(maps: Mapping[str, Any], classifier: Classifier, folder: Path, config: Config) -> pd.DataFrame:
    """Methods that ask one classifier through the tests: localisation by every truth, sensitivity, fidelity, evidence; a row a method.

    Columns of the usual truth (body and bright marker together) have plain names, others end in `_body` and `_marker`.
    """
    source = DigitScenes("test", config.tested)
    pixels = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std)
    model = tap_classifier(classifier, normalise_image(source[0].image, *pixels))
    subject = Subject(source, model, choose_contrast("topk_logits:5", 25), pixels, maps)
    columns: dict[str, pd.Series] = {}
    for truth in TRUTHS:
        job = prepare(Localise(truth=truth, thresholds=20), subject)
        done = localisation(run(job, RunFolder(folder / f"where-{truth}"), progress=False))
        by = done.rows.groupby("method", sort=False)
        found = {c: by[c].mean() for c in ("le", "om", "f1")} | {"pxap": done.overall["pxap"]}
        columns |= {f"{c}{TRUTH[truth].suffix}": values for c, values in found.items()}
        columns.setdefault("mask_mean", by["mean"].mean())
    job = prepare(Evaluate(("sensitivity", "fidelity", "evidence")), subject, tile=20, part=100)
    rows = run(job, RunFolder(folder / "tests"), progress=False).rows()
    columns["accuracy"] = (rows["top1"] == rows["label"]).groupby(rows["method"]).mean()
    usable = rows[~rows["degenerate_1"] & ~rows["degenerate_2"]]
    by = usable.groupby("method")
    columns["degenerate"] = rows.groupby("method").size() - by.size().reindex(list(maps), fill_value=0)
    columns["F_median"] = by["F"].median()
    columns["drop"] = mean_drop(usable).where(correct_rows(usable)).groupby(usable["method"]).mean()
    columns |= {name: by[name].mean() for name in ("mass_own", "mass_shared")}
    return pd.DataFrame(columns)


def jobs_of(config: Config) -> tuple[list[Job], list[Job]]:
    """What is trained for every network: maskers that leave it as it is, and maskers that train it."""
    rows, shots = table_rows() | bridge_rows(), SHOTS
    if config.quick:
        rows, shots = {name: rows[name] for name in ("fixed, in", "contrastive", "alongside, in")}, SHOTS[:1]
    own = {name: options for name, options in rows.items() if options.get("classifier", "fixed") != "fixed"}
    few: list[Job] = [("fixed, both", {}, number) for number in shots]
    fixed: list[Job] = [(name, options, None) for name, options in rows.items() if name not in own]
    return fixed + few, [(name, options, None) for name, options in own.items()]


def of_network(seed: int, config: Config) -> Iterator[pd.DataFrame]:
    """All rows of one network: what leaves it as it is in one table with what nothing is trained for, then each masker with its own classifier."""
    fixed, own = jobs_of(config)
    names = {f"{name}, {shots or 'all'}": (name, shots) for name, _, shots in fixed}
    maskers = [trained(name, options, seed, shots, config)[0] for name, options, shots in fixed]
    others = {METHODS[name].title: METHODS[name].maps for name in BASELINES[: 1 if config.quick else None]}
    maps = dict(zip(names, maskers, strict=True)) | others
    table = scores(maps, network_of(seed, config), config.runs / f"unchanged-{seed}", config)
    table = table.loc[[*maps, *PLACES]]
    known = [names.get(str(key), (PLACES.get(str(key), str(key)), None)) for key in table.index]
    yield table.assign(name=[name for name, _ in known], shots=pd.Series([shots for _, shots in known], table.index))
    for name, options, shots in own:
        masker, judge = trained(name, options, seed, shots, config)
        table = scores({name: masker}, judge, folder_of(name, seed, shots, config), config)
        yield table.loc[[name]].assign(name=name, shots=None)


def measured(config: Config) -> Numbers:
    """Train and score everything, network by network; one row per masker and baseline."""
    found = []
    for seed in tqdm(range(config.seeds), desc="networks"):
        found += [table.assign(seed=seed) for table in of_network(seed, config)]
    runs = pd.concat(found, ignore_index=True)
    return Numbers({}, {RUNS: runs[["name", "seed", "shots", *runs.columns.drop(["name", "seed", "shots"])]]})


def concluded(numbers: Numbers, config: Config) -> Answer:
    """The tables, from single runs."""
    runs = numbers.tables[RUNS]
    table = summary(runs)
    title = "Maskers, in percent: mean over networks ± half of Student's 95% interval"
    tables = {f"summary{truth.suffix}": Table(f"{title}; truth: {truth.words}", table, printed(table, truth)) for truth in TRUTH.values()}  # fmt: skip
    return Answer(findings(table, runs, tuple(bridge_rows())), tables | {RUNS: Table("Single runs", runs)}, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    config = quick(config) if config.quick else config
    for name in ("seeds", "steps", "batch", "scenes", "tested"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

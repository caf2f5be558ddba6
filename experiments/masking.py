"""The masking paper's findings (arXiv 2010.09750) on digit scenes, and maskers under the tests of CASE.

Question   Does a masker need both objectives? Does training the classifier alongside help? Do infilling, binary masks and more images? Is a
           masker class-sensitive, and can it be made so?
Command    python -m experiments.masking [--quick] [--seeds 3] [--again]; on ImageNet `case-jax train masker --model resnet50
           --data tfds:imagenet2012:train --augment`, then `case-jax localise` and `evaluate` with `--methods masker:RUN`
Cost       about 75 minutes on 2 CPU cores
Expected   the paper's: both objectives beat either, training alongside beats a fixed classifier, ten images a class lose next to nothing
"""

import dataclasses
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from flax import nnx
from matplotlib.figure import Figure
from scipy.stats import t as student
from tqdm import tqdm

from case_jax import METHODS
from case_jax._checks import require
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Evaluate, Localise, Pixels, Subject, prepare, run
from case_jax.evaluation.folders import session
from case_jax.evaluation.studies import localisation
from case_jax.imageops import normalise_image
from case_jax.masking import InfillNet, Ingredients, TrainedMasker, infiller, masker_task, networks
from case_jax.masking.infill import as_infiller, infill_task
from case_jax.masking.ingredients import CONTRAST_IN, CONTRAST_OUT, OUT_TRAINED, described
from case_jax.masking.trained import digest, still
from case_jax.models import Classifier, load_classifier, load_weights, save_weights, tap_classifier
from case_jax.report.figures import COLOURS, plain_style
from case_jax.results import RunFolder
from case_jax.stats import correct_rows, mean_drop
from case_jax.training import Examples, Network, Recipe, few_shot, train
from experiments.claim import Estimate, Finding, place
from experiments.estimates import mean_of, paired
from experiments.kept import Answer, Numbers, Table, carry_out, from_shell

BASELINES = ("grad_cam", "case", "finer_cam", "guided_backprop", "centre_gaussian", "random")
OBJECTIVES = {"in": {"masked_out": None}, "out": {"masked_in": None}, "both": {}}
SHOTS = (1, 2, 5, 10, 20, 50)
MAIN, RUNS = 9, "runs"
Row = tuple[str, int | None]
"""A masker by name, and its images a class; None: all."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    seeds: int = 3
    steps: int = 300
    batch: int = 50
    scenes: int = 4000
    """Training scenes."""
    tested: int = 400
    """Test scenes."""
    processes: int = 2
    again: bool = False
    """Train nothing: conclude again from the single runs that `out` holds."""
    quick: bool = False
    """One seed, four steps, 25 test scenes and the first rows, to prove that it runs."""
    runs: Path = Path("runs/masking")
    """Checkpoints and single results; the same command goes on."""
    out: Path = Path("experiments/results/masking")


def quick(config: Config) -> Config:
    """The same at sizes that prove that it runs."""
    sizes = {"seeds": 1, "steps": 4, "batch": 10, "scenes": 200, "tested": 25, "processes": 1}
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
    """Where one masker's checkpoints and result are."""
    return config.runs / f"{name.replace(', ', '-').replace(' ', '_')}-{shots or 'all'}-{seed}"


def trained(
    name: str, options: dict[str, Any], seed: int, shots: int | None, config: Config
) -> tuple[TrainedMasker, Classifier]:
    """One masker with its classifier, trained now or read from its folder."""
    folder = folder_of(name, seed, shots, config)
    classifier = load_classifier()
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


def one_run(name: str, options: dict[str, Any], seed: int, shots: int | None, config: Config) -> dict[str, Any]:
    """Train one masker and score it, or read from its folder what is done of that."""
    masker, judge = trained(name, options, seed, shots, config)
    folder = folder_of(name, seed, shots, config)
    return {"name": name, "seed": seed, "shots": shots, **scores(masker, judge, folder, config)}


def scores(maps: Any, classifier: Classifier, folder: Path, config: Config) -> dict[str, float]:
    """One method through the tests: localisation of body and bright marker together, sensitivity, fidelity, evidence."""
    source = DigitScenes("test", config.tested)
    pixels = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std)
    model = tap_classifier(classifier, normalise_image(source[0].image, *pixels))
    contrast = choose_contrast("topk_logits:5", 25)
    found: dict[str, float] = {}
    subject = Subject(source, model, contrast, pixels, {"m": maps})
    done = localisation(run(prepare(Localise(thresholds=20), subject), RunFolder(folder / "where"), progress=False))
    mine = done.rows[done.rows["method"] == "m"]
    found |= {column: float(mine[column].mean()) for column in ("le", "om", "f1")}
    found |= {"pxap": float(done.overall.loc["m", "pxap"]), "mask_mean": float(mine["mean"].mean())}  # type: ignore[arg-type]
    tests = ("sensitivity", "fidelity", "evidence")
    job = prepare(Evaluate(tests), subject, tile=25, part=100)
    rows = run(job, RunFolder(folder / "tests"), progress=False).rows()
    usable = rows[~rows["degenerate_1"] & ~rows["degenerate_2"]]
    found["accuracy"] = float((rows["top1"] == rows["label"]).mean())
    found["degenerate"] = len(rows) - len(usable)
    found["F_median"] = float(usable["F"].median())
    found["drop"] = float(mean_drop(usable[correct_rows(usable)]).mean())
    found |= {name: float(usable[name].mean()) for name in ("mass_own", "mass_shared")}
    return found


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every number, and half of Student's 95% interval."""
    rows = []
    for (name, shots), group in frame.groupby(["name", "shots"], sort=False, dropna=False):
        n = len(group)
        row: dict[str, Any] = {"name": name, "shots": shots, "seeds": n}
        for column in frame.columns.drop(["name", "seed", "shots"]):
            spread = group[column].std(ddof=1) * student.ppf(0.975, n - 1) / math.sqrt(n) if n > 1 else math.nan
            row |= {column: group[column].mean(), f"{column}_half": spread}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_few_shot(table: pd.DataFrame, everything: int) -> Figure:
    """Localisation over images a class."""
    with plain_style():
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        x = table["shots"].fillna(everything / 25)
        for axis, (name, title) in zip(
            figure.subplots(1, 2), (("le", "localisation error"), ("pxap", "PxAP")), strict=True
        ):
            axis.errorbar(
                x, 100 * table[name], 100 * table[f"{name}_half"], color=COLOURS[0], marker="o", ms=3, capsize=2, lw=1.2
            )
            axis.set_xscale("log")
            axis.set_xticks([*SHOTS, everything / 25], [*map(str, SHOTS), "all"])
            axis.minorticks_off()
            axis.set_xlabel("training images of each class")
            axis.set_title(f"{title}, %")
    return figure


COLUMNS = ("le", "om", "f1", "pxap", "mask_mean", "accuracy", "F_median", "drop", "mass_own", "mass_shared")


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """Means ± half intervals, in percent."""
    text = pd.DataFrame(
        {"masker": table["name"], "images a class": table["shots"].map("{:.0f}".format).replace("nan", "all")}
    )
    for c in COLUMNS:
        half = table[f"{c}_half"].map(lambda h: "" if pd.isna(h) else f" ± {100 * h:.1f}")
        text[c] = table[c].map(lambda v: f"{100 * v:.1f}") + half
    return text


def gain(runs: pd.DataFrame, better: Row, worse: Row, column: str, *, margin: float = 0.0) -> Estimate:
    """How far one masker is ahead of another, paired by seed: of localisation errors the smaller one is ahead."""
    first, second = (
        runs[(runs["name"] == name) & (runs["shots"].isna() if shots is None else runs["shots"] == shots)].set_index("seed")[column]
        for name, shots in (better, worse)
    )  # fmt: skip
    both = pd.concat([first, second], axis=1, join="inner").to_numpy().T
    ahead, behind = both[::-1] if column == "le" else both
    label = f"{PLACE.get(column, column)}: {better[0]} − {worse[0]}"
    return paired(label, ahead, behind, unit="seeds", margin=margin)


def compared(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, margin: float = 0.0) -> list[Estimate]:
    """All gains of the first masker of each pair over the second, metric by metric."""
    return [gain(runs, (a, None), (b, None), column, margin=margin) for column in PLACE for a, b in pairs]


def numbers_of(table: pd.DataFrame, names: Sequence[str], columns: Mapping[str, str]) -> str:
    """Means ± half intervals of some rows, in words."""
    rows: Any = table[table["shots"].isna()].set_index("name")
    said = []
    for name in names:
        if name in rows.index:
            values = [
                f"{title} {100 * rows.loc[name, c]:.0f}"
                + ("" if pd.isna(rows.loc[name, f"{c}_half"]) else f" ± {100 * rows.loc[name, f'{c}_half']:.0f}")
                for c, title in columns.items()
            ]
            said.append(f"{name}: {', '.join(values)}")
    return "; ".join(said)


MODES = ("fixed", "alongside", "history")
PLACE = {"pxap": "PxAP", "le": "1 − LE", "f1": "F1"}
TESTS = {"F_median": "F", "drop": "drop", "mass_own": "own evidence"}
AHEAD = "ahead, by the metrics of localisation, paired by seed"
NOTHING = 0.02
"""Of a metric of localisation: a difference that is next to nothing."""
SENSITIVE = 0.5
"""θ of the test of class sensitivity."""
TEN = "Not asked here: digit scenes have few looks, and a masker reads a classifier that has seen all of them. LE and PxAP, percent, by images a class: "


def findings(table: pd.DataFrame, runs: pd.DataFrame) -> list[Finding]:
    """What was found of the paper's claims, by three metrics of localisation, of those parts that have been trained."""
    names, here = set(table[table["shots"].isna()]["name"]), place("digit_scenes", "one small network")
    there = [mode for mode in MODES if {f"{mode}, {o}" for o in OBJECTIVES} <= names]
    found = []

    def ahead(claim: str, pairs: Sequence[tuple[str, str]], note: str = "", *, nothing: bool = False) -> None:
        if pairs:
            rule, margin = ("equivalence", NOTHING) if nothing else ("universal", 0.0)
            gains = compared(runs, pairs, margin=margin)
            found.append(Finding(claim, here, gains, rule, measure=AHEAD, shown="points", note=note))

    ahead(
        "A masker needs both objectives (masking paper).",
        [(f"{m}, both", f"{m}, {o}") for m in there for o in ("in", "out")],
    )
    trained = [f"{mode}, both" for mode in there if mode != "fixed" and "fixed" in there]
    price = f"The classifier is right, percent: {numbers_of(table, ['fixed, both', *trained], {'accuracy': 'right'}).replace(': right', '')}."
    ahead(
        "Training the classifier alongside helps (masking paper).", [(name, "fixed, both") for name in trained], price
    )
    for claim, extras in (("Infilling", ("blur", "cnn")), ("Making masks binary (Gumbel)", ("gumbel",))):
        pairs = [(f"{m}, both, {e}", f"{m}, both") for m in MODES for e in extras if f"{m}, both, {e}" in names]
        own = numbers_of(
            table, list(dict.fromkeys(n for pair in pairs for n in pair[::-1])), {"mass_own": "own"}
        ).replace(": own", "")
        note = f"{100 * NOTHING:.0f} points and less are nothing. Mass on own evidence, percent: {own}."
        ahead(f"{claim} adds nothing (masking paper).", pairs, note, nothing=True)
    few = table[(table["name"] == "fixed, both") & table["shots"].notna()].sort_values("shots")
    if len(few):
        shots = [int(n) for n in few["shots"]]
        kept = [
            gain(runs, ("fixed, both", n), ("fixed, both", None), "le")._replace(label=f"{n} a class") for n in shots
        ]
        curve = ", ".join(f"{r['shots']:.0f}: {100 * r['le']:.0f} and {100 * r['pxap']:.0f}" for _, r in few.iterrows())
        found.append(
            Finding(
                "Ten images a class lose next to nothing (masking paper: 0.7 points of LE).", here, kept, "universal",
                measure="1 − LE gained, instead of all images", shown="points", stated="not testable offline", note=f"{TEN}{curve}.",
            )
        )  # fmt: skip
    bridge = [name for name in bridge_rows() if name in names]
    if bridge:
        whole = runs[runs["shots"].isna()]
        values = [
            mean_of(name, whole.loc[whole["name"] == name, "F_median"], unit="seeds", margin=SENSITIVE)
            for name in bridge
        ]
        others = numbers_of(table, ["fixed, both", *bridge, "Grad-CAM", "CASE", "Finer-CAM"], TESTS)
        found.append(
            Finding(
                "A masker can be made class-sensitive at 0.5.", here, values, "existential", "below", measure="median F, mean over seeds",
                shown="percent", note=f"Percent: {others}.",
            )
        )  # fmt: skip
    return found


def jobs_of(config: Config) -> list[tuple[str, dict[str, Any], int, int | None, Config]]:
    """What is trained, the central rows first."""
    rows, bridge, shots = table_rows(), bridge_rows(), SHOTS
    if config.quick:
        rows, bridge, shots = dict(list(rows.items())[:1]), dict(list(bridge.items())[-1:]), SHOTS[:1]
    main_rows = dict(list(rows.items())[:MAIN])
    further = [(name, options, None) for name, options in (bridge | rows).items() if name not in main_rows]
    further += [("fixed, both", {}, number) for number in shots]
    jobs = [(name, options, seed, None, config) for name, options in main_rows.items() for seed in range(config.seeds)]
    jobs += [(name, options, seed, number, config) for seed in range(config.seeds) for name, options, number in further]
    return jobs


def measured(config: Config) -> Numbers:
    """Train and score everything; one row per masker, and per baseline."""
    trained_fill(config)  # once, before several processes want it
    with ProcessPoolExecutor(config.processes, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(one_run, *job) for job in jobs_of(config)]
        results = [future.result() for future in tqdm(waiting, desc="maskers")]
    classifier = load_classifier()
    for name in BASELINES[: 1 if config.quick else None]:
        found = scores(METHODS[name].maps, classifier, config.runs / f"baseline-{name}", config)
        results.append({"name": METHODS[name].title, "seed": 0, "shots": None, **found})
    return Numbers({}, {RUNS: pd.DataFrame(results)})


def concluded(numbers: Numbers, config: Config) -> Answer:
    """The tables, from single runs."""
    runs = numbers.tables[RUNS]
    table = summary(runs)
    curve = table[table["name"] == "fixed, both"].sort_values("shots", na_position="last")
    figures = {"few_shot": draw_few_shot(curve, config.scenes)}
    title = (
        "Maskers, in percent: mean over seeds ± half of Student's 95% interval; truth: body and bright marker together"
    )
    tables = {"summary": Table(title, table, printed(table)), RUNS: Table("Single runs", runs)}
    return Answer(findings(table, runs), tables, figures)


def main(config: Config) -> None:
    """Answer, and keep it."""
    config = quick(config) if config.quick else config
    for name in ("seeds", "steps", "batch", "scenes", "tested", "processes"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

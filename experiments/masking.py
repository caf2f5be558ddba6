"""The masking paper's findings (arXiv 2010.09750) on digit scenes, and maskers under the tests of CASE.

Question   Does a masker need both objectives? Does training the classifier alongside help? Do infilling, binary masks and more images? Is a
           masker class-sensitive, and can it be made so?
Command    python -m experiments.masking [--quick] [--seeds 3] [--out experiments/results/masking]
Cost       about 45 minutes on 2 CPU cores
Expected   the paper's: both objectives beat either, training alongside beats a fixed classifier, ten images a class lose next to nothing
"""

import dataclasses
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from flax import nnx
from matplotlib.figure import Figure
from scipy.stats import t as student
from tabulate import tabulate
from tqdm import tqdm

from case_jax import METHODS
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Pixels, evaluate, plan
from case_jax.evaluation.localise import localise
from case_jax.evaluation.run import session
from case_jax.imageops import normalise_image
from case_jax.masking import InfillNet, Ingredients, TrainedMasker, infiller, masker_task, networks
from case_jax.masking.infill import as_infiller, infill_task
from case_jax.masking.task import CONTRAST_IN, CONTRAST_OUT, OUT
from case_jax.masking.trained import digest, still
from case_jax.models import Classifier, load_classifier, tap_classifier
from case_jax.report.figures import COLOURS, plain_style, rendered
from case_jax.results import RunFolder, write_atomically, write_json
from case_jax.stats import correct_rows, mean_drop
from case_jax.training import Examples, Network, Recipe, few_shot, train

BASELINES = ("grad_cam", "case", "finer_cam", "guided_backprop", "centre_gaussian", "random")
TRAINED_OUT = OUT._replace(size_weight=15.0)
OBJECTIVES = {"in": {"masked_out": None}, "out": {"masked_in": None}, "both": {}}
SHOTS = (1, 2, 5, 10, 20, 50)
MAIN, RESULT = 9, "result.json"


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
    collect: bool = False
    """Train nothing: tables of what has been trained."""
    quick: bool = False
    """One seed, five steps, twenty-five scenes and the first rows, to prove that it runs."""
    runs: Path = Path("runs/masking")
    """Checkpoints and single results; the same command goes on."""
    out: Path = Path("experiments/results/masking")


def table_rows() -> dict[str, dict[str, Any]]:
    """Ingredients of the central table, by name."""
    rows: dict[str, dict[str, Any]] = {}
    for mode in ("fixed", "alongside", "history"):
        trained = {} if mode == "fixed" else {"masked_out": TRAINED_OUT}
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
    facts, net = load_classifier().preprocessing, InfillNet(rngs=nnx.Rngs(0))
    task = infill_task(net, mean=facts.mean, std=facts.std)
    recipe = Recipe(config.steps, config.batch)
    examples = Examples(DigitScenes("train", config.scenes))
    folder = RunFolder(config.runs / "infiller")
    state = train(task, examples, recipe, folder, config={"infiller": True}, facts=session(), progress=False)
    return as_infiller(Network(net).module(state[0]))  # type: ignore[arg-type]


def folder_of(name: str, seed: int, shots: int | None, config: Config) -> Path:
    """Where one masker's checkpoints and result are."""
    return config.runs / f"{name.replace(', ', '-').replace(' ', '_')}-{shots or 'all'}-{seed}"


def one_run(name: str, options: dict[str, Any], seed: int, shots: int | None, config: Config) -> dict[str, Any]:
    """Train one masker and score it, or read what that gave."""
    folder = folder_of(name, seed, shots, config)
    file = folder / RESULT
    if file.exists():
        return json.loads(file.read_text())
    classifier = load_classifier()
    facts = classifier.preprocessing
    made_of = Ingredients(**options, decay_every=max(1, 2 * config.steps // 3))
    shape = (facts.crop, facts.crop, 3)
    nets = networks(classifier.module, classifier.entry.taps.stages, made_of, shape, num_classes=25, seed=seed)
    fill = trained_fill(config) if made_of.infill == "cnn" else infiller(made_of.infill)
    task = masker_task(nets, made_of, mean=facts.mean, std=facts.std, fill=fill)
    source = DigitScenes("train", config.scenes)
    indices = None if shots is None else few_shot(source, shots, seed=seed)
    recipe = Recipe(config.steps, config.batch, seed=seed, log_every=min(50, config.steps))
    examples = Examples(source, indices, seed=seed)
    state = train(task, examples, recipe, RunFolder(folder), config={"name": name}, facts=session(), progress=False)
    trained: Any = nets.masker.module(state.masker)
    judge = classifier._replace(module=nets.classifier.module(state.classifier))
    masker = TrainedMasker(still(trained), made_of.gumbel, digest(judge.module), name, digest(trained))
    result = {"name": name, "seed": seed, "shots": shots, **scores(masker, judge, folder, config)}
    write_json(file, result)
    return result


def scores(maps: Any, classifier: Classifier, folder: Path, config: Config) -> dict[str, float]:
    """One method through the tests: localisation of body and bright marker together, sensitivity, fidelity, evidence."""
    source = DigitScenes("test", config.tested)
    pixels = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std)
    model = tap_classifier(classifier, normalise_image(source[0].image, *pixels))
    contrast = choose_contrast("topk_logits:5", 25)
    found: dict[str, float] = {}
    run = RunFolder(folder / "where")
    done = localise(source, model, contrast, {"m": maps}, run, pixels=pixels, thresholds=20, progress=False)
    mine = done.rows[done.rows["method"] == "m"]
    found |= {column: float(mine[column].mean()) for column in ("le", "om", "f1")}
    found |= {"pxap": float(done.overall.loc["m", "pxap"]), "mask_mean": float(mine["mean"].mean())}  # type: ignore[arg-type]
    tests = ("sensitivity", "fidelity", "evidence")
    planned = plan(source, model, contrast, pixels=pixels, methods={"m": maps}, metrics=tests, tile=25, part=100)
    rows = evaluate(planned, RunFolder(folder / "tests"), progress=False).rows()
    usable = rows[~rows["degenerate_1"] & ~rows["degenerate_2"]]
    found["accuracy"] = float((rows["top1"] == rows["label"]).mean())
    found["degenerate"] = len(rows) - len(usable)
    found["F_median"] = float(usable["F"].median())
    found["drop"] = float(mean_drop(usable[correct_rows(usable)]).mean())
    found |= {name: float(usable[name].mean()) for name in ("mass_own", "mass_shared")}
    return found


def summary(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean over seeds of every number, and half of Student's 95% interval."""
    frame = pd.DataFrame(results)
    rows = []
    for (name, shots), group in frame.groupby(["name", "shots"], sort=False, dropna=False):
        n = len(group)
        row: dict[str, Any] = {"name": name, "shots": shots, "seeds": n}
        for column in frame.columns.drop(["name", "seed", "shots"]):
            spread = group[column].std(ddof=1) * student.ppf(0.975, n - 1) / math.sqrt(n) if n > 1 else math.nan
            row |= {column: group[column].mean(), f"{column}_half": spread}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_few_shot(table: pd.DataFrame, everything: int, file: Path) -> None:
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
        write_atomically(file, rendered(figure)[0])


COLUMNS = ("le", "om", "f1", "pxap", "mask_mean", "accuracy", "F_median", "drop", "mass_own", "mass_shared")


def printed(table: pd.DataFrame) -> str:
    """Means ± half intervals, in percent."""
    rows = [
        [r["name"], "all" if pd.isna(r["shots"]) else int(r["shots"])]
        + [f"{100 * r[c]:.1f}" + ("" if pd.isna(r[f"{c}_half"]) else f" ± {100 * r[f'{c}_half']:.1f}") for c in COLUMNS]
        for _, r in table.iterrows()
    ]
    return tabulate(rows, headers=["masker", "images a class", *COLUMNS], tablefmt="github")


def main(config: Config) -> None:
    """Train, score, and write the tables and the picture."""
    if config.quick:
        config = dataclasses.replace(config, seeds=1, steps=4, batch=10, scenes=200, tested=25, processes=1)
    rows, bridge = table_rows(), bridge_rows()
    if config.quick:
        rows, bridge = dict(list(rows.items())[:1]), dict(list(bridge.items())[-1:])
    config.out.mkdir(parents=True, exist_ok=True)
    shots = SHOTS[:1] if config.quick else SHOTS
    main_rows = dict(list(rows.items())[:MAIN])
    further = [(name, options, None) for name, options in (bridge | rows).items() if name not in main_rows]
    further += [("fixed, both", {}, number) for number in shots]
    jobs = [(name, options, seed, None, config) for name, options in main_rows.items() for seed in range(config.seeds)]
    jobs += [(name, options, seed, number, config) for seed in range(config.seeds) for name, options, number in further]
    if config.collect:
        jobs = [job for job in jobs if (folder_of(job[0], job[2], job[3], config) / RESULT).exists()]
    else:
        trained_fill(config)  # once, before several processes want it
    with ProcessPoolExecutor(config.processes, multiprocessing.get_context("spawn")) as pool:
        results = [future.result() for future in tqdm([pool.submit(one_run, *job) for job in jobs], desc="maskers")]
    classifier = load_classifier()
    for name in BASELINES[: 1 if config.quick else None]:
        found = scores(METHODS[name].maps, classifier, config.runs / f"baseline-{name}", config)
        results.append({"name": METHODS[name].title, "seed": 0, "shots": None, **found})
    table = summary(results)
    pd.DataFrame(results).to_csv(config.out / "runs.csv", index=False)
    table.to_csv(config.out / "summary.csv", index=False)
    curve = table[table["name"] == "fixed, both"].sort_values("shots", na_position="last")
    draw_few_shot(curve, config.scenes, config.out / "few_shot.png")
    write_json(
        config.out / "session.json",
        {**session(), "config": json.loads(json.dumps(dataclasses.asdict(config), default=str))},
    )
    write_atomically(config.out / "table.md", (printed(table) + "\n").encode())
    print(printed(table))


if __name__ == "__main__":
    main(tyro.cli(Config))

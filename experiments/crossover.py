"""Every method through every test: do the tests agree about which methods are good?

Question   Sensitivity, fidelity, evidence, localisation, sanity and cost of every method on one page; which tests rank methods alike?
Command    python -m experiments.crossover [--quick] [--again] [--data tfds:imagenet2012:validation --networks resnet50]
Cost       about ten minutes on 2 CPU cores, most of them the methods that need hundreds of passes an image (`--slow-images 0` leaves them out); two maskers of two minutes on top unless
           `python -m experiments.masking` has trained them
Expected   no method is good at everything: localisation of the whole object rewards what class sensitivity punishes
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array

from case_jax import METHODS
from case_jax._checks import require
from case_jax.evaluation import Localise, Sanity, prepare, run
from case_jax.evaluation.studies import localisation
from case_jax.methods import MapFunction, top_class_maps, usual
from case_jax.models.initial import initial_params
from case_jax.report.sanity import summarise as summarise_sanity
from case_jax.results import RunFolder
from case_jax.stats import RANK_DECIMALS, ranked, summarise
from experiments import masking
from experiments.benchmarks.timing import interleaved
from experiments.claim import Finding, percent, place
from experiments.estimates import distinct, spearman
from experiments.families import SHIPPED
from experiments.kept import Answer, Numbers, Table, carry_out, from_shell
from experiments.networks import Subject, Where, asked_by_name, only
from experiments.pictures import heat

SLOW = tuple(name for name, entry in METHODS.items() if entry.slow)
FAST = usual()
CONTROLS = tuple(name for name in FAST if METHODS[name].control)
MASKERS = {"masker": "fixed, both", "contrastive masker": "contrastive"}
TESTS = {
    "F": ("class sensitivity: mean F", "low"),
    "pointing": ("both maps peak on their own digit", "high"),
    "own": ("mass on own evidence", "high"),
    "drop": ("fidelity: drop over 5 to 90%", "high"),
    "pxap_marker": ("localisation of the marker: PxAP", "high"),
    "pxap_union": ("localisation of the object: PxAP", "high"),
    "boxes": ("localisation of the boxes: MaxBoxAcc", "high"),
    "sanity": ("sanity: |ρ| over the cascade", "low"),
    "cost": ("cost: forward passes", "low"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(
        default_factory=lambda: Where(networks=(SHIPPED,), limit=200)
    )
    slow_images: int = 20
    """Images for the methods that need hundreds of passes; 0 leaves these methods out."""
    maskers: bool = True
    """On digit scenes: train maskers, or take those of `experiments.masking`."""
    masking: Path = Path("runs/masking")
    """Where these are."""
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/crossover")


def evaluated(subject: Subject, methods: dict[str, MapFunction], run: str, images: int) -> pd.DataFrame:
    """Sensitivity, evidence and fidelity."""
    table = summarise(subject.rows(run, methods, contrast="confusion:5", limit=images), resamples=200).table
    names = {
        "F_mean": "F",
        "pointing_mean": "pointing",
        "own_mean": "own",
        "sweep_mean": "drop",
        "degenerate": "degenerate",
    }
    return table.reindex(columns=[*names]).rename(columns=names)


def localised(subject: Subject, methods: dict[str, MapFunction], name: str, images: int, truth: str) -> pd.DataFrame:
    """PxAP, where pixels are known, and MaxBoxAcc."""
    study = Localise(truth=truth, thresholds=20)
    job = prepare(study, subject.studied(methods, "confusion:5"), limit=images)
    folder = run(job, RunFolder(subject.where.kept / f"{name}-{truth}"), progress=False)
    return localisation(folder).overall.loc[list(methods)]


def checked(subject: Subject, methods: dict[str, MapFunction], name: str, images: int) -> pd.Series:
    """Mean magnitude correlation over the cascade."""
    study = Sanity(initial_params(subject.classifier), kinds=("cascading",), depth=2)
    job = prepare(study, subject.studied(methods, "confusion:5"), limit=images, tile=4)
    rows = run(job, RunFolder(subject.where.kept / f"{name}-sanity"), progress=False).rows()
    return summarise_sanity(rows, resamples=50).set_index("method")["cascading_spearman_abs"]


def costs(subject: Subject, methods: dict[str, MapFunction], batch: int) -> pd.Series:
    """Time of the likeliest classes' maps of a batch of images, in units of a forward pass."""
    model = subject.model()
    contrast = subject.contrast("topk_logits:5", model).sets
    images, key = jax.random.normal(jax.random.key(1), (batch, *model.image_shape)), jax.random.key(0)

    def of_batch(one: Callable[..., Array]) -> Callable[[], Array]:
        return partial(jax.jit(jax.vmap(one, (None, 0))), model.params, images)

    calls = {"forward": of_batch(model.apply)}
    for name, maps in methods.items():
        calls[name] = of_batch(partial(top_class_maps, maps, model, top=1, contrast=contrast, key=key))
    interleaved(calls, 1)
    seconds = interleaved(calls, 5)
    return pd.Series({name: seconds[name] / seconds["forward"] for name in methods})


def maskers(config: Config) -> dict[str, MapFunction]:
    """A class-agnostic and a contrastive masker."""
    settings = masking.Config(runs=config.masking)
    if config.where.quick:
        settings = masking.quick(dataclasses.replace(settings, runs=config.where.kept / "masking"))
    rows = masking.table_rows() | masking.bridge_rows()
    return {title: masking.trained(row, rows[row], 0, None, settings)[0] for title, row in MASKERS.items()}


def tested(subject: Subject, methods: dict[str, MapFunction], run: str, images: int) -> pd.DataFrame:
    """All numbers of these methods."""
    table = evaluated(subject, methods, run, images)
    if subject.where.offline:
        for truth in ("marker", "union"):
            table[f"pxap_{truth}"] = localised(subject, methods, run, images, truth)["pxap"]
    elif getattr(subject.source, "truths", ()):
        table["boxes"] = localised(subject, methods, run, images, "boxes")["max_box_acc"]
    table["sanity"] = checked(subject, methods, run, max(4, images // 5))
    table["cost"] = costs(subject, methods, 2 if set(methods) <= set(SLOW) else 16)
    return table.assign(images=images)


def measured(config: Config) -> Numbers:
    """One row per method, one column per test."""
    where = config.where
    require(config.slow_images >= 0, "slow_images", config.slow_images, "a number of images, or 0 for none")
    subject = only(where)
    images = min(where.images, len(subject.source))
    groups = {"crossover": (FAST[:5] if where.quick else FAST, images)}
    if config.slow_images and not where.quick:
        groups["crossover-slow"] = (SLOW, min(images, config.slow_images))
    tables = [tested(subject, asked_by_name(names), run, count) for run, (names, count) in groups.items()]
    if config.maskers and where.offline:
        tables.append(tested(subject, maskers(config), "crossover-maskers", images))
    table: Any = pd.concat(tables)
    table.index.name = "method"
    return Numbers({}, {"methods": table.reset_index()})


SENSITIVITY = TESTS["F"][0]
FEW = "20 images or fewer were asked of these methods: too few for places among methods."
ONE = "One training of each masker: too few for places among methods."


def agreements(signed: pd.DataFrame, names: pd.Index) -> tuple[pd.DataFrame, int]:
    """Spearman's ρ between tests over these methods, those that draw one map counted once; and how many that leaves."""
    once = distinct(signed.loc[names].drop(columns=TESTS["cost"][0], errors="ignore"), RANK_DECIMALS - 1)
    found = signed.loc[once.index].round(RANK_DECIMALS).corr(method="spearman", min_periods=4)
    return found, len(once)


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Which tests agree, and which methods are good at most of them."""
    table: Any = numbers.tables["methods"].drop(columns="mean_rank", errors="ignore").set_index("method")
    titles = [METHODS[name].title if name in METHODS else name for name in table.index]
    tests = {c: test for c, test in TESTS.items() if c in table and table[c].notna().any()}
    signed = pd.DataFrame({words: table[c] * (1 if better == "high" else -1) for c, (words, better) in tests.items()})
    proper = table.index[[name not in CONTROLS for name in table.index]]
    agreement, count = agreements(signed, proper)
    table["mean_rank"] = ranked(table, {c: better for c, (_, better) in tests.items() if c != "cost"})["mean_rank"]
    order = np.argsort(table["mean_rank"].to_numpy(), kind="stable")
    shown = pd.DataFrame({"method": titles, "images": table["images"].to_numpy()})
    for c, (words, _) in tests.items():
        shown[words] = (
            table[c].map("{:.1f}".format if c == "cost" else "{:.2f}".format if c == "sanity" else percent).to_numpy()
        )
    shown["degenerate"] = table["degenerate"].to_numpy()
    shown["mean rank"] = table["mean_rank"].map("{:.1f}".format).to_numpy()
    upper: Any = agreement.where(np.triu(np.ones(agreement.shape, bool), 1)).stack()
    against = agreement[SENSITIVITY].drop(SENSITIVITY).sort_values(ascending=False)
    low, high = upper.idxmin(), upper.idxmax()
    best = ", ".join(titles[i] for i in order[:3])
    missing = [METHODS[name].title for name in (*FAST, *SLOW) if name not in table.index]
    omitted = f" Not in the table, as they need hundreds of passes an image: {', '.join(missing)}." if missing else ""
    here = place(config.where.data, "one small network" if config.where.offline else "one network")
    findings = [
        Finding(
            "Do the tests agree with class sensitivity about which methods are good?", here, [spearman(str(n), v, count) for n, v in against.items()],
            measure="Spearman's ρ of the methods' order with that by mean F, better first",
            note=f"Controls left out, methods that draw one map counted once. Over all pairs of tests: mean {upper.mean():.2f}; most alike {high[0]} and {high[1]} "
            f"({upper.max():.2f}), least {low[0]} and {low[1]} ({upper.min():.2f}).{omitted}",
        ),
        Finding("Which methods are good at most tests?", here, note=f"By mean rank over all but cost: {best}. One network, one training."),
        Finding("Do methods that need hundreds of passes an image buy much by them?", here, stated="withdrawn", note=FEW),
    ]  # fmt: skip
    if set(MASKERS) <= set(table.index):
        claim = "Is a contrastive masker the most class-sensitive faithful method?"
        findings.append(Finding(claim, here, stated="withdrawn", note=ONE))
    tables = {
        "methods": Table("Every method × every test", table.reset_index(), shown.iloc[order]),
        "agreement": Table(
            "Spearman correlation between tests over methods (signs such that better agrees with better)",
            agreement.reset_index(names="test"),
            agreement.map("{:.2f}".format).reset_index(names="test"),
        ),
    }
    picture = signed.round(RANK_DECIMALS).rank(pct=True).iloc[order]
    picture.index = [titles[i] for i in order]
    return Answer(findings, tables, {"ranks": heat(picture, "share of methods that are no better, %")})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""Every method through every test, on pictures and on sounds: do the tests agree about which methods are good?

Question   Sensitivity, specificity, fidelity, evidence, localisation, sanity and cost of every method on one page; which tests rank methods alike? Do
           pictures and sounds?
Command    python -m experiments.crossover [--quick] [--again] [--no-sound] [--data tfds:imagenet2012:validation --networks resnet50]
Cost       about half an hour on 2 CPU cores, most of it the methods that need hundreds of passes an image (`--slow-images 0` leaves them out); on top four
           maskers of two minutes each unless `python -m experiments.masking` and `experiments.lmac` have trained them
Expected   no method is good at everything: localisation of the whole object rewards what class sensitivity punishes; sounds order methods as pictures do
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array

from case_jax import METHODS
from case_jax._checks import require
from case_jax.evaluation import Localise, Sanity, prepare, run
from case_jax.evaluation.studies import localisation
from case_jax.methods import MapFunction, top_class_maps
from case_jax.metrics import METRICS
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
from experiments.sound_maskers import CONTRASTIVE, PLAIN, QUICK_TRAINING, MaskerTraining, trained_sound_masker
from experiments.sound_networks import Sounds

DIGITS, SOUND = "digit scenes", "sound scenes"
OMITTED = ("libra_grad", "attn_lrp", "whole_image")
"""Two that are made for transformers, and a map that is all ties. Methods that need attention or a pair of classes are left out, too."""
SLOW = tuple(name for name, entry in METHODS.items() if entry.slow)
FAST = tuple(n for n, m in METHODS.items() if not (m.slow or m.attention or m.pair or n in OMITTED))
CONTROLS = tuple(name for name in FAST if METHODS[name].control)
MASKERS = {"masker": "fixed, both", "contrastive masker": "contrastive"}
SOUND_MASKERS = {"masker": PLAIN, "contrastive masker": CONTRASTIVE}
"""What is put beside the methods: by the masking paper's losses for pictures, by L-MAC's for sounds."""
ASKED = ("sensitivity", "evidence", "fidelity", "specificity", "masked_confidence")
TESTS = {
    "F": ("class sensitivity: mean F", "low"),
    "specificity": ("specificity, logits", "high"),
    "necessity": ("necessity, logits", "high"),
    "pointing": ("both maps peak on their own part", "high"),
    "own": ("mass on own evidence", "high"),
    "drop": ("fidelity: drop over 5 to 90%", "high"),
    "pxap_marker": ("localisation of the marker: PxAP", "high"),
    "pxap_union": ("localisation of the object: PxAP", "high"),
    "boxes": ("localisation of the boxes: MaxBoxAcc", "high"),
    "sanity": ("sanity: |ρ| over the cascade", "low"),
    "cost": ("cost: forward passes", "low"),
}
UNRANKED = {"average_drop": "AD", "average_gain": "AG", "average_increase": "AI"}
"""Shown, but no measure of merit: a whole image has an average drop of 0, and hiding one pixel raises the class in half of the images."""
LOGITS = ("specificity", "necessity", "cost")


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(
        default_factory=lambda: Where(networks=(SHIPPED,), limit=200)
    )
    slow_images: int = 20
    """Images for the methods that need hundreds of passes; 0 leaves these methods out, as always on sounds, whose spectrograms have seven times as many pixels."""
    sound: bool = True
    """With digit scenes: sound scenes, too, and a small network for them."""
    maskers: bool = True
    """On scenes: train maskers, or take those of `experiments.masking` and `experiments.lmac`."""
    masking: Path = Path("runs/masking")
    """Where these are."""
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/crossover")


def evaluated(subject: Subject, methods: dict[str, MapFunction], run: str, images: int) -> pd.DataFrame:
    """Sensitivity, specificity, evidence, fidelity and masked confidence."""
    rows = subject.rows(run, methods, contrast="confusion:5", metrics=ASKED, limit=images)
    names = {
        "F_mean": "F",
        "pointing_mean": "pointing",
        "own_mean": "own",
        "sweep_mean": "drop",
        "degenerate": "degenerate",
    }
    names |= {f"{name}_mean": name for name in ("specificity", "necessity", *UNRANKED)}
    described = [column for name in ASKED for column in METRICS[name].described]
    return summarise(rows, columns=described, resamples=200).table.reindex(columns=[*names]).rename(columns=names)


def localised(subject: Subject, methods: dict[str, MapFunction], name: str, images: int, truth: str) -> pd.DataFrame:
    """PxAP, where pixels are known, and MaxBoxAcc."""
    study = Localise(truth=truth, thresholds=20)
    job = prepare(study, subject.studied(methods, "confusion:5"), limit=images)
    folder = run(job, RunFolder(subject.where.kept / f"{name}-{truth}" / subject.name), progress=False)
    return localisation(folder).overall.loc[list(methods)]


def checked(subject: Subject, methods: dict[str, MapFunction], name: str, images: int) -> pd.Series:
    """Mean magnitude correlation over the cascade."""
    study = Sanity(initial_params(subject.classifier), kinds=("cascading",), depth=2)
    job = prepare(study, subject.studied(methods, "confusion:5"), limit=images, tile=4)
    rows = run(job, RunFolder(subject.where.kept / f"{name}-sanity" / subject.name), progress=False).rows()
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
    """A class-agnostic and a contrastive masker of digit scenes."""
    settings = masking.Config(runs=config.masking)
    if config.where.quick:
        settings = masking.quick(dataclasses.replace(settings, runs=config.where.kept / "masking"))
    rows = masking.table_rows() | masking.bridge_rows()
    return {title: masking.trained(row, rows[row], 0, None, settings)[0] for title, row in MASKERS.items()}


def maskers_of_sounds(subject: Subject) -> dict[str, MapFunction]:
    """The same of sound scenes."""
    training = QUICK_TRAINING if subject.where.quick else MaskerTraining()
    return {title: trained_sound_masker(kind, subject, training) for title, kind in SOUND_MASKERS.items()}


def tested(subject: Subject, methods: dict[str, MapFunction], run: str, images: int) -> pd.DataFrame:
    """All numbers of these methods."""
    table, truths = evaluated(subject, methods, run, images), getattr(subject.source, "truths", ())
    for truth in ("marker", "union"):
        if truth in truths:
            table[f"pxap_{truth}"] = localised(subject, methods, run, images, truth)["pxap"]
    if truths and "marker" not in truths:
        table["boxes"] = localised(subject, methods, run, images, "boxes")["max_box_acc"]
    table["sanity"] = checked(subject, methods, run, max(4, images // 5))
    table["cost"] = costs(subject, methods, 2 if set(methods) <= set(SLOW) else 16)
    return table.assign(images=images)


def of_subject(
    subject: Subject, config: Config, more: Callable[[], dict[str, MapFunction]] | None, *, slow_images: int
) -> pd.DataFrame:
    """One row per method, of one network; 0 `slow_images` leave the slow methods out."""
    where = config.where
    images = min(where.images, len(subject.source))
    groups = {"crossover": (asked_by_name(FAST[:5] if where.quick else FAST), images)}
    if slow_images and not where.quick:
        groups["crossover-slow"] = (asked_by_name(SLOW), min(images, slow_images))
    if config.maskers and more is not None:
        groups["crossover-maskers"] = (more(), images)
    table = pd.concat([tested(subject, methods, run, count) for run, (methods, count) in groups.items()])
    table.index.name = "method"
    return table.reset_index()


def measured(config: Config) -> Numbers:
    """One row per method, one column per test; of sounds, too."""
    where = config.where
    require(config.slow_images >= 0, "slow_images", config.slow_images, "a number of images, or 0 for none")
    subject = only(where)
    data, more = (DIGITS, partial(maskers, config)) if where.offline else (where.data, None)
    tables = [of_subject(subject, config, more, slow_images=config.slow_images).assign(data=data)]
    if config.sound and where.offline:
        sound = Sounds(limit=where.limit, runs=where.runs, quick=where.quick).subject(where.seed)
        tables.append(of_subject(sound, config, partial(maskers_of_sounds, sound), slow_images=0).assign(data=SOUND))
    return Numbers({}, {"methods": pd.concat(tables, ignore_index=True)})


SENSITIVITY = TESTS["F"][0]
FEW = "20 images or fewer were asked of these methods: too few for places among methods."
ONE = "One training of each masker: too few for places among methods."


class Ranked(NamedTuple):
    """The methods of one kind of data, and what follows of their order."""

    data: str
    here: str
    table: pd.DataFrame
    """By method."""
    signed: pd.DataFrame
    """Numbers by test, signs such that more is better."""
    agreement: pd.DataFrame
    """Spearman's correlation of the tests."""
    number: int
    """Methods that draw different maps, controls left out."""


def proper(names: pd.Index) -> pd.Index:
    """Those that are no controls."""
    return names[[name not in CONTROLS for name in names]]


def agreements(signed: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Spearman's ρ between tests over the methods, those that draw one map counted once; and how many that leaves."""
    numbers = signed.loc[proper(signed.index)]
    once = distinct(numbers.drop(columns=TESTS["cost"][0], errors="ignore"), RANK_DECIMALS - 1)
    found = signed.loc[once.index].round(RANK_DECIMALS).corr(method="spearman", min_periods=4)
    return found, len(once)


def ordered(data: str, here: str, table: pd.DataFrame) -> Ranked:
    """The methods of one kind of data with their mean rank, best first."""
    tests = {c: test for c, test in TESTS.items() if c in table and table[c].notna().any()}
    better = {c: side for c, (_, side) in tests.items() if c != "cost"}
    table = table.assign(mean_rank=ranked(table, better)["mean_rank"]).sort_values("mean_rank", kind="stable")
    signed = pd.DataFrame({words: table[c] * (1 if side == "high" else -1) for c, (words, side) in tests.items()})
    return Ranked(data, here, table, signed, *agreements(signed))


def titled(names: pd.Index) -> list[str]:
    """Methods as tables name them."""
    return [METHODS[name].title if name in METHODS else name for name in names]


def shown(one: Ranked) -> pd.DataFrame:
    """The numbers as text."""
    text: dict[str, Any] = {"method": titled(one.table.index), "images": one.table["images"].to_numpy()}
    words = {c: title for c, (title, _) in TESTS.items()} | UNRANKED
    for column, title in words.items():
        if column in one.table and one.table[column].notna().any():
            form = "{:.1f}".format if column in LOGITS else "{:.2f}".format if column == "sanity" else percent
            text[title] = one.table[column].map(form).to_numpy()
    text |= {
        "degenerate": one.table["degenerate"].to_numpy(),
        "mean rank": one.table["mean_rank"].map("{:.1f}".format).to_numpy(),
    }
    return pd.DataFrame(text)


def of_one(one: Ranked) -> list[Finding]:
    """What the orders of one kind of data say."""
    upper: Any = one.agreement.where(np.triu(np.ones(one.agreement.shape, bool), 1)).stack()
    against = one.agreement[SENSITIVITY].drop(SENSITIVITY).sort_values(ascending=False)
    low, high = upper.idxmin(), upper.idxmax()
    missing = titled(pd.Index([name for name in (*FAST, *SLOW) if name not in one.table.index]))
    omitted = f" Not in the table: {', '.join(missing)}." if missing else ""
    best = ", ".join(titled(one.table.index[:3]))
    return [
        Finding(
            "Do the tests agree with class sensitivity about which methods are good?", one.here, [spearman(str(n), v, one.number) for n, v in against.items()],
            measure="Spearman's ρ of the methods' order with that by mean F, better first",
            note=f"Controls left out, methods that draw one map counted once. Over all pairs of tests: mean {upper.mean():.2f}; most alike {high[0]} and {high[1]} "
            f"({upper.max():.2f}), least {low[0]} and {low[1]} ({upper.min():.2f}).{omitted}",
        ),
        Finding("Which methods are good at most tests?", one.here, note=f"By mean rank over all but cost: {best}. One network, one training."),
    ]  # fmt: skip


def of_both(first: Ranked, second: Ranked) -> Finding:
    """Whether two kinds of data order methods alike, test by test."""
    names = proper(first.table.index.intersection(second.table.index))
    tests = [t for t in first.signed if t in second.signed and t != TESTS["cost"][0]]
    pairs = {
        test: pd.DataFrame({"first": first.signed[test], "second": second.signed[test]}).loc[names] for test in tests
    }
    found = []
    for test, pair in pairs.items():
        once = distinct(pair.dropna(), RANK_DECIMALS - 1).round(RANK_DECIMALS)
        found.append(spearman(str(test), once["first"].corr(once["second"], method="spearman"), len(once)))
    return Finding(
        "Do sounds order methods as pictures do?", f"{first.here}, and {second.here}", sorted(found, key=lambda one: -one.value),
        measure="Spearman's ρ of the methods' orders by pictures and by sounds",
        note="Controls left out, methods that draw one map counted once.",
    )  # fmt: skip


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Which tests agree, which methods are good at most of them, and whether sounds say the same."""
    table: Any = numbers.tables["methods"].set_index("method")
    network = "one small network" if config.where.offline else "one network"
    kinds = [
        ordered(str(data), place(str(data), network), group.drop(columns="data"))
        for data, group in table.groupby("data", sort=False)
    ]
    findings = [finding for one in kinds for finding in of_one(one)]
    if len(kinds) > 1:
        findings.append(of_both(*kinds))
    here = " and ".join(one.here for one in kinds)
    findings.append(Finding("Do methods that need hundreds of passes an image buy much by them?", here, stated="withdrawn", note=FEW))  # fmt: skip
    if set(MASKERS) <= set(table.index):
        claim = "Is a contrastive masker the most class-sensitive faithful method?"
        findings.append(Finding(claim, here, stated="withdrawn", note=ONE))
    tables, pictures = {}, {}
    for one in kinds:
        name = one.data.replace(" ", "_").replace(":", "_")
        tables[name] = Table(f"Every method × every test, {one.here}", one.table.reset_index(), shown(one))
        tables[f"agreement_{name}"] = Table(
            f"Spearman correlation between tests over methods, {one.here} (signs such that better agrees with better)",
            one.agreement.reset_index(names="test"),
            one.agreement.map("{:.2f}".format).reset_index(names="test"),
        )
        picture = one.signed.round(RANK_DECIMALS).rank(pct=True)
        picture.index = titled(picture.index)
        pictures[f"ranks_{name}"] = heat(picture, f"share of methods that are no better, %; {one.data}")
    return Answer(findings, tables, pictures)


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""What the masking experiment's single runs say of the masking paper's claims, by three truths."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import t as student

from experiments.claim import Estimate, Finding, place
from experiments.estimates import mean_of, paired

OBJECTIVE_NAMES = ("in", "out", "both")
Row = tuple[str, int | None]
"""A masker by name, and its images a class; None: all."""


class Truth(NamedTuple):
    """What counts as the object."""

    words: str
    suffix: str = ""
    """Of the columns of localisation."""
    said: str = ""
    """After a claim."""


TRUTH = {
    "union": Truth("body and bright marker together"),
    "body": Truth("the body alone", "_body", " By the body alone."),
    "marker": Truth("the bright marker alone", "_marker", " By the bright marker alone."),
}


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


WHERE = ("le", "om", "f1", "pxap")
"""Columns of localisation, a set for every truth."""
COLUMNS = ("mask_mean", "accuracy", "F_median", "drop", "mass_own", "mass_shared")


def printed(table: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """Means ± half intervals, in percent; localisation by one truth."""
    text = pd.DataFrame(
        {"masker": table["name"], "images a class": table["shots"].map("{:.0f}".format).replace("nan", "all")}
    )
    for title, c in ({c: f"{c}{truth.suffix}" for c in WHERE} | {c: c for c in COLUMNS}).items():
        half = table[f"{c}_half"].map(lambda h: "" if pd.isna(h) else f" ± {100 * h:.1f}")
        text[title] = table[c].map(lambda v: "–" if pd.isna(v) else f"{100 * v:.1f}") + half
    return text


def gain(runs: pd.DataFrame, better: Row, worse: Row, column: str, *, margin: float = 0.0) -> Estimate:
    """How far one masker is ahead of another, paired by seed: of localisation errors the smaller one is ahead."""
    first, second = (
        runs[(runs["name"] == name) & (runs["shots"].isna() if shots is None else runs["shots"] == shots)].set_index("seed")[column]
        for name, shots in (better, worse)
    )  # fmt: skip
    both = pd.concat([first, second], axis=1, join="inner").to_numpy().T
    ahead, behind = both[::-1] if column.startswith("le") else both
    label = f"{PLACE[column.partition('_')[0]]}: {better[0]} − {worse[0]}"
    return paired(label, ahead, behind, unit=UNIT, margin=margin)


def compared(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], truth: Truth, *, margin: float = 0.0
) -> list[Estimate]:
    """All gains of the first masker of each pair over the second, metric by metric, by one truth."""
    columns = [f"{column}{truth.suffix}" for column in PLACE]
    return [gain(runs, (a, None), (b, None), column, margin=margin) for column in columns for a, b in pairs]


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


UNIT = "networks"
MODES = ("fixed", "alongside", "history")
PLACE = {"pxap": "PxAP", "le": "1 − LE", "f1": "F1"}
TESTS = {"F_median": "F", "drop": "drop", "mass_own": "own evidence"}
AHEAD = "ahead, by the metrics of localisation, paired by network"
NOTHING = 0.02
"""Of a metric of localisation: a difference that is next to nothing."""
SENSITIVE = 0.5
"""θ of the test of class sensitivity."""
TEN = "Not asked here: digit scenes have few looks, and a masker reads a classifier that has seen all of them. LE and PxAP, percent, by images a class: "
LIKE_CAM = "Grad-CAM"


def _rows(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Single runs of a masker that has seen all images."""
    return runs[(runs["name"] == name) & runs["shots"].isna()]


def of_localisation(table: pd.DataFrame, runs: pd.DataFrame, here: str) -> list[Finding]:
    """The paper's claims about where masks lie, each by every truth."""
    names, found = set(table[table["shots"].isna()]["name"]), []
    there = [mode for mode in MODES if {f"{mode}, {o}" for o in OBJECTIVE_NAMES} <= names]
    learnt = [f"{mode}, both" for mode in there if mode != "fixed" and "fixed" in there]
    price = f"The classifier is right, percent: {numbers_of(table, ['fixed, both', *learnt], {'accuracy': 'right'}).replace(': right', '')}."
    claims: list[tuple[str, list[tuple[str, str]], str, bool]] = [
        (
            "A masker needs both objectives (masking paper).",
            [(f"{m}, both", f"{m}, {o}") for m in there for o in OBJECTIVE_NAMES[:2]],
            "",
            False,
        ),
        (
            "Training the classifier alongside helps (masking paper).",
            [(name, "fixed, both") for name in learnt],
            price,
            False,
        ),
    ]
    for what, extras in (("Infilling", ("blur", "cnn")), ("Making masks binary (Gumbel)", ("gumbel",))):
        pairs = [(f"{m}, both, {e}", f"{m}, both") for m in MODES for e in extras if f"{m}, both, {e}" in names]
        named = list(dict.fromkeys(n for pair in pairs for n in pair[::-1]))
        own = numbers_of(table, named, {"mass_own": "own"}).replace(": own", "")
        note = f"{100 * NOTHING:.0f} points and less are nothing. Mass on own evidence, percent: {own}."
        claims.append((f"{what} adds nothing (masking paper).", pairs, note, True))
    for claim, pairs, note, nothing in claims:
        rule, margin = ("equivalence", NOTHING) if nothing else ("universal", 0.0)
        for truth in TRUTH.values() if pairs else ():
            gains = compared(runs, pairs, truth, margin=margin)
            said = note if not truth.said else ""
            found.append(Finding(claim + truth.said, here, gains, rule, measure=AHEAD, shown="points", note=said))  # type: ignore[arg-type]
    return found


def of_few(table: pd.DataFrame, runs: pd.DataFrame, here: str) -> list[Finding]:
    """What few images a class cost."""
    few = table[(table["name"] == "fixed, both") & table["shots"].notna()].sort_values("shots")
    kept = [
        gain(runs, ("fixed, both", int(n)), ("fixed, both", None), "le")._replace(label=f"{n:.0f} a class")
        for n in few["shots"]
    ]
    curve = ", ".join(f"{r['shots']:.0f}: {100 * r['le']:.0f} and {100 * r['pxap']:.0f}" for _, r in few.iterrows())
    claim = "Ten images a class lose next to nothing (masking paper: 0.7 points of LE)."
    stated = Finding(
        claim, here, kept, "universal", measure="1 − LE gained, instead of all images", shown="points",
        stated="not testable offline", note=f"{TEN}{curve}.",
    )  # fmt: skip
    return [stated] if kept else []


def of_classes(table: pd.DataFrame, runs: pd.DataFrame, here: str, bridge: Sequence[str]) -> list[Finding]:
    """Whether maskers can be made class-sensitive, and which part of the object each masker marks."""
    names = [name for name in bridge if len(_rows(runs, name))]
    found = []
    if names:
        values = [mean_of(name, _rows(runs, name)["F_median"], unit=UNIT, margin=SENSITIVE) for name in names]
        others = numbers_of(table, ["fixed, both", *names, LIKE_CAM, "CASE", "Finer-CAM"], TESTS)
        claim = "A masker can be made class-sensitive at 0.5."
        measure = "median F, mean over networks"
        found.append(
            Finding(
                claim,
                here,
                values,
                "existential",
                "below",
                measure=measure,
                shown="percent",
                note=f"Percent: {others}.",
            )
        )
    if len(_rows(runs, "fixed, both")):
        marked = [
            mean_of(f"{name}: {title}", _rows(runs, name)[f"pxap{truth.suffix}"], unit=UNIT)
            for name in ("fixed, both", "history, both", "contrastive", LIKE_CAM)
            for title, truth in TRUTH.items()
            if len(_rows(runs, name))
        ]
        question = "Which part of the object does a masker mark: body, bright marker, or both together?"
        note = (
            "PxAP by each truth; chance is the part's share of the pixels, so compare rows with the random map's, not truths with each other. Random map: "
            + numbers_of(table, ["random map"], {f"pxap{t.suffix}": title for title, t in TRUTH.items()})
        )
        found.append(
            Finding(question, here, marked, measure="PxAP, mean over networks", shown="percent", note=f"{note}.")
        )
    return found


def findings(table: pd.DataFrame, runs: pd.DataFrame, bridge: Sequence[str] = ()) -> list[Finding]:
    """What was found of the paper's claims, by three metrics of localisation and three truths, of those parts that have been trained."""
    here = place("digit_scenes", "small networks of one kind")
    return of_localisation(table, runs, here) + of_few(table, runs, here) + of_classes(table, runs, here, bridge)

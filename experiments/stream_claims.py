"""What is claimed of attention pooling and of Signature Activation, and the comparisons that decide it: of networks, paired by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.claim import Estimate, Finding, Shown, percent, place
from experiments.estimates import mean_of, paired

MEASURES = {
    "average_drop": "AD", "average_gain": "AG", "average_increase": "AI", "mask_mean": "mean of the map", "F": "F", "drop": "drop",
    "mass_own": "own mass", "mass_shared": "shared mass",
}  # fmt: skip
OF_BOTH = ("F",)
"""Measures that need the maps of both classes; of F the median over images is taken, of all else the mean."""
PAPER = ("Grad-CAM", "Grad-CAM++", "Score-CAM")
CAMS = ("Grad-CAM", "Grad-CAM++", "HiResCAM", "LayerCAM", "CASE", "Finer-CAM")
SIGNATURE, BLIND = "Signature Activation", ("image signature", "Sobel edges")
SEEN = (
    SIGNATURE,
    "CA-Stream's attention",
    "CA-Stream's attention, first stage",
    "Eigen-CAM",
    *BLIND,
    "centre Gaussian",
)
KEPT, EQUAL = 0.02, 0.05
"""What is still no difference: of accuracy, and of the mass on own and shared evidence."""
HERE, UNIT = place("digit_scenes", "one small residual network, several trainings"), "networks"
PAPERS = {"average_drop": "13.04 → 12.54, 13.79 → 13.99, 8.83 → 7.09", "average_gain": "17.56 → 22.67, 15.87 → 19.29, 17.97 → 23.65", "average_increase": "44.47 → 48.56, 42.08 → 44.60, 48.46 → 54.20"}  # fmt: skip
"""With average pooling → with the stream, by Grad-CAM, Grad-CAM++, Score-CAM; ResNet-50 on ImageNet, by the authors' poster."""


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per network, pooling and method: means over images whose map is usable, of F the median."""
    found = []
    for keys, group in rows.groupby(["pooling", "method", "seed"], sort=False, observed=True):
        usable = group[~group["degenerate_1"]]
        both = usable[~usable["degenerate_2"]]
        row = dict(zip(("pooling", "method", "seed"), keys, strict=True))
        row |= {"images": len(group), "degenerate": len(group) - len(usable)}
        row |= {c: both[c].median() if c in OF_BOTH else usable[c].mean() for c in MEASURES if c in group}
        found.append(row)
    return pd.DataFrame(found)


def summary_of(means: pd.DataFrame) -> pd.DataFrame:
    """Mean over networks with Student's interval, for every pooling and method."""
    found = []
    for (pooling, method), group in means.groupby(["pooling", "method"], sort=False, observed=True):
        row = {"pooling": pooling, "method": method, "networks": len(group), "images": int(group["images"].sum())}
        row |= {"degenerate": int(group["degenerate"].sum())}
        for column in MEASURES:
            one = mean_of("", group[column], unit=UNIT)
            row |= {column: one.value, f"{column}_low": one.low, f"{column}_high": one.high}
        found.append(row)
    return pd.DataFrame(found)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """Means ± half intervals, in percent."""
    text = table[["pooling", "method"]].copy()
    for column, title in MEASURES.items():
        half = (table[f"{column}_high"] - table[f"{column}_low"]) / 2
        text[f"{title}, %"] = [
            f"{100 * v:.1f}" + ("" if pd.isna(h) else f" ± {100 * h:.1f}")
            for v, h in zip(table[column], half, strict=True)
        ]
    return text


class Compared:
    """Differences between two of the means, paired by network."""

    def __init__(self, means: pd.DataFrame):
        self.by: Any = means.set_index(["pooling", "method", "seed"]).sort_index()

    def of(self, pooling: str, method: str, column: str) -> pd.Series:
        """By seed."""
        return self.by.loc[(pooling, method), column]

    def known(self, pooling: str, methods: Sequence[str]) -> list[str]:
        """Those of these methods that were asked."""
        there = {(p, m) for p, m, _ in self.by.index}
        return [m for m in methods if (pooling, m) in there]

    def change(self, poolings: tuple[str, str], method: str, column: str) -> Estimate:
        """How much larger a measure is with the second pooling than with the first."""
        before, after = (self.of(pooling, method, column) for pooling in poolings)
        return paired(method, after, before, unit=UNIT)

    def lead(self, pooling: str, methods: tuple[str, str], column: str, *, less: bool = False) -> Estimate:
        """How far the first method is ahead of the second; `less`: where the smaller number is the better one."""
        first, second = (self.of(pooling, m, column) for m in (methods if not less else methods[::-1]))
        return paired(f"{MEASURES[column]}: {methods[0]} − {methods[1]}", first, second, unit=UNIT)


def findings(means: pd.DataFrame, facts: pd.DataFrame, average: str, stream: str, last: str) -> list[Finding]:
    """All claims, in the order of the page."""
    by = Compared(means)
    return [
        accuracy_kept(facts, average, (stream, last)),
        positions(facts, (stream, last)),
        *(explained_better(by, (average, stream), column) for column in PAPERS),
        more_alike(by, (average, stream)),
        deletion(by, (average, stream)),
        shown(by, stream),
        on_ink(by, average),
        more_than_edges(by, average),
    ]


def accuracy_kept(facts: pd.DataFrame, average: str, others: Sequence[str]) -> Finding:
    """Whether the new pooling costs accuracy."""
    right = facts.pivot(index="seed", columns="pooling", values="accuracy")
    changes = [paired(p, right[p], right[average], unit=UNIT, margin=KEPT) for p in others if p in right]
    said = ", ".join(f"{p} {100 * right[p].mean():.1f}" for p in (average, *others) if p in right)
    note = (
        f"Right, mean over networks, percent: {said}. {100 * KEPT:.0f} points and less are no difference; the paper's: 74.55 → 74.70, after 90 epochs of SGD; here "
        "four epochs of Adam at one rate; in the last three the stream's loss on training scenes fell by 1 to 3%."
    )
    claim = "Attention pooling keeps the accuracy of a frozen network (CA-Stream's paper)."
    return Finding(
        claim, HERE, changes, "equivalence", measure="accuracy, less average pooling's", shown="points", note=note
    )


def positions(facts: pd.DataFrame, poolings: Sequence[str]) -> Finding:
    """How far the attention of the last map is from an average, and from a single position."""
    wide = facts.pivot(index="seed", columns="pooling", values="positions")
    values = [mean_of(p, wide[p], unit=UNIT) for p in poolings if p in wide]
    question = "Over how many of the last map's 36 positions does the attention spread?"
    note = (
        "exp(−Σ a log a): 36 is the average. Asked after a first look. As in the public code the token begins at N(1, 1), which on features that are "
        "never negative fits one position far better than all others; in the stream the projection before the last map undoes that; with "
        "the last map alone nothing but the token itself could, whose gradient most likely is next to nothing there (not measured)."
    )
    return Finding(question, HERE, values, measure="positions", note=note)


def explained_better(by: Compared, poolings: tuple[str, str], column: str) -> Finding:
    """Whether the class activation maps of the network with attention pooling score better."""
    title, falls = MEASURES[column], column == "average_drop"
    changes = [by.change(poolings, m, column) for m in by.known(poolings[0], PAPER)]
    shown = ", ".join(_change(by, poolings, m, "mask_mean") for m in by.known(poolings[0], PAPER))
    note = f"The paper's, by method: {PAPERS[column]}. Mean of the map, percent: {shown}."
    claim = (
        f"With attention pooling {title} of class activation maps {'falls' if falls else 'rises'} (CA-Stream's paper)."
    )
    side = "below" if falls else "above"
    return Finding(
        claim, HERE, changes, "universal", side, measure=f"{title}, less average pooling's", shown="points", note=note
    )


def more_alike(by: Compared, poolings: tuple[str, str]) -> Finding:
    """Whether one attention for all classes makes their maps more alike."""
    names = by.known(poolings[0], CAMS)
    note = f"Median F, percent: {', '.join(_change(by, poolings, m, 'F') for m in names)}."
    claim = "With attention pooling the maps of an image's two likeliest classes are more alike (ours, said before it was run: one attention serves all classes)."
    changes = [by.change(poolings, m, "F") for m in names]
    return Finding(claim, HERE, changes, "universal", measure="median F, less average pooling's", shown="points", note=note)  # fmt: skip


def deletion(by: Compared, poolings: tuple[str, str]) -> Finding:
    """What becomes of the drop."""
    changes = [by.change(poolings, m, "drop") for m in by.known(poolings[0], (*PAPER, *CAMS[2:]))]
    question = "What does attention pooling do to fidelity: the drop when a map's highest pixels are removed?"
    return Finding(question, HERE, changes, measure="drop, less average pooling's", shown="points")


def shown(by: Compared, stream: str) -> Finding:
    """Where the maps that know no class lie."""
    names = by.known(stream, SEEN)
    values = [mean_of(m, by.of(stream, m, "mass_own"), unit=UNIT) for m in names]
    more = ", ".join(f"{m} {percent(by.of(stream, m, 'mass_shared').mean())}" for m in names)
    question = "How much of a map that knows no class lies on the predicted class's own evidence?"
    return Finding(question, HERE, values, measure="mass on own evidence", shown="percent", note=f"On shared evidence: {more}.")  # fmt: skip


def on_ink(by: Compared, average: str) -> Finding:
    """Whether signatures are where the ink is, whatever it says."""
    names = by.known(average, (SIGNATURE, *BLIND))
    gaps = []
    for method in names:
        own, shared = (by.of(average, method, f"mass_{kind}") for kind in ("own", "shared"))
        gaps.append(paired(method, own, shared, unit=UNIT, margin=EQUAL))
    claim = "Signatures, which know no class, lie on own and shared evidence alike (theory of the image signature: on what is sparse)."
    note = f"{100 * EQUAL:.0f} points and less are no difference. Own evidence is one marker, shared evidence the body between two."
    return Finding(claim, HERE, gaps, "equivalence", measure="mass on own, less on shared evidence", shown="points", note=note)  # fmt: skip


def more_than_edges(by: Compared, average: str) -> Finding:
    """Whether Signature Activation is ahead of maps that never see the classifier."""
    asked: Mapping[str, bool] = {"mass_own": False, "drop": False, "average_drop": True}
    leads = [by.lead(average, (SIGNATURE, other), c, less=less) for c, less in asked.items() for other in BLIND]
    claim = "Signature Activation is more than edges: ahead of Sobel's and of the image's own signature."
    shown: Shown = "points"
    means = ", ".join(f"{m} {percent(by.of(average, m, 'mask_mean').mean())}" for m in (SIGNATURE, *BLIND))
    note = f"AD: how far it is below the other's. Mean of the map, which makes AD easy: {means}."
    return Finding(claim, HERE, leads, "universal", measure="ahead of maps without a classifier", shown=shown, note=note)  # fmt: skip


def _change(by: Compared, poolings: tuple[str, str], method: str, column: str) -> str:
    before, after = (100 * by.of(pooling, method, column).mean() for pooling in poolings)
    return f"{method} {before:.0f} → {after:.0f}"

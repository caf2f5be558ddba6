"""Claims, the comparisons that they stand on, and the verdicts that follow from these by a stated rule."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from case_jax._checks import require
from case_jax.stats import holm

ALPHA = 0.05
NAMED = 4
"""Comparisons that a sentence names; all of them are in the picture and in `findings.json`."""

Verdict = Literal[
    "reproduced", "in part", "undecided", "not reproduced", "contradicted", "withdrawn", "not testable offline", "answered"
]  # fmt: skip
STATED = ("undecided", "withdrawn", "not testable offline")
"""Verdicts that may be given without comparisons, with the reason; all others follow from the rule."""
Rule = Literal["universal", "existential", "equivalence", "descriptive"]
Status = Literal["holds", "open", "reversed"]
Shown = Literal["percent", "points", "number"]
"""Shares in percent, their differences in percentage points, or plain numbers."""


class Estimate(NamedTuple):
    """One comparison of a claim."""

    label: str
    value: float
    low: float = math.nan
    """Of the 95% interval; NaN where there are too few units for one."""
    high: float = math.nan
    n: int = 0
    """How many units."""
    unit: str = "images"
    """What is independent, and so what the interval speaks of: images, handwritten strokes, networks."""
    margin: float = 0.0
    """What the value is compared with; of an equivalence, how far from 0 still counts as nothing."""
    df: float | None = None
    """Degrees of freedom of Student's interval; None: a normal one."""
    p: float | None = None
    """Two-sided, of "the value is the margin", where a test gives it; None: what the interval implies."""


class Weighed(NamedTuple):
    """A comparison, and what the rule makes of it."""

    estimate: Estimate
    p: float
    p_holm: float
    status: Status


def p_of_interval(estimate: Estimate, bound: float) -> float:
    """Two-sided p of "the value is `bound`", which is below 0.05 exactly where the 95% interval does not hold it.

    `2 · P(T > q · |value − bound| / h)`, h the length of the interval's side that faces the bound, q its quantile: exact for Student's
    intervals, an approximation for others. NaN without an interval; 0 or 1 for one without length.
    """
    gap = abs(estimate.value - bound)
    half = estimate.value - estimate.low if estimate.value > bound else estimate.high - estimate.value
    if math.isnan(half):
        return math.nan
    if half <= 0:
        return 0.0 if gap else 1.0
    law = stats.norm if estimate.df is None else stats.t(estimate.df)
    return float(2 * law.sf(law.ppf(0.975) * gap / half))


def weighed(comparisons: Sequence[Estimate], rule: Rule, side: Literal["above", "below"] = "above") -> list[Weighed]:
    """What each comparison says, Holm-corrected over all of them.

    A comparison `holds` where its interval lies wholly on the claimed side of its margin and the corrected p is below 0.05, is `reversed` where
    this is so of the other side, and `open` otherwise. Of an equivalence the claimed side is between −margin and margin, by two one-sided tests of
    2.5% each, so that the test and the 95% interval agree.
    """
    p = []
    for one in comparisons:
        bounds = (-one.margin, one.margin) if rule == "equivalence" else (one.margin,)
        p.append(max(p_of_interval(one, b) for b in bounds) if one.p is None else one.p)
    found = []
    for one, raw, corrected in zip(comparisons, p, holm(p), strict=True):
        if rule == "equivalence":
            inside, outside = -one.margin < one.low and one.high < one.margin, abs(_nearest(one)) > one.margin
        else:
            sides = one.low > one.margin, one.high < one.margin
            inside, outside = sides if side == "above" else sides[::-1]
        status: Status = "open"
        if corrected < ALPHA and (inside or outside):
            status = "holds" if inside else "reversed"
        found.append(Weighed(one, float(raw), float(corrected), status))
    return found


def _nearest(one: Estimate) -> float:
    """The value of the interval that is nearest to 0."""
    return 0.0 if not (one.low > 0 or one.high < 0) else min(one.low, one.high, key=abs)


def judged(
    comparisons: Sequence[Estimate], rule: Rule = "universal", side: Literal["above", "below"] = "above"
) -> Verdict:
    """The verdict on a claim about these comparisons.

    universal, equivalence ("all are …", "none differs"): `reproduced` when all hold; `in part` when some hold and the rest are open;
        `not reproduced` when some hold and some are reversed; `contradicted` when none holds and some are reversed.
    existential ("there is one that …"): `reproduced` when one holds; `contradicted` when all are reversed.
    descriptive: `answered`.
    All else, and what has no intervals, is `undecided`.
    """
    if rule == "descriptive":
        return "answered"
    require(
        rule != "equivalence" or all(one.margin > 0 for one in comparisons), "margin", 0, "above 0 for an equivalence"
    )
    status = [one.status for one in weighed(comparisons, rule, side)]
    some, all_ = "holds" in status, bool(status) and set(status) == {"holds"}
    reversed_ = "reversed" in status
    if rule == "existential":
        return "reproduced" if some else "contradicted" if set(status) == {"reversed"} else "undecided"
    if reversed_:
        return "not reproduced" if some else "contradicted"
    return "reproduced" if all_ else "in part" if some else "undecided"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim or question, the comparisons that it stands on, and what follows."""

    claim: str
    where: str
    """The data and networks that the verdict speaks of."""
    comparisons: Sequence[Estimate] = ()
    rule: Rule = "descriptive"
    side: Literal["above", "below"] = "above"
    """Of the margin, on which the claim wants the values to lie."""
    measure: str = ""
    """What the values are, for the picture's axis."""
    shown: Shown = "number"
    note: str = ""
    """What else one must know, in a sentence or two."""
    stated: Verdict | None = None
    """A verdict that no rule gives, with the reason as the note."""

    def __post_init__(self) -> None:
        """Check that nobody states what only a rule can give."""
        require(self.stated is None or self.stated in STATED, "stated", self.stated, f"one of {', '.join(STATED)}")
        require(not self.stated or bool(self.note), "note", "nothing", "the reason of a stated verdict")

    @property
    def verdict(self) -> Verdict:
        """By the rule, or stated."""
        return self.stated or judged(self.comparisons, self.rule, self.side)

    @property
    def weighed(self) -> list[Weighed]:
        """The comparisons, tested; those of a description are not."""
        if self.rule == "descriptive":
            return [Weighed(one, math.nan, math.nan, "open") for one in self.comparisons]
        return weighed(self.comparisons, self.rule, self.side)

    @property
    def said(self) -> str:
        """The comparisons as text."""
        if self.rule == "descriptive" or self.stated:
            return listed(self.comparisons, self.shown, 2 * NAMED)
        groups = []
        says = {"holds": "within the margin", "reversed": "beyond it"} if self.rule == "equivalence" else {}
        for status in ("holds", "reversed", "open"):
            group = [one.estimate for one in self.weighed if one.status == status]
            if group:
                groups.append(
                    f"{says.get(status, status)} in {len(group)} of {len(self.comparisons)} ({summed_up(group, self.shown)})"
                )
        said = "; ".join(groups)
        return f"{said[:1].upper()}{said[1:]}"

    @property
    def words(self) -> str:
        """The answer as text: comparisons and note, of a stated verdict the note alone."""
        said = "" if self.stated or not self.comparisons else f"{self.said}."
        return " ".join(part for part in (said, self.note) if part)

    def record(self) -> dict[str, Any]:
        """All of it, as `findings.json` keeps it."""
        units = list(dict.fromkeys(f"{one.n} {one.unit}" for one in self.comparisons))
        return {
            "claim": self.claim, "where": self.where, "verdict": self.verdict, "said": self.said, "words": self.words, "rule": self.rule, "side": self.side,
            "stated": self.stated is not None, "measure": self.measure, "shown": self.shown, "note": self.note,
            "units": units[0] if len(units) == 1 else "; ".join(spans(self.comparisons)),
            "comparisons": [plain(one) for one in self.weighed],
        }  # fmt: skip


def spans(comparisons: Sequence[Estimate]) -> list[str]:
    """How many of each unit, from the smallest to the largest comparison."""
    found = []
    for unit in dict.fromkeys(one.unit for one in comparisons):
        numbers = [one.n for one in comparisons if one.unit == unit]
        low, high = min(numbers), max(numbers)
        found.append(f"{low} {unit}" if low == high else f"{low} to {high} {unit}")
    return found


def plain(one: Weighed) -> dict[str, Any]:
    """A comparison for a file: no number that JSON does not know, six digits of the others."""
    every = {**one.estimate._asdict(), "p": one.p, "p_holm": one.p_holm, "status": one.status}
    return {k: simple(v) for k, v in every.items()}


def simple(value: Any) -> Any:
    """Six digits of a number, None for what is not finite."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def summed_up(comparisons: Sequence[Estimate], shown: Shown) -> str:
    """A few comparisons by name, of many the smallest and the largest value."""
    if len(comparisons) <= NAMED:
        return listed(comparisons, shown)
    low, high = (pick(comparisons, key=lambda one: one.value)._replace(low=np.nan) for pick in (min, max))
    return f"{written(low, shown)} to {written(high, shown)}"


def listed(comparisons: Sequence[Estimate], shown: Shown, most: int = NAMED) -> str:
    """Labels with values and intervals, and how many more there are."""
    named = [f"{one.label} {written(one, shown)}" for one in comparisons[:most]]
    more = len(comparisons) - len(named)
    return ", ".join(named) + (f", and {more} more" if more else "")


def written(one: Estimate, shown: Shown) -> str:
    """A value with its interval."""
    if np.isnan(one.value):
        return "–"
    if shown == "percent":
        return percent(one.value, one.low, one.high)
    scale, form = (100, "{:+.1f}") if shown == "points" else (1, "{:.2f}")
    value, *ends = (form.format(scale * v) for v in one[1:4])
    return value if np.isnan(one.low) else f"{value} [{', '.join(ends)}]"


def percent(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """A share in percent, with its interval where there is one."""
    if np.isnan(value):
        return "–"
    return f"{100 * value:.0f}%" + ("" if np.isnan(low) or low == high else f" [{100 * low:.0f}, {100 * high:.0f}]")


def place(data: str, networks: str) -> str:
    """Where a verdict holds: `on digit scenes, small networks`."""
    return f"on {'digit scenes' if data.startswith('digit_scenes') else data}, {networks}"

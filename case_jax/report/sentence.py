"""The answer of a run in one sentence, generated from its numbers."""

from collections.abc import Sequence

import math

import pandas as pd

from case_jax.report.loading import Method
from case_jax.report.words import counted, listed, p_value, percent


def answer(
    table: pd.DataFrame, methods: Sequence[Method], *, theta: float, percent_of_pixels: float, removed: float
) -> str:
    """Which methods are class-sensitive, which is most faithful and which lies on its class's evidence.

    Controls are yardsticks and never win; a method without usable maps gets no verdict; what the run did not measure is
    not claimed.

    Args:
        table: `Summary.table`.
        methods: those of the run.
        theta: the threshold that the verdict is given for.
        percent_of_pixels: how many top pixels the agreement compares.
        removed: percentage of pixels removed in the fidelity test.
    """
    judged = [method for method in methods if not method.control]
    controls = [method for method in methods if method.control]
    images = counted(int(table["images"].max()), "image")
    if not judged:
        return f"This run holds only {counted(len(controls), 'control')} on {images}, and so no method to judge."
    beside = f" (and {counted(len(controls), 'control')})" if controls else ""
    parts = [
        *_sensitivity(table, judged, theta, percent_of_pixels),
        *_fidelity(table, judged, controls, removed),
        *_evidence(table, judged),
    ]
    return f"Of {counted(len(judged), 'method')}{beside} on {images}, {'; '.join(parts) or 'none was scored'}."


def _known(table: pd.DataFrame, methods: Sequence[Method], column: str) -> list[Method]:
    return [m for m in methods if column in table and pd.notna(table.loc[m.name, column])]


def _sensitivity(table: pd.DataFrame, judged: Sequence[Method], theta: float, k: float) -> list[str]:
    column = f"p_holm_{theta:g}"
    if column not in table:
        return []
    known = _known(table, judged, column)
    unusable = [m.title for m in judged if m not in known]
    yes = [m for m in known if table.loc[m.name, f"sensitive_{theta:g}"]]
    no = [m for m in known if m not in yes]
    parts = []
    if yes:
        share = "all" if len(yes) == len(judged) > 1 else str(len(yes))
        names = listed([m.title for m in yes])
        parts.append(f"{share} {'is' if len(yes) == 1 else 'are'} class-sensitive at θ = {theta:g} ({names})")
    elif known:
        parts.append(f"none is shown to be class-sensitive at θ = {theta:g}")
    if no:
        parts.append(_insensitive(table, no, theta, k))
    if unusable:
        parts.append(f"{listed(unusable)} left no usable pair of maps to judge")
    return parts


def _insensitive(table: pd.DataFrame, methods: Sequence[Method], theta: float, k: float) -> str:
    def median(m: Method) -> float:
        return float(table["F_median"][m.name])

    refuted, open_ = ([m for m in methods if (median(m) >= theta) == side] for side in (True, False))
    overlap = f"top {k:g}% pixels for the two likeliest classes overlap by"
    parts = []
    if refuted:
        start = f"{listed([m.title for m in refuted])} {'is' if len(refuted) == 1 else 'are'} not: "
        whose = "its" if len(refuted) == 1 else "their"
        shares = listed([percent(median(m), digits=0) for m in refuted])
        parts.append(f"{start}{whose} {overlap} {shares} (median)")
    if open_:
        each = [f"{m.title} ({percent(median(m), digits=0)}, {_p(table, m, theta)})" for m in open_]
        parts.append(f"for {listed(each)} the median overlap is lower, but the test does not reject θ")
    return "; ".join(parts)


def _p(table: pd.DataFrame, method: Method, theta: float) -> str:
    return p_value(float(table[f"p_holm_{theta:g}"][method.name]))


def _fidelity(table: pd.DataFrame, judged: Sequence[Method], controls: Sequence[Method], removed: float) -> list[str]:
    if "drop_mean" not in table:
        return []
    known = _known(table, judged, "drop_mean")
    if not known:
        return ["fidelity could not be measured on any image"]
    drop = table["drop_mean"].astype(float)
    best = max(known, key=lambda m: drop[m.name])
    value = f"{percent(drop[best.name])} mean confidence drop at {removed:g}% removed"
    yardsticks = _known(table, controls, "drop_mean")
    top_control = max(yardsticks, key=lambda m: drop[m.name], default=None)
    if top_control and drop[top_control.name] >= drop[best.name]:
        beaten = f"{top_control.title} reaches {percent(drop[top_control.name])}"
        return [f"no method is more faithful than the controls ({best.title} {value}, the control {beaten})"]
    near = [m.title for m in known if m is not best and table["drop_high"][m.name] >= table["drop_low"][best.name]]
    against = f", against {percent(drop[top_control.name])} for the control {top_control.title}" if top_control else ""
    level = f", its interval overlapping with {listed(near)}" if near else ""
    lead = "most faithful is" if len(known) > 1 else "faithfulness of"
    return [f"{lead} {best.title} ({value}{against}{level})"]


def _evidence(table: pd.DataFrame, judged: Sequence[Method]) -> list[str]:
    known = _known(table, judged, "own_mean")
    if not known:
        return []
    own = table["own_mean"].astype(float)
    best = max(known, key=lambda m: own[m.name])
    share = f"{percent(own[best.name], digits=0)} of its mass"
    mass = f"most, {share}," if len(known) > 1 else share
    return [f"{best.title} puts {mass} on its own class's evidence"]

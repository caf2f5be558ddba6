"""The answer of an evaluation in at most three sentences, generated from its numbers."""

import math
from collections.abc import Mapping, Sequence

from case_jax.report.formatting import counted, listed, p_value, percent, plain
from case_jax.report.loading import Method, Numbers
from case_jax.report.overview import PAIR, has_pair
from case_jax.stats import ALPHA, UNLABELLED, WRONG

FEW = 20
"""Images below which a headline names no winner."""


def answer(
    numbers: Numbers,
    methods: Sequence[Method],
    counts: Mapping[str, int],
    *,
    thetas: Sequence[float],
    percent_of_pixels: float,
) -> list[str]:
    """Which methods hold their own class, are class-sensitive, faithful, and on their class's evidence: at most three sentences.

    Controls are yardsticks and never win; a method without usable maps gets no verdict; what the run did not measure is
    not claimed, and nobody wins on fewer than `FEW` images.

    Args:
        numbers: statistics by method.
        methods: those of the run.
        counts: of images, see `stats.summarise`.
        thetas: the thresholds that verdicts are given for, the one that is spelt out first.
        percent_of_pixels: how many top pixels the agreement compares.
    """
    judged = [method for method in methods if not method.control]
    controls = [method for method in methods if method.control]
    number = max(int(row["images"]) for row in numbers.values())
    images = counted(number, "image")
    if not judged:
        return [f"This run holds only {counted(len(controls), 'control')} on {images}, and so no method to judge."]
    beside = f" (and {counted(len(controls), 'control')})" if controls else ""
    start = f"Of {len(judged)} methods{beside}" if len(judged) > 1 else f"{judged[0].title}{beside}"
    sensitive = "; ".join(_sensitivity(numbers, judged, thetas, percent_of_pixels))
    wrong = counts.get(WRONG, 0)
    labelled = number - counts.get(UNLABELLED, 0)
    accuracy = (
        f" (the network is right on {percent(1 - wrong / labelled, digits=0)} of them)" if labelled and wrong else ""
    )
    opening = f"{start} on {images}{accuracy}{':' if len(judged) == 1 else ','}"
    faithful, lies = _fidelity(numbers, judged, controls, number), _evidence(numbers, judged, controls)
    if has_pair(numbers):
        first = f"{opening} {_pair(numbers, judged, controls)}."
        second = f"{sensitive[:1].upper()}{sensitive[1:]}." if sensitive else ""
        found = [first, second, "; ".join(said.removesuffix(".") for said in [*faithful, *lies]) + "."]
    else:
        found = [f"{opening} {sensitive}." if sensitive else "", *faithful, *lies]
    kept = [sentence for sentence in found if sentence.strip(".")]
    return kept or [f"{start} on {images}: nothing was scored."]


def _known(numbers: Numbers, methods: Sequence[Method], column: str) -> list[Method]:
    return [m for m in methods if not math.isnan(numbers[m.name].get(column, math.nan))]


def _pair(numbers: Numbers, judged: Sequence[Method], controls: Sequence[Method]) -> str:
    """The method whose maps are most specific to their own class, with what the network needs of them; a control may win."""
    known = _known(numbers, judged, PAIR[0])
    if not known:
        return "no map's specificity could be measured"
    specificity = {m.name: numbers[m.name][PAIR[0]] for m in [*known, *_known(numbers, controls, PAIR[0])]}
    best = max(known, key=lambda m: specificity[m.name])
    row = numbers[best.name]
    pair = f"specificity {_estimate(row, 'specificity')} and necessity {_estimate(row, 'necessity')}"
    ahead = [m.title for m in controls if specificity.get(m.name, -math.inf) >= specificity[best.name]]
    if ahead:
        return f"none is more specific to its own class than the control {listed(ahead)} ({best.title}: {pair})"
    if not row["specificity_low"] > 0:
        return f"none is shown to be specific to its own class ({best.title}: {pair})"
    if len(known) == 1:
        return f"{best.title} is specific to its own class: {pair}" if len(judged) > 1 else pair
    near = [m.title for m in known if m is not best and numbers[m.name]["specificity_high"] >= row["specificity_low"]]
    lead = f", not clearly ahead of {listed(near)}" if near else ""
    return f"most specific to its own class is {best.title}{lead}: {pair}"


def _estimate(row: Mapping[str, float], name: str) -> str:
    value, low, high = (plain(row[f"{name}_{part}"]) for part in ("mean", "low", "high"))
    return f"{value} [{low}, {high}]"


def _sensitivity(numbers: Numbers, judged: Sequence[Method], thetas: Sequence[float], k: float) -> list[str]:
    """In parts: the verdicts at the first threshold with their reasons, and at the others."""
    parts = _at_first(numbers, judged, thetas[0], k)
    known = _known(numbers, judged, f"p_holm_{thetas[0]:g}")
    return [*parts, *(_at_another(numbers, known, thetas[0], other) for other in thetas[1:] if parts and known)]


def _at_another(numbers: Numbers, known: Sequence[Method], first: float, theta: float) -> str:
    yes = [m for m in known if numbers[m.name][f"sensitive_{theta:g}"]]
    same = yes == [m for m in known if numbers[m.name][f"sensitive_{first:g}"]]
    if same:
        return f"at θ = {theta:g} the {'verdict is' if len(known) == 1 else 'verdicts are'} the same"
    if len(known) == 1:
        return f"at θ = {theta:g} it is {'class-sensitive' if yes else 'not shown to be'}"
    share = "all" if len(yes) == len(known) else str(len(yes) or "none")
    return f"at θ = {theta:g} {share} {'is' if len(yes) < 2 else 'are'}{f' ({_titles(yes)})' if yes else ''}"


def _at_first(numbers: Numbers, judged: Sequence[Method], theta: float, k: float) -> list[str]:
    column = f"p_holm_{theta:g}"
    if all(column not in row for row in numbers.values()):
        return []
    known = _known(numbers, judged, column)
    unusable = [m.title for m in judged if m not in known]
    yes = [m for m in known if numbers[m.name][f"sensitive_{theta:g}"]]
    no = [m for m in known if m not in yes]
    level, parts = f"class-sensitive at θ = {theta:g}", []
    if len(judged) == 1 and known:
        verdict = (
            level
            if yes
            else f"not {level}"
            if numbers[known[0].name]["F_median"] >= theta
            else f"not shown to be {level}"
        )
        return [f"{verdict}, the {_overlap(k)} {_medians(numbers, known)} (median)"]
    if yes:
        share = "all" if len(yes) == len(judged) else str(len(yes))
        parts.append(f"{share} {_be(yes)} {level} ({_titles(yes)})")
    elif known:
        parts.append(f"none is shown to be {level}")
    refuted = [m for m in no if numbers[m.name]["F_median"] >= theta]
    unproven = [m for m in no if m not in refuted]
    if refuted:
        whose = "its" if len(refuted) == 1 else "their"
        parts.append(
            f"{_titles(refuted)} {_be(refuted)} not: {whose} {_overlap(k)} {_medians(numbers, refuted)} (median)"
        )
    if unproven:
        each = [f"{m.title} ({_medians(numbers, [m])}, {_why(numbers[m.name], theta)})" for m in unproven]
        parts.append(f"for {listed(each)} the median overlap lies below that threshold, but not significantly")
    if unusable:
        parts.append(f"{listed(unusable)} left no usable pair of maps to judge")
    return parts


def _why(row: Mapping[str, float], theta: float) -> str:
    p = row[f"p_holm_{theta:g}"]
    return p_value(p) if p >= ALPHA else f"{p_value(p)}, but the interval reaches {percent(row['F_high'], digits=0)}"


def _titles(methods: Sequence[Method]) -> str:
    return listed([m.title for m in methods])


def _be(methods: Sequence[Method]) -> str:
    return "is" if len(methods) == 1 else "are"


def _overlap(k: float) -> str:
    return f"top {k:g}% pixels for the two likeliest classes overlap by"


def _medians(numbers: Numbers, methods: Sequence[Method]) -> str:
    shares = [numbers[m.name]["F_median"] for m in methods]
    if len(shares) > 3:
        return f"{percent(min(shares), digits=0)} to {percent(max(shares), digits=0)}"
    return listed([percent(share, digits=0) for share in shares])


def _fidelity(numbers: Numbers, judged: Sequence[Method], controls: Sequence[Method], images: int) -> list[str]:
    if all("sweep_mean" not in row for row in numbers.values()):
        return []
    known = _known(numbers, judged, "sweep_mean")
    yardsticks = _known(numbers, controls, "sweep_mean")
    if not known:
        return ["Fidelity could not be measured on any image."]
    used = max(int(numbers[m.name]["n_drop"]) for m in known)
    if used < FEW:
        return [
            f"{used} of {counted(images, 'image')} {'is' if used == 1 else 'are'} classified correctly: too few to say which method is most faithful."
        ]
    drop = {m.name: numbers[m.name]["sweep_mean"] for m in [*known, *yardsticks]}
    best = max(known, key=lambda m: drop[m.name])
    control = max(yardsticks, key=lambda m: drop[m.name], default=None)
    value = f"the class loses {percent(drop[best.name], digits=0)} of its probability, averaged over all percentages removed"
    against = f", and {percent(drop[control.name], digits=0)} for the control {control.title}" if control else ""
    if control and drop[control.name] >= drop[best.name]:
        return [f"No method is more faithful than the controls ({best.title}: {value}{against})."]
    if len(known) == 1:
        return [f"For {best.title} {value}{against}."]
    others = [m for m in [*known, *yardsticks] if m is not best]
    near = [m.title for m in others if numbers[m.name]["sweep_high"] >= numbers[best.name]["sweep_low"]]
    lead = f", not clearly ahead of {listed(near)}" if near else ""
    return [f"Most faithful is {best.title}{lead}: {value}{against}."]


def _evidence(numbers: Numbers, judged: Sequence[Method], controls: Sequence[Method]) -> list[str]:
    known = _known(numbers, judged, "own_mean")
    if not known:
        return []
    yardsticks = _known(numbers, controls, "own_mean")
    own = {m.name: numbers[m.name]["own_mean"] for m in [*known, *yardsticks]}
    best = max(known, key=lambda m: own[m.name])
    if any(own[m.name] >= own[best.name] for m in yardsticks):
        return ["No method puts more of its mass on its own class's evidence than the controls do."]
    share = f"{percent(own[best.name], digits=0)} of its mass"
    mass = f"most, {share}," if len(known) > 1 else share
    return [f"{best.title} puts {mass} on its own class's evidence."]

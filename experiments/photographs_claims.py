"""What rows of photographs say about the claims that digit scenes were asked about."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from case_jax import METHODS
from case_jax.stats import RANK_DECIMALS, THETAS, summarise
from experiments import sanity, sensitivity, ties
from experiments.claim import Estimate, Finding, judged, percent, weighed
from experiments.estimates import kendall, mean_of, orders
from experiments.families import SHIPPED
from experiments.fidelity import MARGIN, PROTOCOLS
from experiments.kept import parts
from experiments.photographs_estimates import (
    NO_METHODS,
    UNIT,
    YARDSTICKS,
    as_photographs,
    by_photograph,
    dropped,
    last_maps,
    less,
    over_photographs,
    proper_of,
    shares_of,
    short,
    wide,
)  # fmt: skip
from experiments.photographs_rows import BESIDE, CAMS, OPERATORS, SIZES, titled
from experiments.specificity import GRAD_CAM, PERCENTS, RANDOM, SOFTMAX, contrasts

CASE, FINER = "CASE, k = 1", "Finer-CAM, k = 5"
NAMES = {"case": "CASE, k = 5", "finer_cam": "Finer-CAM, k = 5"}
"""Of methods that the sanity checks ask with five contrast classes."""


def pair_claims(rows: pd.DataFrame, here: str) -> list[Finding]:
    """Specificity and necessity."""
    rows = last_maps(rows)
    mean, logits = wide(rows, "specificity"), "logits"
    difference = f"specificity, less Grad-CAM's, in {logits}, mean over networks"
    each = {short(n): wide(group, "specificity") for (n,), group in parts(rows, "network")}
    shares = {k: wide(rows, f"necessity_{k}") for k in PERCENTS}
    asked = list(itertools.product((CASE, FINER, SOFTMAX), PERCENTS))

    def against(other: str) -> list[Estimate]:
        return [less(f"{name}, {k}% removed", shares[k], name, other) for name, k in asked]

    controls = [name for name in YARDSTICKS if name in mean]
    F = wide(rows, "F").median()
    taus = agreements(rows)
    return [
        Finding(
            "Maps of contrastive methods hold their own class more than Grad-CAM's do.", here,
            [less(name, mean, name, GRAD_CAM) for name in contrasts()], "universal", measure=difference,
        ),
        Finding(
            "CASE's with one class do so on every architecture.", here,
            [less(f"{CASE}: {network}", table, CASE, GRAD_CAM) for network, table in each.items()], "universal",
            measure=f"specificity, less Grad-CAM's, in {logits}", note=f"One architecture; networks: {len(each)}.",
        ),
        Finding(
            "Contrast costs necessity, whatever the share of pixels removed.", here, against(GRAD_CAM), "universal", "below",
            measure=f"necessity, less Grad-CAM's, in {logits}", note="Three contrasts at four shares.",
        ),
        Finding(
            "What a contrastive map marks is still more necessary than what a random map marks.", here, against(RANDOM), "universal",
            measure=f"necessity, less the random map's, in {logits}",
        ),
        Finding(
            "What have the controls of contrast?", here, [by_photograph(name, mean[name]) for name in controls], measure=f"specificity, in {logits}",
            note="Their median F all the same: " + ", ".join(f"{name} {percent(F[name])}" for name in controls) + ".",
        ),
        Finding(
            "Do F, the drop, own mass and necessity rank methods as specificity does?", here, taus,
            measure="Kendall's τ with the order by specificity", note="Controls left out; mean over networks. Own mass is not known of photographs.",
        ),
    ]  # fmt: skip


def agreements(rows: pd.DataFrame) -> list[Estimate]:
    """Kendall's τ of the order of methods by specificity with those by necessity and F, over networks."""
    found: dict[str, list[float]] = {"necessity": [], "1 − F": []}
    for _, group in parts(rows[~rows["method"].isin(YARDSTICKS)], "network"):
        mean = {column: wide(group, column).mean() for column in ("specificity", "necessity", "F")}
        found["necessity"].append(kendall(mean["specificity"], mean["necessity"]))
        found["1 − F"].append(kendall(mean["specificity"], -mean["F"]))
    return [mean_of(name, taus, unit="networks") for name, taus in found.items()]


def medians_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Median F of every method with its interval and tests by photograph, by network and layer."""
    found = []
    for (network, layer), group in parts(rows, "network", "layer"):
        table = summarise(as_photographs(group), controls=NO_METHODS).table.reset_index()
        where = f"{short(network)}, {'last map' if layer == 'relu' else 'raw convolution'}"
        found.append(table.assign(network=network, layer=layer, where=where))
    return pd.concat(found, ignore_index=True)


def insensitive(table: pd.DataFrame) -> list[Estimate]:
    """At both θ, the share of class activation maps, over networks and layers, whose median F is not below.

    The interval is what the intervals of the medians leave open: from the share shown to be above to all but those shown to be below.
    """
    plain = table[table["method"].isin(titled(*CAMS)) & (table["degenerate"] < table["images"] / 2)]
    return [
        Estimate(
            f"not sensitive at {theta:g}",
            float((plain["F_median"] >= theta).mean()),
            float((plain["F_low"] > theta).mean()),
            1 - float(plain[f"sensitive_{theta:g}"].mean()),
            len(plain),
            "maps",
            sensitivity.MOST,
        )
        for theta in THETAS
    ]


def sensitivity_claims(table: pd.DataFrame, here: str) -> list[Finding]:
    """Class sensitivity, from medians by photograph."""
    low, high = THETAS

    def of(name: str, theta: float) -> list[Estimate]:
        found = sensitivity.medians(table, name, theta, clustered=True)
        return [one._replace(unit=UNIT) for one in found]

    controls = {name: of(name, low) for name in (RANDOM, METHODS["eigen_grad_cam"].title, METHODS["sobel"].title)}
    passes = {n: sum(o.status == "holds" for o in weighed(e, "universal", "below")) for n, e in controls.items()}
    pairs, lenient = len(controls[RANDOM]), of(CASE, high)
    at = sum(one.status == "holds" for one in weighed(lenient, "universal", "below"))
    return [
        Finding(
            "Most class activation maps are not class-sensitive, at 0.5 and at 0.7 (CASE paper, RQ1).", here, insensitive(table), "universal",
            measure="share of maps whose median F is not below θ", shown="percent",
            note="Two thirds would be most. The intervals are what ten photographs leave open: a map that is not shown to be sensitive is not thereby insensitive.",
        ),
        Finding(
            "CASE is class-sensitive at 0.5 on every network (CASE paper, RQ1; k = 1 as in its runs).", here, of(CASE, low), "universal", "below",
            measure="median F of CASE with one class", shown="percent", note=f"At 0.7: {judged(lenient, 'universal', 'below')}, holds in {at} of {len(lenient)}.",
        ),
        Finding(
            "Does passing the test at 0.5 say enough?", here,
            [mean_of(name, [o.value for o in e], unit="pairs of network and layer") for name, e in controls.items()],
            measure="median F, mean over networks and layers", shown="percent",
            note=f"Pass, of {pairs} pairs of network and layer: " + ", ".join(f"{n} {number}" for n, number in passes.items()) + ".",
        ),
    ]  # fmt: skip


def likeness_claims(rows: pd.DataFrame, here: str) -> list[Finding]:
    """Why a contrast of weights does what it does."""
    words = {"cosine": "cosine of their weights", "correlation": "correlation of their maps before rectification"}
    found = []
    for column, (network, layer) in itertools.product(
        words, dict.fromkeys(zip(rows["network"], rows["layer"], strict=True))
    ):
        values = rows.loc[(rows["network"] == network) & (rows["layer"] == layer), column]
        scenes = network == SHIPPED
        unit = "scenes" if scenes else UNIT
        found.append(
            mean_of(f"{words[column]}: {'digit scenes' if scenes else 'photographs'}, {layer}", values, unit=unit)
        )
    return [
        Finding(
            "How alike are the two likeliest classes before any contrast?", f"{here}, and digit scenes, {SHIPPED}", found, measure="cosine or correlation",
            note="CASE makes the weights orthogonal, and so takes away what the weights share; Finer-CAM takes the rival's map away. Scenes are taken as independent.",
        )
    ]  # fmt: skip


def no_worse(rows: pd.DataFrame, share: float, label: str = "") -> list[Estimate]:
    """CASE less every other class activation map, by network, maps that are one counted once."""
    found = []
    for (network,), group in parts(rows, "network"):
        table = dropped(group, share)
        cams = [name for name in titled(*CAMS) if name in table]
        same = table[cams].round(RANK_DECIMALS).T.duplicated()
        for name in [n for n in cams if not same[n]]:
            gain = table[CASE] - table[name]
            found.append(by_photograph(f"{label}{short(network)}, {name}", gain, margin=-MARGIN))
    return found


def spread_of(rows: pd.DataFrame, share: int, here: str) -> Finding:
    """How far the best method is from a random map, by network."""
    found, random = [], []
    for (network,), group in parts(rows, "network"):
        table = dropped(group, share)
        best = str(table[proper_of(table)].mean().idxmax())
        found.append(less(f"{short(network)}: {best}", table, best, RANDOM))
        random.append(float(table[RANDOM].mean()))
    return Finding(
        f"Does removing {share}% of the pixels tell methods from a random map?", here, found,
        measure="drop of the best method less that of a random map", shown="points",
        note=f"The random map's drop is {percent(min(random))} to {percent(max(random))}. The best method is chosen on the same photographs.",
    )  # fmt: skip


def fidelity_claims(rows: pd.DataFrame, here: str, first: str) -> list[Finding]:
    """Fidelity, its shares and fills; these on the first network alone."""
    whole = rows[rows["network"] == rows["network"].iloc[0]]
    usual = dropped(whole, 50)
    names = proper_of(usual)

    def order(share: float, protocol: str = "mean") -> np.ndarray:
        return dropped(whole, share, protocol)[names].mean().round(RANK_DECIMALS).to_numpy(float)

    moved = {f"fill {p}": order(50, p) for p in PROTOCOLS if p not in ("mean", "transposed")}
    moved |= {f"{share}% removed": order(share) for share in (5, 20, 80)}
    tau = "Kendall's τ with mean fill at 50%"
    words = "drop of CASE (k = 1) less the other map's"
    margin = f"{words}; {MARGIN:.0%} worse counts as no worse"
    return [
        Finding(
            "CASE is at least as faithful as other class activation maps at 50% removed (CASE paper, RQ2).", here, no_worse(rows, 50), "universal",
            measure=margin, shown="points", note="Of the predicted class, right or wrong.",
        ),
        Finding(
            "CASE is at least as faithful as other class activation maps at 5% and 20% removed.", here,
            [one for share in (5, 20) for one in no_worse(rows, share, f"{share}%: ")], "universal", measure=margin, shown="points",
        ),
        spread_of(rows, 50, here),
        spread_of(rows, 5, here),
        Finding(
            "How much does the public code's transposed region move the ranking of methods?", first, [orders("Lite0", order(50), order(50, "transposed"))],
            measure="Kendall's τ with the right region's ranking, 50% removed", note="Intervals speak of other methods (Mallows' law).",
        ),
        Finding(
            "How much do the fill and the share of pixels move it?", first, [orders(name, order(50), values) for name, values in moved.items()], measure=tau,
            note="Intervals speak of other methods (Mallows' law).",
        ),
    ]  # fmt: skip


def tie_claims(table: pd.DataFrame, here: str) -> list[Finding]:
    """What the rule for ties decides, from `ties.verdicts`."""
    means = table.pivot(index=["percent", "method"], columns="rule", values="mean")
    zeros = table.groupby("percent")["zeros"].mean()
    gap = (means["first"] - means["random"]).abs().groupby("percent")
    return [
        Finding("Does the tie rule change verdicts?", here, ties.changed(table), measure="share of verdicts that another rule for ties changes", shown="percent"),
        Finding(
            "How far does the tie rule move the mean F?", here,
            [Estimate(f"top {share}%", float(value), n=1, unit="networks") for share, value in gap.mean().items()],
            measure="mean F by the library's rule and with ties at random, difference", shown="points",
            note="Zeros in the top of the pairs of maps: " + ", ".join(f"top {k}% {percent(v)}" for k, v in zeros.items())
            + f"; the most that a mean moves is {percent(gap.max().max())}.",
        ),
    ]  # fmt: skip


def pointing_claims(cells: pd.DataFrame, here: str) -> list[Finding]:
    """Contrasts, and whether maps lie in the cell of their own class."""
    table = shares_of(cells)
    measure = "share of the map in its own cell"

    def gain(name: str, other: str, label: str | None = None) -> Estimate:
        return over_photographs(label or name, table[name] - table[other], cells)

    named = [f"{METHODS[o].title}, k = {k}" for o in OPERATORS for k in SIZES]
    beside = [name for name in map(str, table) if name.endswith(BESIDE)]
    sizes = [gain(name, name.rpartition(" ")[0] + " 5") for name in named if not name.endswith("= 5")]
    seen = cells[cells["method"] == GRAD_CAM]
    plain = [name for name in titled(*CAMS, "softmax_contrast", "random") if name in table]
    return [
        Finding(
            "Which contrast should a user take?", here, [gain(name, GRAD_CAM) for name in (*named, SOFTMAX, *beside)],
            measure=f"{measure}, less Grad-CAM's", shown="points", note="Chosen and reported on the same mosaics.",
        ),
        Finding("Does its size matter?", here, sizes, measure=f"{measure}, less that with k = 5", shown="points"),
        Finding(
            "Do maps lie in the cell of their own class (grid pointing game)?", here,
            [over_photographs(name, table[name], cells) for name in (*plain, *beside)], measure=measure, shown="percent",
            note=f"A quarter by chance. The class of a cell is among the five likeliest of its mosaic in {percent(float((seen['place'] < 5).mean()))}.",
        ),
    ]  # fmt: skip


def tests_of(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The numbers of every method that most tests know, mean over networks; signs such that large is good."""
    columns: dict[str, Any] = {}
    if "maps" in rows:
        columns["mean F"] = -wide(last_maps(rows["maps"]), "F").mean()
    columns |= {name: wide(last_maps(rows["pairs"]), name).mean() for name in ("specificity", "necessity")}
    if "fidelity" in rows:
        columns |= {f"drop at {k}%": dropped(rows["fidelity"], k).mean() for k in (5, 20, 50)}
    if "cells" in rows:
        words = {"share": "share in own cell", "points": "peak in own cell"}
        columns |= {title: shares_of(rows["cells"], name).mean() for name, title in words.items()}
    if "sanity" in rows:
        cascade = rows["sanity"][rows["sanity"]["kind"] == "cascading"]
        found = cascade.groupby("method", observed=True)["spearman_abs"].mean()
        columns["sanity"] = -found.rename(lambda name: NAMES.get(str(name), METHODS[str(name)].title))
    table = pd.DataFrame(columns)
    known = table.notna().sum(axis=1) > len(columns) / 2
    return table[known & ~table.index.isin(NO_METHODS)]


def crossover_claims(table: pd.DataFrame, here: str) -> list[Finding]:
    """Which tests rank methods alike."""
    first = table.columns[0]
    found = [
        orders(str(name), table[first].round(RANK_DECIMALS), table[name].round(RANK_DECIMALS)) for name in table.columns[1:]
    ]  # fmt: skip
    return [
        Finding(
            "Do the tests agree with class sensitivity about which methods are good?", here, found,
            measure="Kendall's τ of the methods' order with that by mean F, better first", note="Controls left out; intervals speak of other methods (Mallows' law).",
        )
    ]  # fmt: skip


def sanity_claims(rows: pd.DataFrame, here: str) -> Sequence[Finding]:
    """What depends on what was learnt."""
    plain = rows.astype({"method": str, "kind": str, "layer": str})
    return sanity.findings(sanity.summary_of(plain), plain, None, here)

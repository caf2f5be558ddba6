"""Perturbation fidelity (RQ2 of the CASE paper), and how much its protocol decides.

Question   Does the predicted class lose its probability when a map's top pixels go? Do the share of pixels, the fill, the transposed region of the
           public code, or its pairing of different images move the ranking of methods?
Command    python -m experiments.fidelity [--quick] [--again] [--data tfds:imagenet2012:validation]
Cost       about 8 minutes on 2 CPU cores, without the training of the small networks
Expected   the paper's: CASE at least as faithful as the class activation maps; the transposed region brings methods together
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array

from case_jax import METHODS
from case_jax._checks import require
from case_jax.imageops import Fill
from case_jax.methods import MapFunction
from case_jax.metrics import METRICS, PERCENTS, Metric, MetricInputs
from case_jax.metrics.fidelity import Region, fidelity_columns
from case_jax.stats import RANK_DECIMALS, correct_rows, drops, estimates_of, paired_tests
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import kendall, mean_of, of_images, orders, widened
from experiments.kept import Answer, Numbers, Table, carry_out, compact, from_shell, joined, parts
from experiments.networks import Where, subjects
from experiments.pictures import heat
from experiments.sensitivity import CAMS, CONTROLS, methods

PROTOCOLS: dict[str, dict[str, Any]] = {
    "mean": {"fill": "mean"},
    "blur": {"fill": "blur"},
    "noise": {"fill": "noise"},
    "zero-pixel": {"fill": "zero-pixel"},
    "transposed": {"fill": "mean", "region": "reference-transposed"},
}
PAPER, FEW = 50, (5, 20, 50, 80)
MARGIN = 0.02
"""Of the mean drop: what counts as no worse."""
CASE = "CASE, k = 1"
COLUMNS = ("image_id", "method", "network", "label", "top1", "degenerate_1", "degenerate_2", "p1")


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/fidelity")


def protocol_columns(
    inputs: MetricInputs,
    *,
    protocol: str = "mean",
    fill: Fill = "mean",
    region: Region = "top",
    percents: tuple[float, ...] = FEW,
) -> dict[str, Array]:
    """The fidelity test's columns under another name."""
    found = fidelity_columns(inputs, percents=percents, fill=fill, region=region)
    return {f"{protocol}:{name}": value for name, value in found.items()}


def of_protocol(rows: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The rows with a protocol's columns under the usual names."""
    if protocol == "mean":
        return rows
    usual = [c for c in rows if str(c).startswith("p_removed_")]
    return rows.drop(columns=usual).rename(columns=lambda c: c.removeprefix(f"{protocol}:"))


def tested() -> dict[str, MapFunction]:
    """Methods of the test."""
    every = methods()
    wanted = [METHODS[m].title for m in CAMS] + [
        CASE,
        "CASE, k = 5",
        "CASE-span, k = 5",
        "Finer-CAM, k = 5",
        "softmax-contrast",
    ]
    return {name: every[name] for name in wanted + [METHODS[c].title for c in CONTROLS]}


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean drop with its interval for each method, protocol and share of pixels, over correctly classified images with usable maps."""
    usable = rows[correct_rows(rows)]
    found, among = [], estimates_of(rows, resamples=1000)
    for (method, group), (protocol, _) in itertools.product(
        usable.groupby("method", sort=False, observed=True), PROTOCOLS.items()
    ):
        for share in PERCENTS if protocol == "mean" else FEW:
            known = drops(of_protocol(group, protocol), share).dropna()
            values = known.to_numpy()
            value = among.interval(group.loc[known.index], values)
            found.append(
                [method, protocol, share, len(values), *value, np.std(values, ddof=1) if len(values) > 1 else np.nan]
            )
    return pd.DataFrame(found, columns=["method", "protocol", "removed", "n", "drop", "low", "high", "sd"])


def against_case(rows: pd.DataFrame, *, mispaired: bool = False) -> pd.DataFrame:
    """Paired t-tests of every method against CASE at 50%; `mispaired` compares other images, as the public code does."""
    if mispaired:
        rows = rows.copy()
        case = correct_rows(rows) & (rows["method"] == CASE)
        rows.loc[case, "image_id"] = np.roll(rows.loc[case, "image_id"], case.sum() // 2)
    found = paired_tests(rows, CASE)
    return pd.DataFrame(
        {
            "method": found["method"],
            "n": found["n"],
            "case_minus_method": -found["mean_difference"],
            "low": -found["high"],
            "high": -found["low"],
            "p": found["p_t"],
            "p_holm": found["p_t_holm"],
        }
    )


def order_of(table: pd.DataFrame, protocol: str, share: float, names: list[str]) -> np.ndarray:
    """Mean drops of the methods, in one order; NaN for those that have a usable map of less than half of the images."""
    chosen = table[(table["protocol"] == protocol) & (table["removed"] == share)].set_index("method")
    enough = chosen["n"] >= chosen["n"].max() / 2
    return chosen["drop"].where(enough).round(RANK_DECIMALS).reindex(names).to_numpy(float)


def rankings(table: pd.DataFrame, names: list[str]) -> dict[str, float]:
    """Kendall's τ of each protocol's order of methods, controls left out, with that of the paper's intent: mean fill, right region, 50%."""
    reference = order_of(table, "mean", PAPER, names)
    others = {f"{p}, 50%": order_of(table, p, PAPER, names) for p in list(PROTOCOLS)[1:]}
    others |= {f"mean, {share}%": order_of(table, "mean", share, names) for share in (5, 20, 80)}
    return {name: kendall(reference, values) for name, values in others.items()}


def measured(config: Config) -> Numbers:
    """A row per image, method and network, with the probabilities after every removal by every protocol.

    Raises:
        CaseJaxError: where no network is right on any image.
    """
    scores = {"fidelity": METRICS["fidelity"]}
    scores |= {p: Metric(protocol_columns, "the fidelity test by another protocol") for p in list(PROTOCOLS)[1:]}
    options = {p: {"protocol": p, **o} for p, o in PROTOCOLS.items() if p != "mean"}
    frames, unfit = [], []
    for subject in subjects(config.where):
        rows = subject.rows("fidelity", tested(), metrics=scores, options=options)
        unfit += [] if correct_rows(rows).any() else [subject.name]
        frames.append(compact(rows, [*COLUMNS, *(c for c in map(str, rows) if "p_removed_" in c)]))
    right = len(unfit) < len(frames)
    require(
        right, "networks", f"{', '.join(unfit)}, right on no image", "a network that is right on some of the images"
    )
    return Numbers({"rows": joined(frames)}, {})


def tables_of(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Drops, rankings and tests of every network that is right on some image."""
    frames, taus, tests = [], {}, []
    for (network,), group in parts(rows, "network"):
        table = summary_of(group).assign(network=network)
        if table.empty:
            continue
        frames.append(table)
        proper = [name for name in dict.fromkeys(group["method"]) if name not in CONTROL_TITLES]
        taus[network] = rankings(table, proper)
        for mispaired in (False, True):
            found = against_case(group, mispaired=mispaired)
            tests.append(found.assign(network=network, paired="other images" if mispaired else "same images"))
    return pd.concat(frames), pd.DataFrame(taus).T.reset_index(names="network"), pd.concat(tests)


CONTROL_TITLES = [METHODS[c].title for c in CONTROLS]
FEWER = (
    "Images were not kept paired at shares of pixels where methods differ; intervals over images, too, are of scenes that share strokes. To be asked "
    "again of kept rows."
)


def no_worse(test: pd.DataFrame, *, clustered: bool) -> list[Estimate]:
    """CASE less every other class activation map, maps that are one counted once."""
    cams = [METHODS[m].title for m in CAMS]
    against = test[(test["paired"] == "same images") & test["method"].isin(cams)]
    rounded = against["case_minus_method"].round(RANK_DECIMALS)
    against = against[~against.assign(rounded=rounded).duplicated(["network", "rounded"])]
    found = [
        Estimate(f"{r['network']}, {r['method']}", r["case_minus_method"], r["low"], r["high"], int(r["n"]), "images", -MARGIN)
        for _, r in against.iterrows()
    ]  # fmt: skip
    return found if clustered else [widened(one) for one in found]


def few_removed(rows: pd.DataFrame, here: str) -> Finding:
    """CASE less every other class activation map, where few pixels are removed."""
    cams = [METHODS[m].title for m in CAMS]
    found, among = [], estimates_of(rows)
    for share, ((network,), group) in itertools.product(FEW[:2], parts(rows, "network")):
        right = group[correct_rows(group)]
        wide = right.assign(drop=drops(right, share)).pivot(index="image_id", columns="method", values="drop")
        others = [name for name in cams if name in wide and len(wide[[name, CASE]].dropna())]
        same = wide[others].round(RANK_DECIMALS).T.duplicated()
        for name in [n for n in others if not same[n]]:
            gain = (wide[CASE] - wide[name]).dropna()
            label = f"{share}%: {network}, {name}"
            found.append(of_images(label, gain, among, margin=-MARGIN))
    return Finding(
        "CASE is at least as faithful as other class activation maps at 5% and 20% removed.", here, found, "universal",
        measure=f"drop of CASE (k = 1) less the other map's; {MARGIN:.0%} worse counts as no worse", shown="points",
    )  # fmt: skip


def spread_of(table: pd.DataFrame, share: int, proper: list[str], here: str) -> Finding:
    """How far methods are from a random map, by network."""
    rows = table[(table["protocol"] == "mean") & (table["removed"] == share)].set_index(["network", "method"])["drop"]
    gaps = []
    for network in dict.fromkeys(table["network"]):
        drops_ = rows[network]
        best = drops_.reindex(proper).idxmax()
        gaps.append(
            Estimate(f"{network}: {best}", drops_[best] - drops_[METHODS["random"].title], unit="networks", n=1)
        )
    mean = mean_of("mean over networks", [g.value for g in gaps], unit="networks")
    random = rows.unstack()[METHODS["random"].title]
    note = f"The random map's drop is {percent(random.min())} to {percent(random.max())}."
    return Finding(
        f"Does removing {share}% of the pixels tell methods from a random map?", here, [*gaps, mean],
        measure="drop of the best method less that of a random map", shown="points", note=note,
    )  # fmt: skip


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Drops, rankings and tests on every network."""
    clustered = "rows" in numbers.rows
    if clustered:
        table, taus, test = tables_of(numbers.rows["rows"])
    else:
        table, taus, test = (numbers.tables[name] for name in ("summary", "rankings", "tests"))
    tau, networks = taus.set_index("network"), list(taus["network"])
    names = list(dict.fromkeys(table["method"]))
    proper = [name for name in names if name not in CONTROL_TITLES]
    at_half = table[(table["protocol"] == "mean") & (table["removed"] == PAPER)]
    shown = at_half.assign(
        cell=[percent(*v) for v in at_half[["drop", "low", "high"]].itertuples(index=False)]
    ).pivot(index="method", columns="network", values="cell").reindex(names)[networks]  # fmt: skip
    here = place(config.where.data, "small networks" if config.where.offline else "one network each")
    pivot = test.assign(verdict=np.sign(test["case_minus_method"]) * (test["p_holm"] < 0.05)).pivot(
        index=["network", "method"], columns="paired", values="verdict"
    )
    flipped = (pivot["same images"] != pivot["other images"]).groupby("network", sort=False).mean()
    order = {n: order_of(table[table["network"] == n], "mean", PAPER, proper) for n in networks}
    moved = [orders(n, order[n], order_of(table[table["network"] == n], "transposed", PAPER, proper)) for n in networks]
    columns = {f"{p}, 50%": f"fill {p}" for p in ("blur", "noise", "zero-pixel")}
    columns |= {f"mean, {share}%": f"{share}% removed" for share in (5, 20, 80)}
    of: Any = at_half.pivot(index="method", columns="network", values="drop")
    random, best = of.loc[METHODS["random"].title], of.loc[proper].max()
    ceiling = f"A random map's drop here is {percent(random.min())} to {percent(random.max())}, the best method's {percent(best.min())} to {percent(best.max())}: near the "
    ceiling += "ceiling, being no worse says little about faithfulness."
    caution = "" if clustered else " Intervals over images are taken 2.5 times as wide, as scenes share strokes."
    findings = [
        Finding(
            "CASE is at least as faithful as other class activation maps at 50% removed (CASE paper, RQ2).", here, no_worse(test, clustered=clustered),
            "universal", measure=f"drop of CASE (k = 1) less the other map's; {MARGIN:.0%} worse counts as no worse", shown="points", note=ceiling + caution,
        ),
        few_removed(numbers.rows["rows"], here) if clustered else
        Finding(
            "CASE is at least as faithful as other class activation maps at 5% and 20% removed.", here, stated="undecided", note=FEWER,
        ),
        spread_of(table, PAPER, proper, here),
        spread_of(table, FEW[0], proper, here),
        Finding(
            "How much does the public code's transposed region move the ranking of methods?", here, moved,
            measure="Kendall's τ with the right region's ranking, 50% removed", note="Intervals speak of other methods (Mallows' law).",
        ),
        Finding(
            "How much do the fill and the share of pixels move it?", here, [mean_of(words, tau[c], unit="networks") for c, words in columns.items()],
            measure="Kendall's τ with mean fill at 50%, mean over networks",
        ),
        Finding(
            "Does a t-test that pairs different images, as in the public code, give other verdicts?", here,
            [mean_of("verdicts that change", flipped, unit="networks")], measure="share of verdicts against CASE", shown="percent",
            note=f"{int((pivot['same images'] != pivot['other images']).sum())} of {len(pivot)}.",
        ),
    ]  # fmt: skip
    tables = {
        "summary": Table("Mean drop at 50% removed, mean fill, in percent [95%]", table, shown.reset_index()),
        "rankings": Table(
            "Kendall's τ with the ranking at 50%, mean fill",
            taus,
            tau.map("{:.2f}".format).reset_index(names="network"),
        ),
        "tests": Table("Against CASE", test),
    }
    wide = table.assign(column=table["protocol"] + ", " + table["removed"].map("{:g}%".format))
    means = wide[wide["removed"].isin(FEW)].pivot_table(index="method", columns="column", values="drop", sort=False)
    return Answer(findings, tables, {"protocols": heat(means.loc[names], "mean drop over networks, %")})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""Perturbation fidelity (RQ2 of the CASE paper), and how much its protocol decides.

Question   Does the predicted class lose its probability when a map's top pixels go? Do the share of pixels, the fill, the transposed region of the
           public code, or its pairing of different images move the ranking of methods?
Command    python -m experiments.fidelity [--quick] [--data tfds:imagenet2012:validation]
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
from scipy import stats as scipy_stats

from case_jax import METHODS
from case_jax._checks import require
from case_jax.imageops import Fill
from case_jax.methods import MapFunction
from case_jax.metrics import METRICS, PERCENTS, Metric, MetricInputs
from case_jax.metrics.fidelity import Region, fidelity_columns
from case_jax.stats import RANK_DECIMALS, bootstrap, correct_rows, drops, paired_tests
from experiments.claim import Answer, Finding, Table, from_shell, heat, keep, percent
from experiments.networks import Where, subjects
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


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
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


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean drop with its interval for each method, protocol and share of pixels, over correctly classified images with usable maps."""
    usable = rows[correct_rows(rows)]
    found = []
    for (method, group), (protocol, _) in itertools.product(usable.groupby("method", sort=False), PROTOCOLS.items()):
        for share in PERCENTS if protocol == "mean" else FEW:
            values = drops(of_protocol(group, protocol), share).dropna().to_numpy()
            value = bootstrap(values, "mean", resamples=1000)
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
    half = (found["mean_difference"] / found["t"]).abs() * scipy_stats.t.ppf(0.975, found["n"] - 1)
    half = half.mask(found["t"].isna() & (found["n"] > 1), 0.0)  # all images differ by the same
    return pd.DataFrame(
        {
            "method": found["method"],
            "n": found["n"],
            "case_minus_method": -found["mean_difference"],
            "low": -found["mean_difference"] - half,
            "high": -found["mean_difference"] + half,
            "p": found["p_t"],
            "p_holm": found["p_t_holm"],
        }
    )


def order_of(table: pd.DataFrame, protocol: str, share: float, names: list[str]) -> np.ndarray:
    """Mean drops of the methods, in one order; NaN for those that have a usable map of less than half of the images."""
    chosen = table[(table["protocol"] == protocol) & (table["removed"] == share)].set_index("method")
    enough = chosen["n"] >= chosen["n"].max() / 2
    return chosen["drop"].where(enough).round(RANK_DECIMALS).reindex(names).to_numpy(float)


def kendall(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's τ of two orders."""
    found: Any = scipy_stats.kendalltau(first, second, nan_policy="omit")
    return float(found.statistic)


def rankings(table: pd.DataFrame, names: list[str]) -> dict[str, float]:
    """Kendall's τ of each protocol's order of methods, controls left out, with that of the paper's intent: mean fill, right region, 50%."""
    reference = order_of(table, "mean", PAPER, names)
    others = {f"{p}, 50%": order_of(table, p, PAPER, names) for p in list(PROTOCOLS)[1:]}
    others |= {f"mean, {share}%": order_of(table, "mean", share, names) for share in (5, 20, 80)}
    return {name: kendall(reference, values) for name, values in others.items()}


def answer(config: Config) -> Answer:
    """Drops, rankings and tests on every network."""
    frames, taus, tests, unfit = [], {}, [], []
    scores = {"fidelity": METRICS["fidelity"]}
    scores |= {p: Metric(protocol_columns, "the fidelity test by another protocol") for p in list(PROTOCOLS)[1:]}
    options = {p: {"protocol": p, **o} for p, o in PROTOCOLS.items() if p != "mean"}
    names, controls = [*tested()], [METHODS[c].title for c in CONTROLS]
    proper = [name for name in names if name not in controls]
    for subject in subjects(config.where):
        rows = subject.rows("fidelity", tested(), metrics=scores, options=options)
        table = measured(rows).assign(network=subject.name)
        if table.empty:
            unfit.append(subject.name)
            continue
        frames.append(table)
        taus[subject.name] = rankings(table, proper)
        for mispaired in (False, True):
            found = against_case(rows, mispaired=mispaired)
            tests.append(found.assign(network=subject.name, paired="other images" if mispaired else "same images"))
    require(
        frames, "networks", f"{', '.join(unfit)}, right on no image", "a network that is right on some of the images"
    )
    table, test = pd.concat(frames), pd.concat(tests)
    tau = pd.DataFrame(taus).T
    at_half = table[(table["protocol"] == "mean") & (table["removed"] == PAPER)]
    shown = at_half.assign(
        cell=[percent(*v) for v in at_half[["drop", "low", "high"]].itertuples(index=False)]
    ).pivot(index="method", columns="network", values="cell").reindex(names)[list(taus)]  # fmt: skip
    left_out = f" Left out, as they are right on no image: {', '.join(unfit)}." if unfit else ""
    cams = [METHODS[m].title for m in CAMS]
    against = test[(test["paired"] == "same images") & test["method"].isin(cams)]
    against = against.assign(rounded=against["case_minus_method"].round(RANK_DECIMALS)).drop_duplicates(
        ["network", "rounded"]
    )
    better = int(((against["p_holm"] < 0.05) & (against["case_minus_method"] > 0)).sum())
    worse = int(((against["p_holm"] < 0.05) & (against["case_minus_method"] < 0)).sum())
    within = int((against["low"] > -MARGIN).sum())
    pivot = test.assign(verdict=np.sign(test["case_minus_method"]) * (test["p_holm"] < 0.05)).pivot(
        index=["network", "method"], columns="paired", values="verdict"
    )
    flipped = int((pivot["same images"] != pivot["other images"]).sum())
    control = at_half[at_half["method"] == METHODS["random"].title].set_index("network")["drop"].reindex(list(taus))
    best = at_half.groupby("network")["drop"].max()
    spread = {
        p: table[(table["protocol"] == p) & (table["removed"] == 20) & table["method"].isin(proper)].groupby("network")["drop"].std().mean()
        for p in PROTOCOLS
    }  # fmt: skip
    fills = tau[[c for c in tau if c.split(",")[0] in ("blur", "noise", "zero-pixel")]]
    findings = [
        Finding(
            "CASE is at least as faithful as other class activation maps (CASE paper, RQ2).",
            "reproduced" if within == len(against) else "in part" if better > worse else "not reproduced",
            f"At 50% removed, mean fill, paired by image: of {len(against)} comparisons with {len(cams)} maps on {len(taus)} networks, maps that are one counted "
            f"once, CASE (k = 1) is better in {better}, worse in {worse} (Holm-corrected), and at most {MARGIN:.0%} worse (95% interval) in {within}.{left_out}",
        ),
        Finding(
            "Does removing half of the pixels tell methods apart?",
            "answered",
            "Mean drop of a random map and of the best method: "
            + ", ".join(f"{n} {control[n]:.0%} and {best[n]:.0%}" for n in taus) + ".",
        ),
        Finding(
            "How much does the public code's transposed region move the ranking of methods?",
            "answered",
            f"Kendall's τ with the right region, controls left out: {', '.join(f'{n} {v:.2f}' for n, v in tau['transposed, 50%'].items())}. With 20% removed the standard "
            f"deviation of the methods' means is {spread['transposed']:.1%} transposed and {spread['mean']:.1%} right.",
        ),
        Finding(
            "How much do the fill and the share of pixels move it?",
            "answered",
            f"Mean τ with mean fill at 50%: other fills {fills.to_numpy().mean():.2f}; mean fill at 5%, 20% and 80% "
            + ", ".join(f"{tau[f'mean, {s}%'].mean():.2f}" for s in (5, 20, 80)) + ".",
        ),
        Finding(
            "Does a t-test that pairs different images, as in the public code, give other verdicts?",
            "answered",
            f"{flipped} of {len(pivot)} verdicts against CASE change when the images are paired wrongly.",
        ),
    ]  # fmt: skip
    tables = {
        "drops": Table("Mean drop at 50% removed, mean fill, in percent [95%]", table, shown.reset_index()),
        "rankings": Table(
            "Kendall's τ with the ranking at 50%, mean fill",
            tau.reset_index(names="network"),
            tau.map("{:.2f}".format).reset_index(names="network"),
        ),
        "tests": Table("Against CASE", test),
    }
    wide = table.assign(column=table["protocol"] + ", " + table["removed"].astype(str) + "%")
    means = wide[wide["removed"].isin(FEW)].pivot_table(index="method", columns="column", values="drop", sort=False)
    return Answer(findings, tables, {"protocols": heat(means.loc[names], "mean drop over networks, %")})


def main(config: Config) -> None:
    """Answer, and keep it."""
    keep(answer(config), config, config.out)


if __name__ == "__main__":
    from_shell(main, Config)

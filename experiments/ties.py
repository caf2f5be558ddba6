"""Do ties decide the class-sensitivity test?

Question   How do F and the verdicts depend on which of equal pixels count as the top k%, and on zeros among them?
Command    python -m experiments.ties [--quick] [--again] [--data tfds:imagenet2012:validation]
Cost       about 5 minutes on 2 CPU cores, without the training of the small networks
Expected   nothing at 5%, which one positive cell of a map fills when it is upsampled; the larger k, the more zeros are in the top, and a rule that
           gives both maps the same zeros raises F
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array, Float, Key

from case_jax import METRICS
from case_jax.metrics import Metric, MetricInputs, agreement
from case_jax.stats import THETAS, both_usable, estimates_of, holm, sign_test
from experiments.claim import Estimate, Finding, percent, place
from experiments.estimates import mean_of
from experiments.kept import Answer, Numbers, Table, carry_out, from_shell
from experiments.networks import Where, subjects
from experiments.sensitivity import methods

PERCENTS = (5, 20, 40)
RULES = {
    "first": "lower index first (the library's)",
    "last": "higher index first",
    "random": "at random, for each map anew",
    "positive": "positive pixels only (F⁺)",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Networks, images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=Where)
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
    out: Path = Path("experiments/results/ties")


def randomly_ranked(saliency: Float[Array, "H W"], key: Key[Array, ""]) -> Float[Array, "H W"]:
    """The same order of the pixels, ties broken at random."""
    count = saliency.size
    order = jax.random.permutation(key, count)
    best = jnp.argsort(
        -saliency.ravel()[order], stable=True
    )  # among equal values, what comes first in the random order
    ranks = jnp.zeros(count, jnp.float32).at[order[best]].set(jnp.arange(count, 0, -1, dtype=jnp.float32))
    return ranks.reshape(saliency.shape)


def tie_columns(scored: MetricInputs, *, percents: tuple[float, ...] = PERCENTS) -> dict[str, Array]:
    """`RULE_PERCENT`: F under each rule; `zeros_PERCENT`: whether zeros are in the top of either map. NaN where either is degenerate."""
    first, second = scored.maps[0], scored.maps[1]
    anyhow = [randomly_ranked(m, jax.random.fold_in(scored.key, i)) for i, m in enumerate((first, second))]
    found = {}
    for share in percents:
        ours = agreement(first, second, percent=share)
        found |= {
            f"first_{share:g}": ours.F,
            f"last_{share:g}": agreement(first[::-1, ::-1], second[::-1, ::-1], percent=share).F,
            f"random_{share:g}": agreement(anyhow[0], anyhow[1], percent=share).F,
            f"positive_{share:g}": ours.F_plus,
            f"zeros_{share:g}": ours.zeros_in_top.astype(jnp.float32),
        }
    return {name: jnp.where(scored.degenerate[:2].any(), jnp.nan, value) for name, value in found.items()}


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Median F and Holm-corrected verdicts of every method under every rule, and how often zeros are in the top."""
    usable, among = rows[both_usable(rows)], estimates_of(rows)
    sharing = {m: among.among(g["image_id"]) for m, g in usable.groupby("method", sort=False)}
    found = []
    for share in PERCENTS:
        zeros = usable.groupby("method", sort=False)[f"zeros_{share}"].mean()
        for rule in RULES:
            groups = {
                m: np.round(g[f"{rule}_{share}"].to_numpy(float), 6) for m, g in usable.groupby("method", sort=False)
            }
            table = pd.DataFrame({"method": list(groups), "percent": share, "rule": rule, "zeros": zeros.to_numpy()})
            table["median"] = [np.median(v) for v in groups.values()]
            table["mean"] = [v.mean() for v in groups.values()]
            for theta in THETAS:
                corrected = holm([sign_test(values, theta, sharing[m]).p for m, values in groups.items()])
                table[f"sensitive_{theta:g}"] = corrected < 0.05
            found.append(table)
    return pd.concat(found)


def measured(config: Config) -> Numbers:
    """Medians and verdicts of every network, method and rule."""
    scores = {"sensitivity": METRICS["sensitivity"], "ties": Metric(tie_columns, "what other tie rules make of F")}
    found = [
        verdicts(subject.rows("ties", methods(), metrics=scores)).assign(network=subject.name)
        for subject in subjects(config.where)
    ]
    return Numbers({}, {"rules": pd.concat(found)})


KEYS = ["percent", "network", "method"]


def changed(table: pd.DataFrame) -> list[Estimate]:
    """Share of verdicts that a random order of equal pixels, or the other one, changes: a row per share of pixels and θ, over networks."""
    found = []
    for share in PERCENTS:
        here = table[table["percent"] == share]
        for theta in THETAS:
            voted = here.pivot(index=KEYS[1:], columns="rule", values=f"sensitive_{theta:g}")
            other = voted.ne(voted["first"], axis=0)[["last", "random", "positive"]].any(axis=1)
            by_network = other.groupby("network", sort=False).mean()
            found.append(mean_of(f"top {share}%, θ = {theta:g}", by_network, unit="networks"))
    return found


def concluded(numbers: Numbers, config: Config) -> Answer:
    """All rules side by side."""
    table = numbers.tables["rules"]
    means = table.pivot(index=KEYS, columns="rule", values="mean")[list(RULES)]
    zeros = table.groupby(KEYS, sort=False)["zeros"].first()
    moved, rows, said = [], [], []
    for share in PERCENTS:
        both: Any = means.loc[share]
        gap = (both["first"] - both["random"]).abs()
        moved.append(mean_of(f"top {share}%", gap.groupby("network", sort=False).mean(), unit="networks"))
        said.append(
            f"top {share}% {percent(zeros.loc[share].mean())}, at most {gap.max():.0%} ({', '.join(gap.idxmax())})"
        )
        mean = both.groupby("method", sort=False).mean()
        with_zeros = zeros.loc[share].groupby("method", sort=False).mean()
        for name in mean.index:
            rows.append([name, f"{share}%", percent(with_zeros[name]), *(percent(v) for v in mean.loc[name])])
    shown = pd.DataFrame(rows, columns=["method", "top", "pairs with zeros in the top", *RULES.values()])
    here = place(config.where.data, "small networks, one training each" if config.where.offline else "one network each")
    findings = [
        Finding(
            "Does the tie rule change verdicts?", here, changed(table), measure="share of verdicts that another rule for ties changes", shown="percent",
            note=f"Over {len(means) // len(PERCENTS)} pairs of network and method: ties the other way round, at random, or positive pixels only.",
        ),
        Finding(
            "How far does the tie rule move the mean F?", here, moved, measure="mean F by the library's rule and with ties at random, difference", shown="points",
            note="Zeros in the top of the pairs of maps, and the most that a mean moves: " + "; ".join(said) + ".",
        ),
    ]  # fmt: skip
    interesting = shown[shown["pairs with zeros in the top"].ne("0%")]
    title = "Mean F under each rule, over networks, where zeros are in the top"
    return Answer(findings, {"rules": Table(title, table, interesting if len(interesting) else shown)}, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

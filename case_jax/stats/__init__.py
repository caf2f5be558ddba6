"""From rows to answers: tests, intervals and counts per method (no JAX here)."""

from case_jax.stats.counts import UNLABELLED, WRONG
from case_jax.stats.estimates import Estimates, estimates_of
from case_jax.stats.intervals import Interval, bootstrap, mean_interval, median_interval
from case_jax.stats.paired import paired_tests
from case_jax.stats.ranks import RANK_DECIMALS, ranked
from case_jax.stats.ratio import ratio_of_means
from case_jax.stats.sharing import Sharing, sharing_of
from case_jax.stats.summary import Summary, summarise
from case_jax.stats.tests import SignedRank, SignTest, below, holm, sign_test
from case_jax.stats.usable import (
    DROP_PERCENT,
    both_usable,
    correct_rows,
    drops,
    mean_drop,
    removed_percents,
    usable_rows,
    watched_rows,
)
from case_jax.stats.verdict import ALPHA, THETAS

__all__ = [
    "ALPHA",
    "DROP_PERCENT",
    "RANK_DECIMALS",
    "THETAS",
    "UNLABELLED",
    "WRONG",
    "Estimates",
    "Interval",
    "Sharing",
    "SignTest",
    "SignedRank",
    "Summary",
    "below",
    "bootstrap",
    "both_usable",
    "correct_rows",
    "drops",
    "estimates_of",
    "holm",
    "mean_drop",
    "mean_interval",
    "median_interval",
    "paired_tests",
    "ranked",
    "ratio_of_means",
    "removed_percents",
    "sharing_of",
    "sign_test",
    "summarise",
    "usable_rows",
    "watched_rows",
]

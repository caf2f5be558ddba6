"""How a number in the rows of a run is summed up and shown; a metric describes its own (no JAX here)."""

from typing import Literal, NamedTuple


class MetricColumn(NamedTuple):
    """One column of a metric's rows, and what a reader of a table must know about it.

    Descriptions travel with the configuration of a run, so a metric of one's own is summed up, ranked and explained like the
    others.
    """

    name: str
    title: str
    note: str
    """What the number says, in a sentence; say in it which direction is good, and why."""
    better: Literal["high", "low", ""] = ""
    """Which end is good; empty where neither is, and the column is then not ranked."""
    statistic: Literal["mean", "median"] = "mean"
    maps: Literal["first", "both", "first and random", "any"] = "first"
    """Which maps must be usable for a row to count: that of the likeliest class, of both likeliest, of the likeliest and a random
    other, or none in particular (the metric then writes NaN itself)."""
    correct: bool = False
    """Whether only correctly classified images (and those without a label) count."""
    percent: bool = True
    """Whether the number is a share, shown in percent; else it is shown as it is."""

"""Why a map shows nothing: the codes in rows, and their words (no JAX here)."""

from enum import IntEnum


class Reason(IntEnum):
    """Why a map is degenerate; 0 for a usable one."""

    NONE = 0
    NOT_FINITE = 1
    NO_CLASS = 2
    CONSTANT = 3
    NOT_POSITIVE = 4
    NO_RELU = 5
    NO_PATH = 6
    NO_GRADIENT = 7

    @property
    def words(self) -> str:
        """In a few words, for figures and tables."""
        return WORDS[self]


WORDS = {
    Reason.NONE: "usable",
    Reason.NOT_FINITE: "not finite",
    Reason.NO_CLASS: "no such class",
    Reason.CONSTANT: "the same everywhere",
    Reason.NOT_POSITIVE: "nowhere positive",
    Reason.NO_RELU: "no ReLU in the network",
    Reason.NO_PATH: "no path from the layer to the class",
    Reason.NO_GRADIENT: "gradient zero (saturated)",
}

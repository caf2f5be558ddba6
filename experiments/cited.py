"""The table of README.md, from the numbers that experiments have kept."""

from pathlib import Path

import pandas as pd

from case_jax.files import write_atomically
from case_jax.stats import THETAS
from experiments.claim import percent

BEGIN = "<!-- numbers: python -m experiments.all --index -->"
END = "<!-- end of numbers -->"
METHODS = {
    "CASE, k = 5": "CASE, 5 confused classes",
    "CASE, k = 1": "CASE, 1 confused class",
    "CASE-span, k = 5": "CASE-span, 5 confused classes",
    "Finer-CAM, k = 5": "Finer-CAM, 5 confused classes",
    "softmax-contrast": "softmax-contrast",
    "LayerCAM": "LayerCAM",
    "Grad-CAM": "Grad-CAM",
    "guided backprop": "guided backprop",
    "Eigen-Grad-CAM": "Eigen-Grad-CAM",
    "random map": "random map (control)",
    "Finer-CAM, maps exchanged": "Finer-CAM, the two maps exchanged (control)",
    "contrast of noise": "contrast of noise (control)",
    "Finer-CAM, untrained network": "Finer-CAM, untrained network (control)",
}
HEAD = ("method", "specificity", "necessity", "shared top pixels (median F)", f"class-sensitive at {THETAS[0]:g} / {THETAS[1]:g}", "mass on its own evidence")  # fmt: skip


def number(value: float) -> str:
    """One digit behind the point."""
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def over_families(values: pd.Series) -> str:
    """Mean over families, the smallest and the largest."""
    return f"{number(values.mean())} [{number(values.min())}, {number(values.max())}]"


def table(results: Path) -> str:
    """Rows of the README's table, in Markdown."""
    summary = pd.read_csv(results / "specificity" / "summary.csv")
    lines = [" | ".join(HEAD), " | ".join(["---"] * len(HEAD))]
    for name, title in METHODS.items():
        mine = summary[summary["method"] == name]
        families = mine.groupby("network", sort=False)[["specificity", "necessity", "F", "mass_own"]].mean()
        passed = " / ".join(str(int(mine[f"sensitive_{theta:g}"].sum())) for theta in THETAS)
        shared, own = (
            percent(float(families[c].mean()), float(families[c].min()), float(families[c].max())) for c in ("F", "mass_own")
        )  # fmt: skip
        cells = [title, over_families(families["specificity"]), over_families(families["necessity"]), shared]
        lines.append(" | ".join([*cells, f"{passed} of {len(mine)} networks", own]))
    return "\n".join(f"| {line} |" for line in lines)


def with_numbers(text: str, results: Path) -> str:
    """A text with the table between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def renew(file: Path, results: Path) -> None:
    """Write the numbers of a file again."""
    write_atomically(file, with_numbers(file.read_text(), results).encode())

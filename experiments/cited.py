"""The table of README.md, from the numbers that experiments have kept."""

from pathlib import Path

import pandas as pd

from case_jax.files import write_atomically
from case_jax.stats import THETAS
from experiments.claim import percent

BEGIN = "<!-- numbers: python -m experiments.all --index -->"
END = "<!-- end of numbers -->"
LAYER = "last map"
METHODS = {
    "CASE, k = 5": "CASE, 5 confused classes",
    "CASE, k = 1": "CASE, 1 confused class",
    "CASE-span, k = 5": "CASE-span, 5 confused classes",
    "Finer-CAM, k = 5": "Finer-CAM, 5 confused classes",
    "softmax-contrast": "softmax-contrast",
    "LayerCAM": "LayerCAM",
    "Grad-CAM": "Grad-CAM",
    "Eigen-Grad-CAM": "Eigen-Grad-CAM",
    "Eigen-CAM": "Eigen-CAM (class-blind)",
    "random map": "random map (control)",
}
OWN = {
    "CASE, k = 5": ("mean-orthogonal (CASE)", "confusion", "5"),
    "CASE, k = 1": ("mean-orthogonal (CASE)", "confusion", "1"),
    "CASE-span, k = 5": ("span-orthogonal", "confusion", "5"),
    "Finer-CAM, k = 5": ("difference (Finer-CAM)", "confusion", "5"),
    "softmax-contrast": ("softmax", "", ""),
    "Grad-CAM": ("none (Grad-CAM)", "", ""),
}
"""The same methods as contrasts."""


def over_networks(values: pd.Series) -> str:
    """Mean over networks, smallest and largest."""
    return "–" if values.empty else percent(float(values.mean()), float(values.min()), float(values.max()))


def table(results: Path) -> str:
    """Rows of the README's table, in Markdown."""
    agreement = pd.read_csv(results / "sensitivity" / "summary.csv")
    agreement = agreement[agreement["kind"] == LAYER].set_index("method")
    drops = pd.read_csv(results / "fidelity" / "summary.csv")
    few = drops[(drops["protocol"] == "mean") & (drops["removed"] == 5)].set_index("method")["drop"]
    contrasts = pd.read_csv(results / "contrasts" / "summary.csv", dtype={"k": str}).fillna({"set": "", "k": ""})
    own = contrasts.set_index(["operator", "set", "k"]).sort_index()["own_mean"]
    head = ["method", "shared top pixels (median F)", f"class-sensitive at {THETAS[0]:g} / {THETAS[1]:g}"]
    head += ["confidence lost with 5% of the pixels", "map's mass on its own class's evidence"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name, title in METHODS.items():
        mine = agreement.loc[[name]]
        passed = [int((mine[f"sensitive_{theta:g}"] & (mine["F_high"] < theta)).sum()) for theta in THETAS]
        evidence = own.loc[OWN[name]] if name in OWN else pd.Series(dtype=float)
        cells = [title, over_networks(mine["F_median"]), f"{passed[0]} / {passed[1]} of {len(mine)} networks"]
        lines.append(" | ".join([*cells, over_networks(few.loc[[name]]), over_networks(evidence)]))
    return "\n".join(f"| {line} |" for line in lines)


def with_numbers(text: str, results: Path) -> str:
    """A text with the table between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def renew(file: Path, results: Path) -> None:
    """Write the numbers of a file again."""
    write_atomically(file, with_numbers(file.read_text(), results).encode())

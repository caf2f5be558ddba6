"""The verdicts of digit scenes beside those of photographs, and why they differ."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.claim import Finding
from experiments.kept import FINDINGS

RESULTS = Path(__file__).parent / "results"
ONE_FAMILY = "needs trained networks of several architectures"
MASKERS = "needs many photographs to train on"
NOT_ASKED = {
    "DenseNet separates the maps of classes more than other architectures (CASE paper).": ONE_FAMILY,
    "Its classes share fewest channels (CASE paper).": ONE_FAMILY,
    "A masker needs both objectives (masking paper).": MASKERS,
    "Training the classifier alongside helps (masking paper).": MASKERS,
    "Infilling adds nothing (masking paper).": MASKERS,
    "Making masks binary (Gumbel) adds nothing (masking paper).": MASKERS,
    "Maps of a classifier of shuffled labels are others (Adebayo et al., data randomisation).": "needs a training on ImageNet",
}
"""Claims that ten photographs cannot be asked about, with the reason."""
WHY: dict[str, str] = {}
"""Where verdicts or numbers differ: why, as far as it was followed. Written from the rows that are kept."""


def side_by_side(findings: Sequence[Finding], results: Path = RESULTS) -> pd.DataFrame:
    """A line a claim that was asked of digit scenes, too, or cannot be asked of photographs."""
    scenes = {}
    for file in sorted(results.glob(f"*/{FINDINGS}")):
        if file.parent.name != "photographs":
            scenes |= {one["claim"]: one for one in json.loads(file.read_text())["findings"]}
    found = []
    for finding in findings:
        first = scenes.get(finding.claim)
        if first is not None:
            found.append(
                [
                    finding.claim,
                    first["verdict"],
                    finding.verdict,
                    first["said"],
                    finding.said,
                    WHY.get(finding.claim, ""),
                ]
            )
    for claim, reason in NOT_ASKED.items():
        if claim in scenes:
            found.append([claim, scenes[claim]["verdict"], "not testable offline", scenes[claim]["said"], "", reason])
    return pd.DataFrame(
        found,
        columns=[
            "claim",
            "on digit scenes",
            "on photographs",
            "numbers there",
            "numbers here",
            "what differs, and why",
        ],
    )

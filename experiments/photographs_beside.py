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
CELLS = (
    "The maps have 7×7 cells: the top 2% is one of them, 5% two and a half, and such a removal hardly moves the logits."
)
PATTERN = (
    "CASE makes the channel weights of two classes orthogonal. At the last map these are not shown to share more here than on digit scenes, but the maps agree nearly "
    "everywhere before they are rectified, which on digit scenes they do not (the finding on likeness): all classes lean on the same few active places, and little of that is in the weights."
)
FEW = "The direction is the same; ten photographs do not show so many comparisons."
WHY = {
    "Maps of contrastive methods hold their own class more than Grad-CAM's do.": f"CASE gains little, Finer-CAM, which subtracts the rival's map, much. {PATTERN}",
    "CASE's with one class do so on every architecture.": f"A small part of the gain on digit scenes. {PATTERN}",
    "Contrast costs necessity, whatever the share of pixels removed.": f"{FEW} {CELLS}",
    "What a contrastive map marks is still more necessary than what a random map marks.": f"{FEW} {CELLS}",
    "CASE is class-sensitive at 0.5 on every network (CASE paper, RQ1; k = 1 as in its runs).":
        f"At the raw convolution F is low, at the last ReLU6 not: gradients through the gates keep the channels that are active in the image alone, of which the two "
        f"classes share more, so that more is taken out. {PATTERN}",
    "Which contrast should a user take?":
        f"CASE leaves a map of a mosaic where Grad-CAM's is. {PATTERN} Five photographs are in the mosaics.",
    "Does its size matter?":
        "On digit scenes ten classes are too many, since four compete; of 1,000 classes ten compete for a photograph, and the mean of more points nearer to what they share.",
    "Most class activation maps are not class-sensitive, at 0.5 and at 0.7 (CASE paper, RQ1).":
        "Maps that are positive nearly everywhere and alike before rectification agree more than on digit scenes; the intervals are those of ten photographs.",
}  # fmt: skip
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

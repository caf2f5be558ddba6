"""How many images or maps were left out of which statistic, and why (no JAX here)."""

import numpy as np
import pandas as pd

UNLABELLED = "images without a label (fidelity uses them all the same)"
WRONG = "images classified wrongly (left out of fidelity)"


def left_out(rows: pd.DataFrame) -> dict[str, int]:
    """Images and maps that some statistic leaves out, by reason in words."""
    images = rows.drop_duplicates("image_id")
    labelled = images["label"] >= 0
    out = {
        "images evaluated": len(images),
        "images with logits that are not finite (left out of every score)": int((~np.isfinite(images["p1"])).sum()),
        UNLABELLED: int((~labelled).sum()),
        WRONG: int((labelled & (images["label"] != images["top1"])).sum()),
        "degenerate maps of the top-1 or top-2 class, over all methods (left out of every score)": int(
            rows["degenerate_1"].sum() + rows["degenerate_2"].sum()
        ),
    }
    if "degenerate_random" in rows:
        out["degenerate maps of the random class, over all methods (left out of the scores that use them)"] = int(
            rows["degenerate_random"].sum()
        )
    if "mass_own" in rows:
        # whether evidence is known depends on the image alone, but an all-zero map has no mass: any method's row will do
        known = rows.groupby("image_id")[["points_1", "points_2"]].first().notna()
        out["images whose top-1 class has no evidence region (left out of the evidence shares)"] = int(
            (~known["points_1"]).sum()
        )
        out["images whose two likeliest classes do not both have one (left out of class pointing)"] = int(
            (~known.all(axis=1)).sum()
        )
    return out

"""The table of localisation (no JAX here)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from case_jax import stats
from case_jax.report.words import percent, signed

WITH_INTERVAL = ("le", "om", "f1", "f1a", "sm")
PLAIN = ("sm_log_area", "sm_log_p", "iou", "mean", "sd", "entropy", "tv")
OVERALL = ("pxap", "max_box_acc", "max_box_acc_v2")
TITLES = {
    "whole_image": "*whole image*",
    "centre_box": "*centre box*",
    "truth_box": "*true box, the largest*",
    "truth_pixels": "*true pixels*",
}


def summarise(rows: pd.DataFrame, overall: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Means over images, with bootstrap 95% intervals, beside the scores of the data set as a whole, which have none.

    Args:
        rows: one per image and method, see `case_jax.evaluation.studies.localise`.
        overall: one row per method: `images`, `pxap`, `max_box_acc`, `max_box_acc_v2`.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        One row per method, in the order of the rows: `images` with a usable map and `degenerate` ones, which enter nothing; `le`, `om`,
        `f1`, `f1a`, `sm` with `_low` and `_high`; `mean_sd`, the deviation of the maps' means over images; means of the other columns.
        NaN where nothing is known.
    """
    table = []
    for method, group in rows.groupby("method", sort=False, observed=True):
        entry: dict[str, object] = {"method": method, "images": int((~group["degenerate"]).sum())}
        entry["degenerate"] = int(group["degenerate"].sum())
        for name in WITH_INTERVAL:
            values = group[name].dropna().to_numpy(np.float64)
            found = stats.bootstrap(values, "mean", resamples=resamples, seed=seed)
            entry |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        entry |= {name: group[name].astype(np.float64).mean() for name in PLAIN}
        entry["mean_sd"] = group["mean"].std(ddof=1)
        table.append(entry | {name: overall.loc[str(method), name] for name in OVERALL})
    return pd.DataFrame(table)


def markdown(summary: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """The table with its notes, to be printed or pasted.

    Args:
        summary: from `summarise`.
        titles: of the methods, by name.
    """
    kept = summary[(summary["images"] > 0) | ~summary["method"].isin(list(TITLES))]
    cells = [
        {
            "method": TITLES.get(row["method"]) or titles.get(row["method"], row["method"]),
            "LE [95%]": _shares(row, "le"),
            "OM [95%]": _shares(row, "om"),
            "F1 [95%]": _shares(row, "f1"),
            "F1a": percent(row["f1a"]),
            "SM [95%]": _numbers(row, "sm"),
            "PxAP": percent(row["pxap"]),
            "MaxBoxAcc": percent(row["max_box_acc"]),
            "MaxBoxAccV2": percent(row["max_box_acc_v2"]),
            "mean ± sd": signed(row["mean"], ".3f") + " ± " + signed(row["sd"], ".3f"),
            "entropy": signed(row["entropy"], ".3f"),
            "TV × 100": signed(100 * row["tv"], ".2f"),
            "degenerate": f"{row['degenerate']:,}",
        }
        for row in kept.to_dict("records")
    ]
    notes = [
        "LE: share of images in which the box around a map (above its mean, largest component) meets no true box with an IoU above 0.5; OM: "
        "the same, or the image is classified wrongly; F1 of the map as a soft mask with the true box that it fits best, F1a with all; SM: log "
        "of the box's share of the image (at least 0.05) minus log-probability of the class in the box's crop. Low = good for LE, OM, SM; high for "
        "F1, F1a and what follows.",
        "PxAP: area under the curve of pixel precision and recall, over the pixels of all images; MaxBoxAcc: share of images whose largest "
        "component meets a true box (IoU ≥ 0.5) at the best threshold for all, V2: any component, mean over IoU ≥ 0.3, 0.5, 0.7. These "
        "thresholds are chosen on the very images, for every method alike.",
        "Mean, sd over pixels, entropy (bits a pixel) and total variation describe the map itself. Degenerate maps (all zero, constant or "
        "not finite) enter nothing. Baselines in italics; the true pixels are treated as a map.",
    ]
    return "\n\n".join([pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True), *notes]) + "\n"


def _shares(row: Mapping[Any, Any], name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    return f"{percent(row[name])} [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"


def _numbers(row: Mapping[Any, Any], name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    low, high = (signed(row[f"{name}_{end}"], ".2f") for end in ("low", "high"))
    return f"{signed(row[name], '.2f')} [{low}, {high}]"

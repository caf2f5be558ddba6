"""Which figures a run has, with their words."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from case_jax import stats
from case_jax.report.figures import agreement_histograms, deletion_sweep, drop_distribution, plain_style, rendered
from case_jax.report.gallery import gallery_figure
from case_jax.report.loading import Run
from case_jax.report.page import Drawing
from case_jax.report.words import percent
from case_jax.source import NOBODY

METHODS_PER_GALLERY = 8


def draw(run: Run, table: pd.DataFrame) -> list[Drawing]:
    """All figures that the run has numbers or maps for, in the order of the page.

    Args:
        run: what the folder holds.
        table: `Summary.table`, for the words.
    """
    with plain_style():
        parts = (_agreement(run, table), _fidelity(run, table), _galleries(run))
        return [Drawing(*words, *rendered(figure)) for part in parts for words, figure in part]


Drawn = Iterator[tuple[tuple[str, str, str, str], Figure]]


def _by_method(rows: pd.DataFrame, values: pd.Series, run: Run) -> dict[str, np.ndarray]:
    groups = values.dropna().groupby(rows["method"], sort=False)
    found = {str(name): group.to_numpy(np.float64) for name, group in groups}
    return {method.name: found.get(method.name, np.zeros(0)) for method in run.methods}


def _in_words(run: Run, table: pd.DataFrame, column: str) -> str:
    return ", ".join(f"{m.title} {percent(float(table[column][m.name]))}" for m in run.methods if m.name in table.index)


def _agreement(run: Run, table: pd.DataFrame) -> Drawn:
    if "F" not in run.rows:
        return
    usable = run.rows[~(run.rows["degenerate_1"] | run.rows["degenerate_2"])]
    figure = agreement_histograms(_by_method(usable, usable["F"], run), run.methods, thetas=stats.THETAS)
    marks = " and ".join(f"{theta:.0%}" for theta in stats.THETAS)
    caption = f"Far left: the two maps mark different pixels. Vertical lines: the thresholds θ, {marks}."
    alt = f"Histograms of the agreement F, one per method. Medians: {_in_words(run, table, 'F_median')}."
    yield ("agreement", "Do the maps of two classes differ?", caption, alt), figure


def _fidelity(run: Run, table: pd.DataFrame) -> Drawn:
    percents = stats.removed_percents(run.rows)
    if "drop_mean" not in table or not table["n_drop"].any():
        return
    usable = run.rows[stats.correct_rows(run.rows)]
    removed = stats.DROP_PERCENT
    figure = drop_distribution(_by_method(usable, stats.drops(usable, removed), run), run.methods, removed=removed)
    caption = "A curve lower and further right belongs to a more faithful method. Grey: controls."
    means = _in_words(run, table, "drop_mean")
    alt = f"Empirical distribution of the confidence drop at {removed:g}% removed. Means: {means}."
    yield ("drop", "Does the predicted class lose its probability?", caption, alt), figure
    figure = deletion_sweep(sweep_curves(usable, percents), run.methods)
    caption = (
        "Mean of 1 − drop as more of each map's top pixels is removed, with a 95% band; lower is more faithful. "
        "Where many pixels are gone, any image is unrecognisable and the curves say little."
    )
    means = _in_words(run, table, "sweep_mean")
    alt = f"Mean confidence left at {percents[0]:g} to {percents[-1]:g}% removed. Mean drops over the sweep: {means}."
    yield ("sweep", "How soon?", caption, alt), figure


def sweep_curves(usable: pd.DataFrame, percents: list[float]) -> pd.DataFrame:
    """Mean and standard error of the confidence left, per method and percentage removed."""
    curves = []
    for removed in percents:
        left = (
            (1 - stats.drops(usable, removed)).groupby(usable["method"], sort=False).agg(["mean", "sem"]).reset_index()
        )
        curves.append(left.set_axis(["method", "left", "error"], axis=1).assign(removed=removed))
    return pd.concat(curves, ignore_index=True)


def _galleries(run: Run) -> Drawn:
    gallery = run.gallery
    if gallery is None:
        return
    shown = [m for m in run.methods if m.name in set(gallery.methods.tolist())]
    pages = [shown[start : start + METHODS_PER_GALLERY] for start in range(0, len(shown), METHODS_PER_GALLERY)]
    caption = "For each image the maps of its likeliest class above, of the second below; ✓ marks the labelled class."
    if (gallery.region_classes != NOBODY).any():
        caption += " Outlines: where the evidence for which class lies."
    for number, methods in enumerate(pages, start=1):
        titles = ", ".join(method.title for method in methods)
        alt = f"{len(gallery.images)} images with the maps of {titles} for their two likeliest classes."
        name = "gallery" if number == 1 else f"gallery_{number}"
        title = "Examples" if len(pages) == 1 else f"Examples ({number} of {len(pages)})"
        yield (name, title, caption, alt), gallery_figure(run, gallery, methods)

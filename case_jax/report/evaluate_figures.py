"""Which figures a run has, with their words."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from case_jax import stats
from case_jax.report.figures import (
    Sweep,
    agreement_histograms,
    deletion_sweep,
    drop_distribution,
    in_few_colours,
    plain_style,
    rendered,
)
from case_jax.report.formatting import percent
from case_jax.report.gallery import gallery_figure
from case_jax.report.loading import Numbers, Run
from case_jax.report.page import Drawing
from case_jax.source import NOBODY

METHODS_PER_GALLERY = 8


def draw(run: Run, numbers: Numbers) -> list[Drawing]:
    """All figures that the run has numbers or maps for, in the order of the page.

    Args:
        run: what the folder holds.
        numbers: its statistics, for the words.
    """
    with plain_style():
        parts = (_agreement(run, numbers), _fidelity(run, numbers), _galleries(run))
        return [_drawing(run, *found) for part in parts for found in part]


def galleries(run: Run) -> list[Drawing]:
    """The examples of a run, a few methods a figure."""
    with plain_style():
        return [_drawing(run, *found) for found in _galleries(run)]


def _drawing(run: Run, words: tuple[str, str, str, str], figure: Figure) -> Drawing:
    png, pdf = rendered(figure)
    noisy = words[0].startswith("gallery") and run.gallery is not None and run.gallery.stft is not None
    return Drawing(*words, in_few_colours(png) if noisy else png, pdf)


Drawn = Iterator[tuple[tuple[str, str, str, str], Figure]]
"""Name, title, caption and alternative text of a figure, and the figure."""


def _masks(run: Run, usable: ArrayLike) -> dict[str, Bool[np.ndarray, " n"]]:
    names, kept = run.rows["method"].to_numpy(), np.asarray(usable, bool)
    return {method.name: (names == method.name) & kept for method in run.methods}


def _by_method(masks: Mapping[str, Bool[np.ndarray, " n"]], values: ArrayLike) -> dict[str, Float[np.ndarray, " k"]]:
    numbers = np.asarray(values, np.float64)
    known = ~np.isnan(numbers)
    return {name: numbers[mask & known] for name, mask in masks.items()}


def _in_words(run: Run, numbers: Numbers, column: str) -> str:
    return ", ".join(f"{m.title} {percent(numbers[m.name][column])}" for m in run.methods if m.name in numbers)


def _agreement(run: Run, numbers: Numbers) -> Drawn:
    if "F" not in run.rows:
        return
    masks = _masks(run, stats.both_usable(run.rows))
    figure = agreement_histograms(_by_method(masks, run.rows["F"]), run.methods, thetas=stats.THETAS)
    marks = " and ".join(f"{theta:.0%}" for theta in stats.THETAS)
    caption = f"Far left: the two maps mark different pixels. Vertical lines: the thresholds θ, {marks}."
    alt = f"Histograms of the agreement F, one per method. Medians: {_in_words(run, numbers, 'F_median')}."
    yield ("agreement", "Do the maps of two classes differ?", caption, alt), figure


def _fidelity(run: Run, numbers: Numbers) -> Drawn:
    if not any(row.get("n_drop") for row in numbers.values()):
        return
    percents, removed = stats.removed_percents(run.rows), stats.DROP_PERCENT
    masks = _masks(run, stats.correct_rows(run.rows))
    figure = drop_distribution(_by_method(masks, stats.drops(run.rows, removed)), run.methods, removed=removed)
    caption = "A curve lower and further right belongs to a more faithful method. Grey: controls."
    means = _in_words(run, numbers, "drop_mean")
    alt = f"Empirical distribution of the confidence drop at {removed:g}% removed. Means: {means}."
    yield ("drop", "Does the predicted class lose its probability?", caption, alt), figure
    figure = deletion_sweep(sweep_curves(run, masks, percents), run.methods)
    caption = (
        "Mean of 1 − drop as more of each map's top pixels is removed, with a 95% band; lower is more faithful. "
        "Where many pixels are gone, any image is unrecognisable and the curves say little."
    )
    means = _in_words(run, numbers, "sweep_mean")
    alt = f"Mean confidence left at {percents[0]:g} to {percents[-1]:g}% removed. Mean drops over the sweep: {means}."
    yield ("sweep", "How soon?", caption, alt), figure


def sweep_curves(run: Run, masks: Mapping[str, Bool[np.ndarray, " n"]], percents: Sequence[float]) -> dict[str, Sweep]:
    """The confidence left at each percentage, of every method that has usable rows.

    Args:
        run: for its rows.
        masks: which rows count, by method.
        percents: the sweep, ascending.
    """
    estimates, curves = stats.estimates_of(run.rows), {}
    left = [1 - stats.drops(run.rows, removed).to_numpy() for removed in percents]
    for name, mask in masks.items():
        known = [mask & ~np.isnan(values) for values in left]
        if all(rows.any() for rows in known):
            found = [
                estimates.mean(run.rows.loc[rows, "image_id"], values[rows])
                for rows, values in zip(known, left, strict=True)
            ]
            mean, error = np.transpose(found)
            curves[name] = Sweep(np.asarray(percents), mean, np.nan_to_num(error))  # of a single image none is known
    return curves


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

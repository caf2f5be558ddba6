"""A figure of an image and its maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from case_jax import parallel
from case_jax._checks import require
from case_jax.audio import Stft
from case_jax.imageops import picture, signed_colours
from case_jax.models.preprocessing import SoundPreprocessing
from case_jax.report.spectrogram import as_drawn, draw_ticks
from case_jax.tap.link import one_logit_names, ranking
from case_jax.tap.link import probabilities as linked_probabilities
from case_jax.tap.view import TappedModel

LIKELIEST, LEAST = 3, 0.01
"""How many of the likeliest classes stand below the image, and how probable the second and third must be."""
ROUNDING = 1e-5


def show(
    image: Shaped[Array | np.ndarray, "H W D"],
    maps: Float[Array | np.ndarray, "*T h w"],
    *,
    model: TappedModel | None = None,
    targets: int | Sequence[int] | None = None,
    shown: Sequence[int] | None = None,
    stft: Stft | None = None,
) -> Figure:
    """The image, and beside it each map laid over the image; a spectrogram with time to the right and frequency upwards, in seconds and hertz.

    Args:
        image: the normalised image that was explained; or uint8 pixels, where no model is given.
        maps: finished maps, (H, W) or (T, H, W), in [0, 1], or signed ones in [−1, 1], which are drawn red where they are positive and blue
            where they are negative; of another size than the image they are stretched over it.
        model: names the likeliest classes of the image with their probabilities, by the model's link. Its preprocessing, where it has one, gives the image its
            own colours again; otherwise the image is stretched between its lowest and its highest value.
        shown: which channels are red, green and blue, or which one is shown in grey. By default three channels are colours, and of any other
            number the mean is shown in grey.
        targets: the class of each map; then every map has its class as a title, and with a model also the probability.
        stft: says that the image is a spectrogram (frames, frequencies, channels), and how it was made. A loaded classifier of sounds knows that;
            a model of your own, or none, does not.

    Returns:
        A figure of matplotlib, made without pyplot: `figure.savefig("maps.png")`; a notebook with `%matplotlib inline` draws it.

    Raises:
        CaseJaxError: for an image or maps of another shape, maps with values outside [−1, 1], uint8 pixels with a model, or targets or a
            spectrogram that do not fit.
    """
    pixels, found = np.asarray(image), np.asarray(maps)
    found = found[None] if found.ndim == 2 else found
    _check(pixels, found, model)
    unknown = model is None or model.link == "identity"
    probabilities, ranked = (None, None) if unknown else map(np.asarray, _answers(model, image))
    how = stft_of(model, pixels.shape, stft)
    signed = bool((found < -ROUNDING).any())
    seen, found = as_drawn(visible(pixels, model, shown), found, how)
    titles = _titles(len(found), targets, model, probabilities)
    figure = Figure(figsize=(2.3 * (len(found) + 1), 2.9 + 0.4 * (how is not None)), layout="constrained")
    first, *panels = figure.subplots(1, len(found) + 1, squeeze=False)[0]
    first.imshow(seen)
    if probabilities is not None and ranked is not None:
        best = np.argsort(-ranked, kind="stable")[:LIKELIEST]
        said = [f"{_name(model, c)} {probabilities[c]:.0%}" for c in best if c == best[0] or probabilities[c] >= LEAST]
        first.set_xlabel("\n".join(said), fontsize=9, parse_math=False)
    for panel, saliency, title in zip(panels, found, titles, strict=True):
        _overlay(panel, seen, saliency, signed)
        panel.set_title(title, fontsize=10, parse_math=False)
    for panel in (first, *panels):
        panel.set_xticks([])
        panel.set_yticks([])
    if how is not None:
        draw_ticks(first, how, seen.shape[:2])
    return figure


def stft_of(model: TappedModel | None, shape: tuple[int, ...], given: Stft | None = None) -> Stft | None:
    """How an image of this shape was made of a sound: as given, else as a loaded classifier knows; None for other images.

    Raises:
        CaseJaxError: for an image of other frequencies.
    """
    facts = getattr(model, "preprocessing", None)
    how = facts.stft if given is None and isinstance(facts, SoundPreprocessing) else given
    if how is not None:
        accepted = f"a spectrogram (frames, {how.bins}, channels), as model.hear and sources of sounds give it"
        require(shape[1] == how.bins, "image", f"shape {shape} for n_fft {how.n_fft}", accepted)
    return how


@parallel.on_one_device
def _answers(model: TappedModel | None, image: Array) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """Probabilities, and numbers in their order."""
    assert model is not None, "chosen by the caller"
    logits = model.apply(model.params, image)
    return linked_probabilities(logits, model.link), ranking(logits, model.link)


def _check(pixels: np.ndarray, maps: np.ndarray, model: TappedModel | None) -> None:
    accepted = (
        "one picture (height, width, channels); of a batch, images[i] with maps[i]; signals and volumes are not drawn: explain returns their "
        "maps as arrays"
    )
    require(pixels.ndim == 3, "image", f"shape {pixels.shape}", accepted)
    wanted = "the normalised image that was explained, where a model is given"
    require(model is None or np.issubdtype(pixels.dtype, np.floating), "image", f"dtype {pixels.dtype}", wanted)
    require(maps.ndim == 3 and maps.size, "maps", f"shape {maps.shape}", "one map (H, W), or T maps (T, H, W)")
    inside = bool((np.abs(maps) <= 1 + ROUNDING).all())
    given = f"values from {maps.min():g} to {maps.max():g}"
    require(
        inside,
        "maps",
        given,
        "finished maps in [0, 1], or signed ones in [−1, 1], as explain and finish_maps return them",
    )


def visible(
    pixels: np.ndarray, model: TappedModel | None, channels: Sequence[int] | None
) -> Float[np.ndarray, "H W 3"]:
    """The image as a screen shows it, in [0, 1]."""
    facts = getattr(model, "preprocessing", None)
    if pixels.dtype == np.uint8:
        shown = pixels / 255
    elif facts is not None and not isinstance(facts, SoundPreprocessing):
        shown = np.clip(pixels * np.asarray(facts.std) + np.asarray(facts.mean), 0, 1)
    else:
        low, high = pixels.min(), pixels.max()
        shown = (pixels - low) / (high - low if high > low else 1)
    return picture(shown, channels)


def _overlay(panel: Axes, shown: np.ndarray, saliency: np.ndarray, signed: bool) -> None:
    height, width = shown.shape[:2]
    panel.imshow(shown.mean(-1), cmap="gray", vmin=0, vmax=1)
    if np.abs(saliency).max() > 0:
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        if signed:
            panel.imshow(signed_colours(saliency), extent=extent)
        else:
            panel.imshow(saliency, cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=extent)
    else:
        words = panel.text(0.5, 0.5, "degenerate", transform=panel.transAxes, ha="center", va="center", color="white")
        words.set_backgroundcolor("black")


def _titles(count: int, targets: Any, model: TappedModel | None, probabilities: np.ndarray | None) -> list[str]:
    if targets is None:
        return [f"map {i + 1}" for i in range(count)] if count > 1 else ["map"]
    classes = np.atleast_1d(np.asarray(targets))
    limit = np.inf if model is None else model.num_classes
    proper = classes.shape == (count,) and all(0 <= c < limit for c in classes)
    require(proper, "targets", np.asarray(targets).tolist(), f"{count} class{'es' * (count > 1)}, one per map")
    if probabilities is None:
        return [_name(model, c) for c in classes]
    return [f"{_name(model, c)}, p = {probabilities[c]:.2f}" for c in classes]


def _name(model: TappedModel | None, index: int) -> str:
    names = getattr(model, "class_names", None)
    if model is not None and model.one_logit and not names:
        names = one_logit_names("the class")
    return names[index] if names else f"class {index}"

"""A page to click through all classes of one's own image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from case_jax._checks import require
from case_jax.audio import Stft
from case_jax.contrast.operators import EPS
from case_jax.evaluation.explore import explored, positions, require_explorable
from case_jax.files import require_writable
from case_jax.front.explaining import TAPPED, checked_image
from case_jax.front.showing import stft_of, visible
from case_jax.report.explorer import Sound, room_for, write_explorer
from case_jax.tap.link import one_logit_names
from case_jax.tap.view import TappedModel


def explore(
    model: TappedModel,
    image: Float[Array | np.ndarray, "H W D"],
    *,
    out: str | Path = "explore.html",
    shown: Sequence[int] | None = None,
    stft: Stft | None = None,
    sound: Float[np.ndarray, " L"] | None = None,
) -> Path:
    """Write a page that shows, in a browser, an image's map of any class, against any others.

    The page is one file under 2 MB for an image of any size and asks no address for anything. It holds the class maps S_c of all classes, of
    which Grad-CAM, Finer-CAM and CASE are made as they are asked for: equal to `explain`'s to 1e-3 of the maximum, unless less than 2% of the
    class map is left after the contrast, or varies. Beside them stand logits, probabilities and, for the 10 likeliest classes, the deletion curves of the
    three maps against the 5 likeliest others. What does not fit (very many classes, a layer of many positions) is left out, the least
    likely classes first, and the page says so.

    Args:
        model: from `load` or one of the taps.
        image: one normalised image, as `model.read` gives it.
        out: the file. One that exists is replaced, and a missing folder is made.
        shown: as in `show`.
        stft: as in `show`.
        sound: the samples of which the image is the spectrogram; the page then plays what a map keeps of them, and is larger by them.

    Returns:
        The file.

    Raises:
        CaseJaxError: for a model of one class, of signals or volumes, or without probabilities; an image of another kind, or a batch; an
            image, logits or class maps that are not finite; a sound of another length than the image; a file that cannot be written.
    """
    require(isinstance(model, TappedModel), "model", type(model).__name__, TAPPED)
    require_explorable(model)
    pixels = checked_image(model, image)
    require(pixels.ndim == 3, "image", f"a batch of {len(pixels)}", "one image: a page shows one")
    require(np.isfinite(np.asarray(image)).all(), "image", "values that are not finite", "a normalised image")
    how = stft_of(model, pixels.shape, stft)
    if sound is not None:
        accepted = f"with a spectrogram of {pixels.shape[0]} frames the samples that it was made of"
        fits = how is not None and np.ndim(sound) == 1 and how.frames(len(sound)) == pixels.shape[0]
        require(fits, "sound", f"shape {np.shape(sound)}", accepted)
    file = Path(out)
    require(not file.is_dir(), "out", f"{file}, a folder", "a file, for example explore.html")
    require_writable(file.parent)
    seen = np.rint(255 * visible(np.asarray(image), model, shown)).astype(np.uint8)
    default = one_logit_names("the class") if model.one_logit else [f"class {c}" for c in range(model.num_classes)]
    names = getattr(model, "class_names", default)
    called = getattr(model, "name", "the model")
    return write_page(
        model, pixels, seen, names, file, image_name=file.stem, model_name=called, sound=how and Sound(how, sound)
    )


def write_page(
    model: TappedModel,
    image: Float[Array, "H W D"],
    pixels: UInt8[np.ndarray, "H W 3"],
    names: Sequence[str],
    file: Path,
    **titles: Any,
) -> Path:
    """The page of a normalised image, seen as these pixels; `titles` as in `write_explorer`."""
    kept, related = room_for(model.num_classes, positions(model, image))
    found = explored(model, image, kept=kept, related=related)
    return write_explorer(found, pixels, names, file, eps=EPS, **titles)

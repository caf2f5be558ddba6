"""One self-contained page that shows the map of any class of one image, against any others, live in a browser."""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from case_jax.audio import Stft
from case_jax.files import write_atomically
from case_jax.report.page import template
from case_jax.report.spectrogram import as_drawn, ticks

if TYPE_CHECKING:
    from case_jax.evaluation.explore import Explored

ROOM = 1_650_000
"""Characters for class maps and inner products on a page of 2 MB; the rest is for the image, names, logits, curves and the program."""
RELATED = 200
"""Room for the inner products of so many classes is kept before more class maps are taken."""
LONGEST, QUALITY = 512, 90
"""Of the image in the page: longer side in pixels, and JPEG's quality; the maps have the size of the classifier's image."""
LARGEST = 32767


PROGRAM = ("maps", "curves", "search", "sound", "page")
"""The files of the page's program, in their order."""


class Centred(NamedTuple):
    """Rows about their mean in 16 bits, `row_c ≈ mean + scale_c · number_c / 32767`: differences of rows keep their digits."""

    mean: Float[np.ndarray, "*n"]
    scales: Float[np.ndarray, " c"]
    numbers: Int[np.ndarray, "c *n"]


class Sound(NamedTuple):
    """The sound of a spectrogram, and how it was transformed."""

    stft: Stft
    samples: Float[np.ndarray, " L"] | None = None
    """None: the page has axes, and plays nothing."""


class InnerProducts(NamedTuple):
    """Of all pairs of class weights, about their mean μ: `⟨α_i, α_j⟩ = ‖μ‖² + with_i + with_j + length_i length_j cos_ij`."""

    squared: float
    """‖μ‖²."""
    with_mean: Float[np.ndarray, " m"]
    """`⟨μ, α_i − μ⟩`."""
    lengths: Float[np.ndarray, " m"]
    """`‖α_i − μ‖`."""
    cosines: Int[np.ndarray, " m*(m+1)/2"]
    """Of `α_i − μ` and `α_j − μ`, i ≥ j, row by row, times 32767."""


def room_for(classes: int, positions: int) -> tuple[int, int]:
    """How many likeliest classes' maps, and how many of these classes' inner products, fit the page.

    Args:
        classes: C, of the model.
        positions: of the layer's map.

    Returns:
        n and m, 2 ≤ m ≤ n ≤ C. All of 1,000 classes at 7×7 positions; from 14×14 on m is smaller than n.
    """
    room = ROOM * 3 // 4 // 2  # 16-bit numbers, four characters for three bytes
    first = min(classes, RELATED)
    kept = max(min(classes, (room - _half(first)) // positions), min(classes, 2))
    rest = max(room - kept * positions, _half(2))
    related = int((np.sqrt(8 * rest + 1) - 1) // 2)
    return kept, min(kept, related)


def _half(size: int) -> int:
    """Numbers in a triangle with its diagonal."""
    return size * (size + 1) // 2


def centred(rows: Float[np.ndarray, "c *n"]) -> Centred:
    """Rows as 16-bit numbers about their mean, errors up to `scale / 65534`; all zero where a row is the mean."""
    mean = rows.mean(0, dtype=np.float64).astype(np.float32)
    rest = rows.astype(np.float64) - mean
    scales = np.abs(rest).reshape(len(rows), -1).max(1).astype(np.float32)
    unit = np.where(scales > 0, scales, 1).reshape(-1, *(1,) * (rows.ndim - 1)).astype(np.float64)
    return Centred(mean, scales, _sixteen_bits(rest / unit))


def inner_products(weights: Float[np.ndarray, "m K"]) -> InnerProducts:
    """All pairs' inner products; cosines in 16 bits, the rest in float32."""
    exact = weights.astype(np.float64)
    mean = exact.mean(0)
    rest = exact - mean
    lengths = np.linalg.norm(rest, axis=1)
    units = rest / np.where(lengths > 0, lengths, 1)[:, None]
    cosines = (units @ units.T)[np.tril_indices(len(weights))]
    return InnerProducts(float(mean @ mean), rest @ mean, lengths, _sixteen_bits(cosines))


def _sixteen_bits(values: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    return np.rint(np.clip(values, -1, 1) * LARGEST).astype("<i2")


def write_explorer(
    found: "Explored",
    pixels: UInt8[np.ndarray, "H W 3"],
    names: Sequence[str],
    file: Path,
    *,
    eps: float,
    image_name: str,
    model_name: str,
    sound: Sound | None = None,
) -> Path:
    """Write the page atomically; returns the file.

    Args:
        found: class maps, class weights and deletion curves of one image.
        pixels: the image as the classifier sees it; the maps are enlarged to its size.
        names: of all classes.
        file: where to.
        eps: ε of CASE.
        image_name: for the title.
        model_name: for the title.
        sound: where the image is its spectrogram; it is then drawn upright, with axes, and what a map keeps can be heard.
    """
    stft = None if sound is None else sound.stft
    pixels, maps = as_drawn(pixels, found.maps, stft)
    found = found._replace(maps=maps)
    room = files("case_jax.report")
    script = "\n".join((room / f"explorer_{part}.js").read_text("utf-8") for part in PROGRAM)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = template("explorer").render(
        title=f"{image_name}: class maps of {model_name}",
        photo=_photo(pixels),
        shape=pixels.shape[:2],
        ticks=None if stft is None else _ticks(stft, pixels.shape[:2]),
        sound=sound is not None and sound.samples is not None,
        script=script,
        script_digest=digest,
        data=_harmless(json.dumps(_data(found, pixels.shape[:2], names, eps) | _heard(sound), ensure_ascii=False)),
    )
    write_atomically(file, html.encode())
    return file


def _data(found: "Explored", shape: tuple[int, ...], names: Sequence[str], eps: float) -> dict[str, Any]:
    """What the program in the page reads; classes are in the order of their logits."""
    maps, inner = centred(found.maps), inner_products(found.weights)
    curves = [[[round(p, 5) if p == p else None for p in line] for line in lines] for lines in found.curves.tolist()]
    shown = found.logits[found.classes]
    probabilities = _probabilities(found.logits, found.link)[found.classes]
    return {
        "layer": found.layer,
        "link": found.link,
        "image": list(shape),
        "space": list(found.maps.shape[1:]),
        "classCount": len(found.logits),
        "classes": found.classes.tolist(),
        "names": [names[c] for c in found.classes],
        "logits": _packed(shown, "<f4"),
        "probabilities": _packed(probabilities, "<f4"),
        "maps": {
            "mean": _packed(maps.mean, "<f4"),
            "scales": _packed(maps.scales, "<f4"),
            "numbers": _packed(maps.numbers, "<i2"),
        },
        "inner": {
            "count": len(found.weights),
            "eps": eps,
            "squared": inner.squared,
            "withMean": _packed(inner.with_mean, "<f4"),
            "lengths": _packed(inner.lengths, "<f4"),
            "cosines": _packed(inner.cosines, "<i2"),
        },
        "curves": {"rivals": found.rivals, "values": curves},
        "colours": _packed(np.rint(mpl.colormaps["inferno"](np.arange(256))[:, :3] * 255), "u1"),
    }


def _ticks(how: Stft, shape: tuple[int, int]) -> dict[str, list[tuple[float, str]]]:
    """Seconds and hertz in percent of the picture, without the zeros in its corner."""
    across, down = (list(places.items())[1:] for places in ticks(how, shape))
    height, width = shape
    return {
        "across": [(100 * place / (width - 1), words) for place, words in across],
        "down": [(100 * place / (height - 1), words) for place, words in down],
    }


def _heard(sound: Sound | None) -> dict[str, Any]:
    """What the program needs to play what a map keeps."""
    if sound is None or sound.samples is None:
        return {"sound": None}
    rate, n_fft, window, hop = sound.stft
    samples = _packed(np.asarray(sound.samples), "<f4")
    return {"sound": {"rate": rate, "nFft": n_fft, "window": window, "hop": hop, "samples": samples}}


def _probabilities(logits: Float[np.ndarray, " C"], link: str) -> Float[np.ndarray, " C"]:
    """By the model's link, as `case_jax.tap.link.probabilities`."""
    y = logits.astype(np.float64)
    if link == "sigmoid":
        return 0.5 * (1 + np.tanh(y / 2))
    shares = np.exp(y - y.max())
    return shares / shares.sum()


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _harmless(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _photo(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """The image as a data: address."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((LONGEST, LONGEST))
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

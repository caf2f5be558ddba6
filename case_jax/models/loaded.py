"""A tapped classifier that knows what its weights say: its name, its classes, and how its images are read."""

import warnings
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from case_jax._checks import CaseJaxError, require
from case_jax.audio import spectrogram
from case_jax.data import Exif, UnreadableImageError, crop_opened, read_crop, read_sound
from case_jax.data.decoding import LEFT_TURNED, TURNED
from case_jax.imageops import normalise_image
from case_jax.models.preprocessing import Preprocessing, SoundPreprocessing
from case_jax.tap.view import PROGRAM, TappedModel

FACTS = ("name", "weights", "class_names", "preprocessing", "contrast_data")


@partial(jax.tree_util.register_dataclass, data_fields=("params",), meta_fields=(*PROGRAM, *FACTS))
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LoadedModel(TappedModel):
    """A tapped model with the facts that came with its weights; see `load`."""

    name: str
    """Of the network."""
    weights: str
    """Where the weights came from, in words."""
    class_names: tuple[str, ...]
    """One per class."""
    preprocessing: Preprocessing | SoundPreprocessing
    """How an image becomes the classifier's input."""
    contrast_data: str | None = None
    """A labelled data set that is not for evaluation, on which the classifier's confusions can be counted."""

    def hear(self, sound: str | Path | Float[Array | np.ndarray, " L"]) -> Float[Array, "T F 1"]:
        """A sound as a classifier of sounds wants it: `log(1 + magnitude)` of its spectrogram.

        Args:
            sound: a WAV file, of which channels are averaged, another rate is changed, and the middle is taken or silence
                follows until it is as long as the classifier's sounds, each with a warning; or exactly so many samples in [−1, 1].

        Raises:
            CaseJaxError: for a classifier of images, a file that is missing or of another kind, or another number of samples.
        """
        facts = self.preprocessing
        if not isinstance(facts, SoundPreprocessing):
            raise CaseJaxError(
                f"model: got {self.name}, a classifier of images; accepted: one of sounds, such as sound_cnn; images by model.read."
            )
        if isinstance(sound, str | Path):
            try:
                samples, changes = read_sound(Path(sound), facts.stft, facts.samples)
            except UnreadableImageError as error:
                raise CaseJaxError(
                    f"sound: {sound} cannot be read ({error.reason}); give a WAV file, or samples."
                ) from error
            for change in changes:
                warnings.warn(f"sound: {sound} has {change}.", stacklevel=2)
        else:
            samples = np.asarray(sound)
            accepted = (
                f"{facts.samples} floating-point samples at {facts.stft.rate:,} a second, or the path of a WAV file"
            )
            proper = samples.shape == (facts.samples,) and np.issubdtype(samples.dtype, np.floating)
            require(proper, "sound", f"shape {samples.shape}, dtype {samples.dtype}", accepted)
        return normalise_image(spectrogram(samples, facts.stft), facts.mean, facts.std)

    def read(
        self, image: str | Path | Image.Image | UInt8[Array | np.ndarray, "H W *D"], *, exif: Exif = "apply"
    ) -> Float[Array, "S S 3"]:
        """An image as the classifier wants it: shorter side resized, central square cropped, `(x / 255 − mean) / std`.

        The image is what a viewer shows: turned as its EXIF orientation says, transparent pixels over white, 16-bit grey scaled by the bits
        that are in use, of frames the first. All of this but the turning comes with a warning.

        Args:
            image: an image file; a PIL image; or its uint8 pixels, (height, width) or (height, width, 3 or 4). An array is resized and
                cropped like any other image, so give the whole image and not a crop.
            exif: `ignore` leaves a photograph as it is stored, as torchvision does.

        Returns:
            float32, channels last, of the side that the weights were trained for.

        Raises:
            CaseJaxError: for a file that is missing, broken or of numbers without a known range, or an array of another kind.
        """
        facts = self.preprocessing
        if isinstance(facts, SoundPreprocessing):
            raise CaseJaxError(
                f"model: got {self.name}, a classifier of sounds; accepted: one of images; sounds by model.hear."
            )
        chosen = {"resize": facts.resize, "crop": facts.crop, "interpolation": facts.interpolation, "exif": exif}
        try:
            if isinstance(image, str | Path):
                found = read_crop(Path(image), **chosen)
            elif isinstance(image, Image.Image):
                found = crop_opened(image, "the PIL image", **chosen)
            else:
                found = crop_opened(Image.fromarray(_checked(image)), "the array", **chosen)
        except UnreadableImageError as error:
            raise CaseJaxError(
                f"image: {image if isinstance(image, str | Path) else error.name} cannot be read ({error.reason}); give an image "
                "file, a PIL image or uint8 pixels."
            ) from error
        for change in found.changes:
            if change not in (TURNED, LEFT_TURNED):  # as it was asked for
                name = image if isinstance(image, str | Path) else "the image"
                warnings.warn(f"image: {name} has {change}.", stacklevel=2)
        return normalise_image(found.pixels, facts.mean, facts.std)

    def _facts(self) -> str:
        return f"{self.name!r}, {super()._facts()}"


def with_facts(
    model: TappedModel,
    *,
    name: str,
    weights: str,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing | SoundPreprocessing,
    contrast_data: str | None,
) -> LoadedModel:
    """A tapped model with what is known of its weights."""
    program = {field.name: getattr(model, field.name) for field in fields(TappedModel)}
    return LoadedModel(
        **program,
        name=name,
        weights=weights,
        class_names=class_names,
        preprocessing=preprocessing,
        contrast_data=contrast_data,
    )


def _checked(image: object) -> np.ndarray:
    pixels = np.asarray(image)
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    require(
        pixels.dtype == np.uint8 and shaped,
        "image",
        f"{type(image).__name__} of shape {pixels.shape} and type {pixels.dtype}",
        "the path of an image file, a PIL image, or uint8 pixels (height, width) or (height, width, 3 or 4); an image that is normalised "
        "already needs no read",
    )
    return pixels

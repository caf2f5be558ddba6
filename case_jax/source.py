"""What every data source yields."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from case_jax.audio import Stft

SHARED = -1
"""Class of an evidence region that speaks for every candidate class alike."""
NOBODY = -2
"""Class of an evidence region that speaks for no candidate class, or of an empty place holder."""


class Evidence(NamedTuple):
    """Where in the image the evidence for which class lies, when that is known."""

    regions: Bool[np.ndarray, "R H W"]
    classes: Int[np.ndarray, " R"]
    """A class index, or `SHARED`, or `NOBODY`."""


class Example(NamedTuple):
    """One image with its stable id: the same id always means the same image of the source."""

    image_id: int
    name: str
    image: Num[np.ndarray, "H W D"]
    """uint8 pixels, or float32 in units of its own, such as a spectrogram (frames, frequencies, 1)."""
    label: int
    """-1 when unknown; of several true labels one."""
    evidence: Evidence | None = None
    target: Float[np.ndarray, " C"] | None = None
    """What a classifier is trained to answer, as probabilities, where that is more than the label."""
    labels: tuple[int, ...] = ()
    """All true labels where there are several, `label` among them."""
    changes: tuple[str, ...] = ()
    """What had to be decided to show the image, each in words that are the same for all images: a run counts them."""
    clusters: tuple[int, ...] = ()
    """What it shares with other images, see `Clustered`."""

    def label_for(self, predicted: int) -> int:
        """The label that a prediction is held against: the predicted class where it is one of several true ones, else `label`."""
        return int(predicted) if predicted in self.labels else self.label


class UnreadableImageError(Exception):
    """One image could not be read; the run counts it, names it and goes on."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class Source(Protocol):
    """A sequence of examples of one size; `source[i]` raises `UnreadableImageError` where image i cannot be read.

    Several threads call `source[i]` at the same time.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per label, or None when the source has no labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the images or their order change: a run is resumed only on the same data."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


class Labelled(Source, Protocol):
    """A source that knows its labels without decoding images: what a draw of as many images of each class needs."""

    def labels_of(self, indices: Int[np.ndarray, " n"], /) -> Int[np.ndarray, " n"]:
        """The labels of these images, also of those that cannot be read; −1 where unknown."""
        ...


class Clustered(Source, Protocol):
    """A source whose images are not independent: some show the same handwriting, person or photograph.

    `clusters` of every example holds the ids, from 0 on, of what it shares with others, −1 for nothing, from one id space for all; every
    example has as many. Two images are dependent when they share any id, in whichever place. Intervals and tests are then by cluster.
    """

    @property
    def unit(self) -> str:
        """What the ids count, in the plural: "handwritten strokes"."""
        ...


def unit_of(source: Source) -> str:
    """What the images of a source are independent in: what it names as its unit, else "images"."""
    return str(getattr(source, "unit", "images"))


class Photographs(Source, Protocol):
    """A source that shows its images in random views, too, as classifiers are trained on."""

    def random_view(self, index: int, rng: np.random.Generator, /) -> Example:
        """Image `index` in a view that `rng` decides; raises as `source[index]`."""
        ...


class Audible(Source, Protocol):
    """A source whose images are spectrograms, `log_magnitude(sound, stft)`, of sounds that it can give: reports play them."""

    @property
    def stft(self) -> Stft:
        """How the spectrograms are made."""
        ...

    def sound(self, index: int, /) -> Float[np.ndarray, " L"]:
        """The sound of image `index`; raises as `source[index]`."""
        ...


def stft_of(source: Source) -> Stft | None:
    """How the spectrograms of a source of sounds are made; None for images."""
    return getattr(source, "stft", None)


class Truth(NamedTuple):
    """Where the object is that an image's label names; in pixels of the image that the source gives."""

    boxes: Int[np.ndarray, "B 4"]
    """At least one box, as half-open (top, bottom, left, right); it may leave the image, where the image is a crop."""
    pixels: Bool[np.ndarray, "H W"] | None = None
    """The object's pixels; None where only boxes are known."""


class Located(Source, Protocol):
    """A source that knows where its objects are: what localisation needs beside images."""

    @property
    def truths(self) -> Sequence[str]:
        """The kinds of truth that can be asked for, the usual one first; none where nothing is known after all."""
        ...

    def truth(self, index: int, kind: str, /) -> Truth | None:
        """The truth of this kind of image `index`, None where it is not known; several threads ask at the same time."""
        ...

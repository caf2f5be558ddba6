"""Up to ten views of each photograph, as repeated measures of it: five crops, each also mirrored."""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from case_jax._checks import require
from case_jax.data import INTERPOLATIONS, Photos, read_crop
from case_jax.data.photographs import PHOTOGRAPHS
from case_jax.source import Example

MIDDLE, CORNERS = (0.5, 0.5), ((0, 0), (1, 1), (0, 1), (1, 0))
"""Of a crop, as shares of the room that it has along rows and columns."""
VIEWS = (
    (MIDDLE, False), (MIDDLE, True), *((place, number % 2 == 1) for number, place in enumerate(CORNERS)),
    *((place, number % 2 == 0) for number, place in enumerate(CORNERS)),
)  # fmt: skip
"""Places, and whether they are mirrored: the middle both ways, every corner once, every corner the other way."""


class TenCrops:
    """The photographs of `Photos` in so many views each; view v of photograph p has the id `10 p + v`, and p as its cluster.

    The shorter side is resized as for the central crop. Views are those of `VIEWS`, from the first one on.
    A view has the labels of its photograph, also where a corner cuts what they name.

    Args:
        photos: the photographs, with the classifier's preprocessing.
        resize: shorter side in pixels.
        crop: side of the crops in pixels.
        interpolation: `bilinear` or `bicubic`.
        views: how many of each.

    Raises:
        CaseJaxError: for a number of views outside [1, 10].

    Krizhevsky, Sutskever, Hinton, *ImageNet classification with deep convolutional neural networks*, NeurIPS 2012.
    """

    name, unit = "photos, ten crops", "photographs"

    def __init__(self, photos: Photos, *, resize: int, crop: int, interpolation: str, views: int = len(VIEWS)):
        require(1 <= views <= len(VIEWS), "views", views, f"1 to {len(VIEWS)} views of each photograph")
        self.photos, self.class_names, self.views = photos, photos.class_names, views
        self.resize, self.crop, self.interpolation = resize, crop, interpolation

    @property
    def fingerprint(self) -> str:
        """A digest of the photographs and the views."""
        facts = (self.photos.fingerprint, self.resize, self.crop, self.interpolation, self.views)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Number of views."""
        return self.views * len(self.photos)

    def __getitem__(self, index: int) -> Example:
        """View `index % views` of photograph `index // views`; raises `UnreadableImageError` when its file is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"view {index} of {len(self)}")
        photograph, view = divmod(index, self.views)
        true: Any = self.photos.true[photograph]
        return Example(
            photograph * len(VIEWS) + view,
            f"{PHOTOGRAPHS[photograph].name}, view {view}",
            self._view(photograph, view),
            true[0] if true else -1,
            labels=true if len(true) > 1 else (),
            clusters=(photograph,),
        )

    def _view(self, photograph: int, view: int) -> np.ndarray:
        pixels, (place, mirrored) = self._resized(photograph), VIEWS[view]
        top, left = np.round((np.array(pixels.shape[:2]) - self.crop) * place).astype(int)
        return pixels[top : top + self.crop, left : left + self.crop][:, :: -1 if mirrored else 1]

    @lru_cache  # noqa: B019 (lives as long as the experiment)
    def _resized(self, photograph: int) -> np.ndarray:
        found = read_crop(
            self.photos.files[photograph], name=PHOTOGRAPHS[photograph].name, resize=1, crop=1, channels=3
        )
        image: Image.Image = found.photograph
        scale = self.resize / min(image.size)
        size = tuple(max(self.resize, int(side * scale)) for side in image.size)
        return np.asarray(image.resize(size, INTERPOLATIONS[self.interpolation]))  # type: ignore[arg-type]

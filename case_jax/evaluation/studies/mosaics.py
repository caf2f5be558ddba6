"""Mosaics of confidently classified images: which images, drawn how, read when."""

import hashlib
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, require_seed
from case_jax.data import CachedCrops, DigitScenes
from case_jax.evaluation.batches import Batch, select, template, tiles
from case_jax.evaluation.maps import Pixels
from case_jax.evaluation.through import through_devices
from case_jax.imageops import normalise_image
from case_jax.metrics.grid_pointing import join_cells, require_grid
from case_jax.source import Evidence, Example, Source, unit_of
from case_jax.stopping import STARTS_ANEW, Stopping
from case_jax.tap.link import probabilities as linked_probabilities
from case_jax.tap.link import ranking, require_probabilities
from case_jax.tap.view import TappedModel

CONFIDENCE, SCENE_CONFIDENCE = 0.99, 0.6
"""Of the authors; and for digit scenes, whose classifier is trained to give the likeliest class 0.7."""


class Confident(NamedTuple):
    """The images that mosaics are made of."""

    indices: Int[np.ndarray, " N"]
    """Their positions in the source, ascending."""
    classes: Int[np.ndarray, " N"]
    """The class that the classifier gives each; its label, too, where it has one."""
    probabilities: Float[np.ndarray, " N"]
    counts: dict[str, int]
    """How many images were looked at, left out and why."""
    confidence: float
    """Least probability of the likeliest class."""
    highest: float
    """The highest probability of any image classified correctly (or without a label)."""


def require_confidence(confidence: float) -> None:
    """Raise unless a probability strictly between 0 and 1."""
    require(0 < confidence < 1, "confidence", confidence, "a probability between 0 and 1, for example 0.99")


def least_confidence(source: Source) -> float:
    """The probability that an image of this source must have to be used, where none is given."""
    plain = source.source if isinstance(source, CachedCrops) else source
    return SCENE_CONFIDENCE if isinstance(plain, DigitScenes) else CONFIDENCE


def confident_images(
    source: Source,
    model: TappedModel,
    pixels: Pixels,
    *,
    confidence: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    tile: int = 100,
    stall: float | None = math.inf,
) -> Confident:
    """The images that are classified correctly, or have no label, with a probability of at least `confidence`.

    Images with several true labels are left out: of the classes in a mosaic each must be shown in one cell alone.

    Args:
        source: the images.
        model: the classifier, tapped at the size of one image.
        pixels: how pixels are normalised.
        confidence: least probability of the likeliest class, in (0, 1); by default 0.99, as in Rao et al. (2022), and 0.6 for digit
            scenes, whose classifier is trained to give at most 0.7.
        limit: number of images to look at, drawn by the seed; None takes all.
        seed: see `limit`.
        tile: images per device and step.
        stall: see `grid_pointing`.

    Raises:
        CaseJaxError: for a confidence outside (0, 1) or a bad limit, or when every image has several true labels or cannot be read.
    """
    confidence = least_confidence(source) if confidence is None else confidence
    require_confidence(confidence)
    require_probabilities(model.link, argument="model", asked="confidently classified images")
    found = _looked_at(source, select(source, limit, seed), model, pixels, tile=tile, stall=stall)
    finite, right = np.isfinite(found.probabilities), (found.labels < 0) | (found.labels == found.classes)
    sure = found.probabilities >= confidence
    several = {"images with several true labels": found.several} if found.several else {}
    counts = {
        "images looked at": found.images,
        "images that could not be read": found.unreadable,
        **several,
        "images with logits that are not finite": int((~finite).sum()),
        "images classified wrongly": int((finite & ~right).sum()),
        f"images classified with a probability below {confidence:g}": int((finite & right & ~sure).sum()),
    }
    kept = finite & right & sure
    highest = float(np.max(found.probabilities[finite & right], initial=0.0))
    return Confident(found.indices[kept], found.classes[kept], found.probabilities[kept], counts, confidence, highest)


class _Looked(NamedTuple):
    """What the classifier says of the images of one label at most."""

    indices: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]
    classes: Int[np.ndarray, " N"]
    probabilities: Float[np.ndarray, " N"]
    images: int
    """How many were looked at, the unreadable ones and those of several labels among them."""
    unreadable: int
    several: int


def _looked_at(
    source: Source,
    indices: Int[np.ndarray, " n"],
    model: TappedModel,
    pixels: Pixels,
    *,
    tile: int,
    stall: float | None,
) -> _Looked:
    def likeliest(params: Any, batch: Batch) -> tuple[Array, Array]:
        images = jax.vmap(partial(normalise_image, mean=pixels.mean, std=pixels.std))(batch.images)
        logits = jax.vmap(partial(model.apply, params))(images)
        probabilities = linked_probabilities(logits, model.link)
        highest = jnp.where(jnp.isfinite(probabilities).all(-1), probabilities.max(-1), jnp.nan)
        return ranking(logits, model.link).argmax(-1), highest

    found: list[tuple[int, int, int, float]] = []
    unreadable = several = 0
    stream = tiles(source, indices, range(-(-len(indices) // tile)), template(source, indices, tile), ahead=4)
    step = parallel.over_devices(likeliest)
    with Stopping(lambda: STARTS_ANEW, stall=stall) as stopping:
        for read, (classes, probabilities) in through_devices(step, model.params, stopping.until(stream)):
            unreadable += len(read.excluded)
            for slot, example in enumerate(read.examples):
                if example is not None and example.labels:
                    several += 1
                elif example is not None:
                    at = int(indices[read.number * tile + slot])
                    found.append((at, example.label, int(classes[slot]), float(probabilities[slot])))
            stopping.finished()
    if not found:
        raise CaseJaxError(
            f"data: no image of {source.name} can be a cell of a mosaic: of {len(indices)}, {several} have several true labels and {unreadable} "
            "could not be read; give images of one class each."
        )
    columns = (np.array(column) for column in zip(*found, strict=True))
    return _Looked(*columns, images=len(indices), unreadable=unreadable, several=several)


def draw_mosaics(classes: Int[np.ndarray, " N"], *, n: int, count: int, seed: int) -> Int[np.ndarray, "M n*n"]:
    """Which images make up which mosaic: n² different classes each, no image twice in all of them.

    For every mosaic n² of the classes that still have images are drawn uniformly, then an unused image of each.

    Args:
        classes: of the images to draw from.
        n: rows and columns of a mosaic.
        count: number of mosaics asked for.
        seed: the same seed draws the same mosaics, and a larger count begins with those of a smaller one.

    Returns:
        Positions in `classes`, in row-major order of the cells; fewer mosaics than asked for when fewer than n² classes have
        unused images.

    Raises:
        CaseJaxError: for n below 2, a count below 1 or a bad seed.
    """
    require_grid(n)
    require(count >= 1, "mosaics", count, "a number of mosaics of at least 1")
    require_seed(seed)
    rng = np.random.default_rng(seed)
    pools = {int(c): rng.permutation(np.flatnonzero(classes == c)).tolist() for c in np.unique(classes)}
    drawn = []
    while len(drawn) < count:
        left = [c for c, pool in pools.items() if pool]
        if len(left) < n * n:
            break
        drawn.append([pools[c].pop() for c in rng.permutation(left)[: n * n].tolist()])
    return np.array(drawn, np.int64).reshape(-1, n * n)


class Mosaics:
    """Mosaics as a source; the evidence of a mosaic are its cells, each for the class that it shows, and it shares what its images share.

    Args:
        source: the images.
        chosen: those to draw from.
        drawn: positions in `chosen`, from `draw_mosaics`.
    """

    class_names = None

    def __init__(self, source: Source, chosen: Confident, drawn: Int[np.ndarray, "M n*n"]):
        self.source, self.chosen, self.drawn = source, chosen, drawn
        self.unit = "mosaics" if unit_of(source) == "images" else unit_of(source)

    @property
    def name(self) -> str:
        """The source's name in messages."""
        return f"mosaics of {self.source.name}"

    @property
    def fingerprint(self) -> str:
        """A digest of the images and of which are where."""
        digest = hashlib.sha256(self.source.fingerprint.encode())
        digest.update(self.chosen.indices[self.drawn].tobytes())
        return digest.hexdigest()[:16]

    def cells(self, index: int) -> Int[np.ndarray, " n*n"]:
        """Positions in the source of a mosaic's images."""
        return self.chosen.indices[self.drawn[index]]

    def __len__(self) -> int:
        """Number of mosaics."""
        return len(self.drawn)

    def __getitem__(self, index: int) -> Example:
        """Mosaic `index`; raises `UnreadableImageError` when one of its images can no longer be read."""
        examples = [self.source[int(i)] for i in self.cells(index)]
        images = np.stack([example.image for example in examples])
        numbers = np.arange(len(images))
        where = np.broadcast_to(numbers[:, None, None, None], (*images.shape[:3], 1))
        regions = join_cells(where)[None, :, :, 0] == numbers[:, None, None]
        classes = self.chosen.classes[self.drawn[index]].astype(np.int32)
        name = " | ".join(example.name for example in examples)
        changes = tuple(change for example in examples for change in example.changes)
        shared = tuple(number for example in examples for number in example.clusters)
        return Example(
            index, name, join_cells(images), -1, Evidence(regions, classes), changes=changes, clusters=shared
        )


def make_mosaics(source: Source, chosen: Confident, *, n: int, count: int, seed: int, confidence: float) -> Mosaics:
    """Draw mosaics, or say why there can be none.

    Raises:
        CaseJaxError: when fewer than n² classes have confidently classified images, or as `draw_mosaics`.
    """
    need, known = n * n, len(np.unique(chosen.classes))
    if known < need:
        raise CaseJaxError(
            f"confidence: a mosaic of {n}×{n} needs images of {need} different classes, but only {known} classes of "
            f"{source.name} have an image classified correctly with a probability of at least {confidence:g} (the highest found "
            f"is {chosen.highest:.3f}); give a lower confidence, more images or a smaller n."
        )
    return Mosaics(source, chosen, draw_mosaics(chosen.classes, n=n, count=count, seed=seed))

"""Which classes does a method fail to tell apart? Mean agreement of the maps of every pair of classes, streamed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require
from case_jax.contrast.sets import ContrastSet
from case_jax.evaluation.step import Batch, Pixels, Protocol, image_key, maps_of_view
from case_jax.evaluation.stream import select, template, through_devices, tiles
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.ranking import pixel_count, top_mask
from case_jax.source import Source
from case_jax.tap.view import TappedModel


class Sweep(NamedTuple):
    """Mean top-k% agreement per pair of classes."""

    methods: tuple[str, ...]
    agreement: Float[np.ndarray, "M C C"]
    """NaN for pairs that never occurred."""
    images: Int[np.ndarray, "M C C"]
    """How many images each mean is over."""
    degenerate: Int[np.ndarray, " M"]
    """Maps left out because they rank nothing."""
    excluded: list[dict[str, Any]]
    """Images that could not be read."""


def pair_overlaps(maps: Float[Array, "T H W"], count: int) -> Int[Array, "T T"]:
    """`|T_a ∩ T_b|` for all pairs of maps, with T the `count` highest-ranked pixels."""
    tops = jax.vmap(partial(top_mask, count=count))(maps).reshape(len(maps), -1).astype(jnp.float32)
    return jnp.einsum("ap,bp->ab", tops, tops, precision=jax.lax.Precision.HIGHEST).astype(jnp.int32)


def sweep(
    source: Source,
    model: TappedModel,
    contrast: ContrastSet,
    methods: Mapping[str, MapFunction],
    *,
    pixels: Pixels,
    top: int | None = None,
    agreement_percent: float = 5.0,
    limit: int | None = None,
    seed: int = 0,
    tile: int = 16,
    progress: bool | None = None,
) -> Sweep:
    """The mean agreement matrix over a data set.

    Args:
        source: the images; labels are not needed.
        model: the classifier, tapped.
        contrast: contrast sets of the contrastive methods.
        methods: map functions by name.
        pixels: how pixels are normalised.
        top: pairs among this many likeliest classes of each image (2 is the class-sensitivity diagnostic); None takes all
            pairs of all classes.
        agreement_percent: k, in percent of the pixels.
        limit: number of images, drawn by the seed; None takes all.
        seed: see `plan`.
        tile: images per device and step.
        progress: show a bar; None shows it in a terminal.

    Raises:
        CaseJaxError: for `top` outside [2, C], or bad percentages or limits.
    """
    classes = model.num_classes
    top = classes if top is None else top
    require(2 <= top <= classes, "top", top, f"a number of classes from 2 to {classes}")
    indices = select(source, limit, seed)
    empty = template(source, indices, tile)
    count = pixel_count(agreement_percent, empty.images.shape[1:3])
    protocol = Protocol(methods, contrast, {}, {}, pixels, seed)

    def one(params: Any, image: Array, image_id: Array) -> tuple[Array, Array, Array]:
        view = model.view_all(params, normalise_image(image, *pixels))
        targets = jax.lax.top_k(view.logits, top)[1]
        maps, degenerate = maps_of_view(protocol, view, targets, image_key(seed, image_id))
        return targets, jax.lax.map(lambda m: pair_overlaps(m, count), maps), degenerate

    def step(params: Any, batch: Batch) -> tuple[Array, Array, Array]:
        return jax.vmap(partial(one, params))(batch.images, batch.image_ids)

    shape = (len(methods), classes, classes)
    overlap, images, degenerate = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(len(methods), np.int64)
    excluded: list[dict[str, Any]] = []
    stream = tiles(source, indices, range(-(-len(indices) // tile)), empty, ahead=4)
    with tqdm(
        total=len(indices), unit=" images", desc="sweep", disable=None if progress is None else not progress
    ) as bar:
        for read, (targets, overlaps, flat) in through_devices(parallel.over_devices(step), model.params, stream):
            excluded += read.excluded
            for slot, example in enumerate(read.examples):
                if example is None:
                    continue
                rows, columns = np.meshgrid(targets[slot], targets[slot], indexing="ij")
                usable = ~(flat[slot][:, :, None] | flat[slot][:, None, :])
                overlap[:, rows, columns] += np.where(usable, overlaps[slot], 0)
                images[:, rows, columns] += usable
                degenerate += flat[slot].sum(1)
                bar.update()
            bar.update(len(read.excluded))
    with np.errstate(invalid="ignore"):
        agreement = np.where(images > 0, overlap / np.maximum(images, 1) / count, np.nan)
    return Sweep(tuple(methods), agreement, images, degenerate, excluded)


def confused_pairs(found: Sweep, class_names: Sequence[str], *, most: int = 20) -> pd.DataFrame:
    """The pairs of classes that each method tells apart least: method, classes, mean agreement, images."""
    first, second = np.triu_indices(found.agreement.shape[1], k=1)
    frames = [
        pd.DataFrame(
            {
                "method": name,
                "class_a": [class_names[int(i)] for i in first],
                "class_b": [class_names[int(i)] for i in second],
                "agreement": matrix[first, second],
                "images": images[first, second],
            }
        )
        .dropna()
        .sort_values(["agreement", "images"], ascending=False, kind="stable")
        .head(most)
        for name, matrix, images in zip(found.methods, found.agreement, found.images, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)

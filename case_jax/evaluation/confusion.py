"""A classifier's confusions, counted in one pass over a labelled split."""

import math
from functools import partial
from typing import Any

import jax
import numpy as np

from case_jax import parallel
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import Confusions
from case_jax.evaluation.batches import Batch, template, through_devices, tiles
from case_jax.evaluation.maps import Pixels
from case_jax.imageops import normalise_image
from case_jax.source import Source
from case_jax.stopping import STARTS_ANEW, Stopping
from case_jax.tap.view import TappedModel


def count_confusions(
    source: Source, model: TappedModel, pixels: Pixels, *, tile: int = 100, stall: float | None = math.inf
) -> Confusions:
    """Confusion counts and mean softmax outputs per true class.

    Args:
        source: labelled images that are not those to be evaluated; images without a label or unreadable ones are left out.
        model: the classifier.
        pixels: how pixels are normalised.
        tile: images per device and step.
        stall: minutes in which no batch finishes after which the process ends, see `case_jax.stall`.

    Returns:
        Counts (C, C), rows = true class, and mean probabilities (C, C); zero rows for classes without images.

    Raises:
        CaseJaxError: when no image has a label.
    """
    indices = np.arange(len(source))
    empty = template(source, indices, tile)

    def probabilities(params: Any, batch: Batch) -> jax.Array:
        images = jax.vmap(partial(normalise_image, mean=pixels.mean, std=pixels.std))(batch.images)
        return jax.nn.softmax(jax.vmap(partial(model.apply, params))(images))

    counts = np.zeros((model.num_classes, model.num_classes), np.int64)
    sums = np.zeros((model.num_classes, model.num_classes), np.float64)
    stream = tiles(source, indices, range(-(-len(indices) // tile)), empty, ahead=4)
    step = parallel.over_devices(probabilities)
    with Stopping(lambda: STARTS_ANEW, stall=stall) as stopping:
        for read, found in through_devices(step, model.params, stopping.until(stream)):
            slots = [(i, e.label) for i, e in enumerate(read.examples) if e is not None and e.label >= 0]
            if slots:
                at, labels = np.array(slots).T
                np.add.at(counts, (labels, found[at].argmax(-1)), 1)
                np.add.at(sums, labels, found[at].astype(np.float64))
            stopping.finished()
    if not counts.any():
        raise CaseJaxError(
            f"contrast: none of the {len(source)} images of {source.name} has a label; confusions cannot be counted there."
        )
    mean = sums / np.maximum(counts.sum(1, keepdims=True), 1)
    return Confusions(counts, mean, f"{source.name} ({counts.sum()} images)", source.fingerprint)

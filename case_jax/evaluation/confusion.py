"""A classifier's confusions, counted in one pass over a labelled split, or read where they have been counted before."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, require_seed
from case_jax.contrast.choice import Confusions
from case_jax.evaluation.batches import Batch, Tile, template, tiles
from case_jax.evaluation.class_draw import Drawn, draw_by_class
from case_jax.evaluation.confusion_sums import ConfusionSums, fraction_bits, total
from case_jax.evaluation.identity import numerics
from case_jax.evaluation.kept_confusions import KeptConfusions
from case_jax.evaluation.maps import Pixels
from case_jax.evaluation.subject import require_fitting
from case_jax.evaluation.through import through_devices
from case_jax.imageops import normalise_image
from case_jax.results import fingerprint, wait_until
from case_jax.source import Source
from case_jax.stopping import Stopping
from case_jax.tap.link import probabilities, ranking, require_probabilities
from case_jax.tap.view import TappedModel

IMAGES, TILE, SAVE_SECONDS = 5000, 32, 60.0
FOLDER = "confusions"
UNREADABLE, NO_LABEL, NOT_FINITE = "could not be read", "no label", "logits that are not finite"
LOG = logging.getLogger(__name__)


class _Counting(NamedTuple):
    """A counting that has been checked and can start."""

    source: Source
    model: TappedModel
    pixels: Pixels
    tile: int
    save_seconds: float
    stall: float | None
    progress: bool | None


class _Answers(NamedTuple):
    """What the classifier says of a batch."""

    probabilities: Any
    ranking: Any


def count_confusions(
    source: Source,
    model: TappedModel,
    pixels: Pixels,
    *,
    limit: int = IMAGES,
    seed: int = 0,
    tile: int = TILE,
    folder: Path | None = None,
    model_name: str = "custom",
    save_seconds: float = SAVE_SECONDS,
    stall: float | None = math.inf,
    progress: bool | None = None,
) -> Confusions:
    """Confusion counts and mean probabilities (by the model's link) per true class, over images drawn as `draw_by_class` says.

    An image of several true labels counts in the row of each, as if the others were no classes: its likeliest class but these, their
    probabilities as 0.

    Both are sums of integers (probabilities as multiples of 2^−q, see `fraction_bits`), so that they have the same bits on any number of
    devices and processes. With a folder they are kept in `folder/confusions/DIGEST`, and the same call counts nothing again, whatever
    layer the classifier is tapped at: another classifier, other data or other settings have another digest. Of several processes
    (`parallel.join`) each then counts its share; without a folder every one counts everything. SIGTERM and Ctrl-C end the counting after
    the batch in hand, which is kept.

    Args:
        source: labelled images that are not those to be evaluated; those without a label, those that cannot be read, and those with logits
            that are not finite are left out and listed.
        model: the classifier; of `at_precision`, where its passes are to have fewer bits.
        pixels: how pixels are normalised.
        limit: number of images at most.
        seed: for drawing them.
        tile: images per device and step.
        folder: where counts are kept; where all processes see it; None keeps nothing.
        model_name: tells classifiers apart that have the same weights.
        save_seconds: how often counts are written, and what a killed counting loses at most.
        stall: minutes in which no batch finishes after which the process ends, see `case_jax.stall`.
        progress: show a bar; None shows it in a terminal.

    Returns:
        Counts (C, C), rows = true class, and mean probabilities (C, C).

    Raises:
        CaseJaxError: for bad numbers, a classifier of other classes, when no image can be counted, as `draw_by_class`, or for a folder
            that cannot be written or holds another counting. Damaged files in it are named, and their images counted again.
    """
    require_seed(seed)
    require(tile >= 1, "tile", tile, "at least 1 image per device and step")
    require_fitting(source, model, pixels)
    require_probabilities(model.link, argument="model", asked="confusions")
    classes = model.num_classes
    require(limit >= classes, "limit", limit, f"at least {classes} images, one of each class")
    draw = partial(draw_by_class, source, limit, seed, classes, progress=progress)
    counting = _Counting(source, model, pixels, tile, save_seconds, stall, progress)
    data = {"name": source.name, "fingerprint": source.fingerprint, "images": len(source)}
    if folder is None:
        drawn, sums = draw(), ConfusionSums.none(classes)
        _count(counting, drawn, range(_tiles(drawn, tile)), sums, None)
    else:
        facts = {
            "data": data,
            "model": {"name": model_name, "weights": fingerprint(jax.tree.leaves(model.params)), "classes": classes},
            "pixels": pixels._asdict(),
            "precision": model.precision,
            "link": model.link,
            "limit": min(limit, len(source)),
            "seed": seed,
            "tile": tile,
            "numerics": numerics(),
        }
        drawn, sums = _shared(counting, KeptConfusions(folder / FOLDER, facts), draw)
    return _found(source.name, data["fingerprint"], drawn, sums)


def _tiles(drawn: Drawn, tile: int) -> int:
    return -(-len(drawn.indices) // tile)


def _shared(counting: _Counting, kept: KeptConfusions, draw: Callable[[], Drawn]) -> tuple[Drawn, ConfusionSums]:
    """This process's share of what is missing, and then the sums of all."""
    (number, count), classes = parallel.process(), counting.model.num_classes
    if number == 0:
        kept.prepare(draw)
    parallel.meet("the images that confusions are counted on are drawn")
    drawn, held = kept.drawn(), kept.sums()
    parallel.meet("all have seen which of them are counted")
    numbers, done = range(_tiles(drawn, counting.tile)), {t for sums in held.values() for t in sums.tiles}
    todo = [t for t in numbers if t not in done]
    if not todo:
        LOG.info("confusions: counted before, kept in %s", kept.folder)
    if mine := todo[number::count]:
        sums = held.setdefault(number, ConfusionSums.none(classes))
        _count(counting, drawn, mine, sums, lambda: kept.write(number, sums))
    if count > 1:
        wait_until(lambda: kept.tiles_counted() == len(numbers))
        held = kept.sums()
    return drawn, total(held.values(), classes)


def _count(
    counting: _Counting, drawn: Drawn, numbers: Sequence[int], sums: ConfusionSums, save: Callable[[], None] | None
) -> None:
    """Count these tiles into the sums."""
    source, model, pixels, size, save_seconds, stall, progress = counting
    indices, bits, adding = drawn.indices, fraction_bits(len(drawn.indices)), Lock()

    def answers(params: Any, batch: Batch) -> _Answers:
        images = jax.vmap(partial(normalise_image, mean=pixels.mean, std=pixels.std))(batch.images)
        logits = jax.vmap(partial(model.apply, params))(images)
        return _Answers(probabilities(logits, model.link), ranking(logits, model.link))

    def keep() -> str:
        if save is None:
            return "confusions are not kept, as there is no folder"
        with adding:
            save()
        return "confusions counted so far are kept, and the same command goes on from there"

    lengths = {t: min(size, len(indices) - t * size) for t in numbers}
    missing, saved = sum(lengths.values()), time.monotonic()
    stream = tiles(source, indices, numbers, template(source, indices, size), ahead=2 * parallel.device_count())
    hidden = None if progress is None else not progress
    bar = tqdm(total=len(indices), initial=len(indices) - missing, unit=" images", desc="confusions", disable=hidden)
    with bar, Stopping(keep, stall=stall) as stopping:
        for read, found in through_devices(parallel.over_devices(answers), model.params, stopping.until(stream)):
            with adding:
                _add(sums, read, found, indices[read.number * size :], bits)
            stopping.finished()
            bar.update(lengths[read.number])
            if save is not None and time.monotonic() - saved >= save_seconds:
                save()
                saved = time.monotonic()
        if save is not None:
            save()


def _add(sums: ConfusionSums, read: Tile, found: _Answers, indices: np.ndarray, bits: int) -> None:
    """Add one tile, whose slots hold these images, and list which of them are left out, and why."""
    finite = np.atleast_1d(np.isfinite(found.probabilities).all(-1))
    rows, predicted, labels = [], [], []
    for slot, example in enumerate(read.examples):
        if example is None:
            continue
        kind = NO_LABEL if example.label < 0 else None if finite[slot] else NOT_FINITE
        if kind is not None:
            entry = {"index": int(indices[slot]), "name": example.name, "reason": kind, "kind": kind}
            sums.left_out.append(entry)
            continue
        accepted = f"a label from 0 to {len(sums.confused) - 1}, the classifier's classes, or −1 for none"
        require(
            example.label < len(sums.confused), "contrast_data", f"{example.name} with label {example.label}", accepted
        )
        true = example.labels or (example.label,)
        for label in true:
            others = [other for other in true if other != label]
            row, ranked = found.probabilities[slot].copy(), found.ranking[slot].copy()
            row[others], ranked[others] = 0.0, -np.inf
            rows.append(row)
            predicted.append(ranked.argmax())
            labels.append(label)
    if rows:
        sums.add_images(np.array(labels), np.array(predicted), np.stack(rows), bits)
    sums.left_out += [{**entry, "kind": UNREADABLE} for entry in read.excluded]
    sums.tiles.append(read.number)


def _found(name: str, fingerprint: str, drawn: Drawn, sums: ConfusionSums) -> Confusions:
    """What was counted, in words and numbers."""
    images = sums.confused.sum(1)
    if not images.any():
        raise CaseJaxError(
            f"contrast: none of the {len(drawn.indices)} images of {name} has a label and finite logits; confusions cannot be counted "
            "there."
        )
    words = f"{name} ({images.sum():,} images, {images.min():,} to {images.max():,} of a class)"
    means = sums.means(fraction_bits(len(drawn.indices)))
    left_out = sorted(sums.left_out, key=lambda entry: entry["index"])
    return Confusions(sums.confused, means, words, fingerprint, left_out, drawn.unlabelled)

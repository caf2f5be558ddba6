"""A few images with all methods' maps, kept for the report."""

import io
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Int

from case_jax import parallel
from case_jax.evaluation.batches import load_tile, template
from case_jax.evaluation.engine import Job
from case_jax.evaluation.maps import image_key, maps_of_view, shown_probabilities, view_for_targets
from case_jax.files import write_atomically
from case_jax.imageops import as_pixels, normalise_image, picture
from case_jax.results import RunFolder
from case_jax.source import Audible, Example, Source, stft_of

IMAGES, SOUNDS = 6, 3
LIKELIEST, REGIONS = "likeliest", "regions"


def save_gallery(
    job: Job, folder: RunFolder, *, count: int | None = None, of: str = LIKELIEST, shown: Sequence[int] | None = None
) -> None:
    """Write `gallery.npz`: `count` of the images, drawn by the seed, with all methods' maps (computed anew, one image at a time).

    Args:
        job: what was run.
        folder: its run folder.
        count: number of images, by default 6, of sounds 3; unreadable ones among those drawn are left out.
        of: which classes' maps: of the two `likeliest`, or of those of the image's `regions`.
        shown: the channels that pictures show, see `imageops.picture`.

    Raises:
        CaseJaxError: for channels that the images do not have.
    """
    if count is None:
        count = IMAGES if stft_of(job.images.source) is None else SOUNDS
    source, indices, question = job.images.source, job.images.indices, job.question
    drawn = np.sort(np.random.default_rng(question.seed).permutation(len(indices))[:count])
    tile = load_tile(source, indices[drawn], 0, template(source, indices, len(drawn)))
    kept = [slot for slot, example in enumerate(tile.examples) if example is not None]
    examples = [tile.examples[slot] for slot in kept]

    @parallel.on_one_device
    def one(given: Any, image: Array, image_id: Array, classes: Array) -> dict[str, Array]:
        params, carried = given
        view = view_for_targets(job.model, params, normalise_image(image, *question.pixels))
        targets = classes if of == REGIONS else jax.lax.top_k(view.logits, 2)[1]
        maps, degenerate = maps_of_view(question.carrying(carried), view, targets, image_key(question.seed, image_id))
        probabilities = shown_probabilities(view.logits, view.link)[targets]
        return {"maps": maps, "degenerate": degenerate, "targets": targets, "probabilities": probabilities}

    batch, given = tile.batch, (job.model.params, question.carried())
    found = [one(given, batch.images[s], batch.image_ids[s], batch.region_classes[s]) for s in kept]
    arrays = {
        "images": picture(as_pixels(batch.images[kept]), shown),
        **_sounds(source, [e for e in examples if e], indices[drawn][kept]),
        "regions": batch.regions[kept],
        "region_classes": batch.region_classes[kept],
        "names": np.array([e.name for e in examples if e], str),
        "labels": _labels([e for e in examples if e]),
        "methods": np.array(list(question.methods), str),
        **({} if not found else jax.tree.map(lambda *a: np.stack(a), *found)),
    }
    if found:
        arrays["maps"] = arrays["maps"].astype(np.float16)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder.path / "gallery.npz", buffer.getvalue())


def _sounds(source: Source, examples: Sequence[Example], indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """The sounds of the images; none of a source of images."""
    if stft_of(source) is None or not examples:
        return {}
    return {"sounds": np.stack([cast(Audible, source).sound(int(i)) for i in indices])}


def _labels(examples: Sequence[Example]) -> Int[np.ndarray, "n L"]:
    """All true labels of each image, −1 where it has fewer than another."""
    known = [example.labels or (example.label,) for example in examples]
    most = max(map(len, known), default=1)
    return np.array([(*labels, *(-1,) * (most - len(labels))) for labels in known], np.int32).reshape(-1, most)

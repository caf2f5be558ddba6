"""A few images with all methods' maps, kept for the report."""

import io

import numpy as np

from case_jax import parallel
from case_jax.evaluation.planning import Plan
from case_jax.evaluation.step import image_maps
from case_jax.evaluation.stream import load_tile, template
from case_jax.results import RunFolder, write_atomically


def save_gallery(planned: Plan, folder: RunFolder, *, count: int = 6) -> None:
    """Write `gallery.npz`: `count` of the evaluated images, drawn by the seed, with all methods' maps (computed anew, one image at a time).

    Args:
        planned: the evaluation.
        folder: its run folder.
        count: number of images; unreadable ones among those drawn are left out.
    """
    drawn = np.random.default_rng(planned.protocol.seed).permutation(len(planned.indices))[:count]
    indices = planned.indices[np.sort(drawn)]
    tile = load_tile(planned.source, indices, 0, template(planned.source, planned.indices, len(indices)))
    kept = [slot for slot, example in enumerate(tile.examples) if example is not None]
    examples = [tile.examples[slot] for slot in kept]
    protocol = planned.protocol._replace(metrics={})  # maps of the two likeliest classes, whatever else was scored
    one = parallel.on_one_device(lambda *args: image_maps(protocol, planned.model, *args)[1])
    found = [one(planned.model.params, tile.batch.images[slot], tile.batch.image_ids[slot]) for slot in kept]
    arrays = {
        "images": tile.batch.images[kept],
        "regions": tile.batch.regions[kept],
        "region_classes": tile.batch.region_classes[kept],
        "names": np.array([e.name for e in examples if e], str),
        "labels": np.array([e.label for e in examples if e], np.int32),
        "methods": np.array(list(planned.protocol.methods), str),
        "maps": _stacked(found, "maps", len(kept)).astype(np.float16),
        "degenerate": _stacked(found, "degenerate", len(kept)),
        "targets": _stacked(found, "targets", len(kept)),
        "probabilities": _stacked(found, "probabilities", len(kept)),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(folder.path / "gallery.npz", buffer.getvalue())


def _stacked(found: list, field: str, count: int) -> np.ndarray:
    return np.stack([np.asarray(getattr(f, field)) for f in found]) if count else np.zeros((0,), np.float32)

"""Agreement, removed regions and their cost in confidence, from the reference's own maps; class lists and Wilcoxon's test."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import agreement, confusion_sets
from case_jax.ranking import pixel_count, top_mask
from case_jax.stats import below
from experiments.parity.compare import Line, absolute, exact, not_compared, pixels
from experiments.parity.goldens import Arrays, Network

LISTS = "class lists and tests"


def stored_maps(names: list[str], maps: Arrays, case: Arrays) -> np.ndarray:
    """The reference's finished maps in the order of its tables: (methods, images, targets, H, W)."""
    found = [case[f"{n[5:]}/maps"] if n.startswith("case_") else maps[f"final/{n}"] for n in names]
    return np.maximum(np.nan_to_num(np.stack(found)), 0)


def eval_lines(network: Network, stored: Arrays, maps: np.ndarray) -> Iterator[Line]:
    """Top-5% agreement, the top 50% that is removed, and the confidence before and after."""
    name, shape = network.name, maps.shape[-2:]
    pairs = jax.jit(jax.vmap(jax.vmap(lambda a, b: agreement(a, b).F)))(maps[:, :, 0], maps[:, :, 1])
    yield pixels(name, "agreement at 5%", pairs, stored["agree5_first"] / 100, pixel_count(5, shape))
    count = pixel_count(50, shape)
    flat = jnp.asarray(maps.reshape(-1, *shape))
    masks = np.asarray(jax.jit(jax.vmap(lambda m: top_mask(m, count)))(flat)).reshape(maps.shape)
    yield exact(name, "removed region", masks, _unpacked(stored["top50_mask_first"], maps.shape))

    before = _confidences(network, np.zeros((1, *maps.shape[1:]), bool))[0]
    yield absolute(name, "confidence before", before, stored["conf_before"], 3e-5)
    regions = {"": _unpacked(stored["top50_mask"], maps.shape), "_first": masks}
    if shape[0] == shape[1]:
        regions["_swapped"] = regions[""].swapaxes(-1, -2)
    else:
        yield not_compared(name, "confidence after_swapped", "transposed regions are defined for square images only")
    for suffix, region in regions.items():
        after = _confidences(network, region)
        yield absolute(name, f"confidence after{suffix}", after, stored[f"conf_after{suffix}"], 3e-5)
        drop = np.maximum(before - after, 0) / before
        yield absolute(name, f"drop{suffix}", drop, stored[f"drop{suffix}"], 2e-4)


def _unpacked(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.unpackbits(packed, axis=-1)[..., : shape[-2] * shape[-1]]
    return bits.reshape(shape).astype(bool)


def _confidences(network: Network, regions: np.ndarray) -> np.ndarray:
    """Probability of every target after its region (methods, images, targets, H, W) is set to zero."""
    images, targets = network.images(), jnp.asarray(network.arrays["targets"])
    model = network.tap(images[0])

    def one(x: Any, region: Any, target: Any) -> Any:
        return jax.nn.softmax(model.apply(model.params, jnp.where(region[..., None], 0.0, x)))[target]

    per_target = jax.vmap(one, (None, 0, 0))
    per_image = jax.jit(jax.vmap(per_target, (0, 0, 0)))
    return np.stack([np.asarray(per_image(images, jnp.asarray(region), targets)) for region in regions])


def list_lines(stored: Arrays) -> Iterator[Line]:
    """Contrast lists from confusion matrices, agreement of tie-free maps, Wilcoxon's signed-rank test."""
    matrix, sparse = stored["conf_matrix"], stored["conf_sparse"]
    order = [int(key[10:]) for key in stored if key.startswith("contrast_k")]
    for k in order:
        yield exact(LISTS, f"contrast, k={k}", confusion_sets(matrix, k).indices, stored[f"contrast_k{k}"])
        # the reference fills rows with too few confusions in the order of its sort: only confused classes are determined
        ours = confusion_sets(sparse, k, mean_probabilities=np.full_like(sparse, 1 / len(sparse))).indices
        known = np.take_along_axis(np.where(np.eye(len(sparse)), 0, sparse), ours, 1) > 0
        theirs = np.where(known, stored[f"contrast_sparse_k{k}"], -1)
        yield exact(LISTS, f"contrast where determined, sparse, k={k}", np.where(known, ours, -1), theirs)
    maps = jnp.asarray(stored["agree_maps"].astype(np.float32) / 8192)
    for i, percent in enumerate(stored["agree_percent"]):
        count = pixel_count(float(percent), maps.shape[-2:])
        yield exact(LISTS, f"pixels at {percent:g}%", count, stored["agree_npix"][i])
        found = jax.vmap(lambda pair, p=float(percent): agreement(pair[0], pair[1], percent=p).F)(maps)
        yield pixels(LISTS, f"agreement at {percent:g}%", found, stored["agree"][:, i] / 100, count)
    for scores in ("scores", "scores_ties"):
        for theta in (50, 70):
            found = below(stored[scores], theta)
            yield exact(LISTS, f"Wilcoxon, {scores}, {theta}", found[:2], stored[f"{scores}_wilcoxon{theta}"])

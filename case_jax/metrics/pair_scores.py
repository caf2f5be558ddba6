"""What tells two classes apart in a classifier's logits, and both from the rest; and where a mask is moved to as its own control."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from case_jax._checks import require
from case_jax.metrics.perturb import perturbed_logits
from case_jax.ranking import pixel_count, top_mask
from case_jax.tap.link import require_classes
from case_jax.tap.view import View, at_least_float32

SHIFT = 1
"""What is folded into an image's key to draw the shift; the key itself draws the fill `noise`."""


class PairScores(NamedTuple):
    """Of logits z and two classes A and B."""

    margin: Float[Array, "*n"]
    """`m = z_A − z_B`."""
    odds: Float[Array, "*n"]
    """`L = logsumexp(z_A, z_B) − logsumexp(the others)`; NaN where it means nothing, see `has_odds`."""


def has_odds(view: View) -> bool:
    """Whether there are other classes than two, and outputs that are logits: with two classes nothing is left to hold the pair against."""
    return view.logits.shape[0] > 2 and view.link != "identity"


def pair_scores(view: View, logits: Float[Array, "*n C"], targets: Int[Array, "2"]) -> PairScores:
    """The scores of these logits of the view's model, in float32 at least; NaN for a traced class that the model does not have."""
    z, classes = at_least_float32(logits), logits.shape[-1]
    own = jnp.where(((targets >= 0) & (targets < classes)), jnp.take(z, targets, axis=-1, mode="clip"), jnp.nan)
    margin = own[..., 0] - own[..., 1]
    if not has_odds(view):
        return PairScores(margin, jnp.full_like(margin, jnp.nan))
    of_pair = (jnp.arange(classes) == targets[:, None]).any(0)
    others = jax.nn.logsumexp(jnp.where(of_pair, -jnp.inf, z), axis=-1)
    return PairScores(margin, jax.nn.logsumexp(own, axis=-1) - others)


def require_two(view: View, maps: Array, targets: Int[Array, "2"]) -> None:
    """Raise unless there are finished maps of the image's size of two classes, which exist and differ where they are known."""
    shape = view.image.shape[:-1]
    accepted = f"two finished maps of the image's size, shape {(2, *shape)}"
    require(maps.shape == (2, *shape), "maps", f"shape {maps.shape}", accepted)
    require(jnp.shape(targets) == (2,), "targets", f"shape {jnp.shape(targets)}", "two classes, those of the two maps")
    require_classes("targets", targets, view.logits.shape[0])
    if not isinstance(targets, Tracer):
        first, second = np.asarray(targets).tolist()
        require(first != second, "targets", f"{first} twice", "two different classes")


def top_masks(maps: Float[Array, "n *space"], counts: Int[Array, " P"]) -> Bool[Array, "P n *space"]:
    """The highest-ranked pixels of every map, for every count."""
    return jax.vmap(lambda count: jax.vmap(lambda one: top_mask(one, count))(maps))(counts)


def counts_of(percents: tuple[float, ...], shape: tuple[int, ...]) -> Int[Array, " P"]:
    """How many pixels these percentages are; raises as `pixel_count`."""
    return jnp.asarray([pixel_count(percent, shape) for percent in percents])


def shift_of(key: Key[Array, ""], shape: tuple[int, ...]) -> Int[Array, " S"]:
    """How far a mask is moved along each axis: uniform over ⌈n/4⌉, …, n − ⌈n/4⌉, so at least a quarter of the side either way around; 0 along an axis of one pixel."""
    offsets = [jnp.int32(0)] * len(shape)
    for place, axis in enumerate(axis for axis, side in enumerate(shape) if side > 1):
        quarter = math.ceil(shape[axis] / 4)
        drawn = jax.random.fold_in(key, place)
        offsets[axis] = jax.random.randint(drawn, (), quarter, shape[axis] - quarter + 1, jnp.int32)
    return jnp.stack(offsets)


def offsets_of(view: View, key: Key[Array, ""] | None) -> Int[Array, " S"] | None:
    """How far an image's masks are moved; None without a key, and where log-odds against the rest mean nothing."""
    if key is None or not has_odds(view):
        return None
    return shift_of(jax.random.fold_in(key, SHIFT), view.image.shape[:-1])


def shifted(masks: Bool[Array, "*n_space"], offsets: Int[Array, " S"]) -> Bool[Array, "*n_space"]:
    """Masks moved along their spatial axes, the last ones; what leaves the image on one side comes in on the other, so none loses a pixel."""
    space = len(offsets)
    return jnp.roll(masks, offsets, tuple(range(-space, 0)))


def by_percent(values: Mapping[str, Float[Array, " P"]], percents: Sequence[float]) -> dict[str, Float[Array, ""]]:
    """A column `NAME_K` for each number and percentage K."""
    return {f"{name}_{k:g}": value[i] for name, value in values.items() for i, k in enumerate(percents)}


def scores_without(
    view: View, masks: Bool[Array, "*n_space"], other: Float[Array, "*space D"], targets: Int[Array, "2"]
) -> PairScores:
    """The scores of the image with each mask's pixels replaced by those of `other`, in the masks' leading shape."""
    shape = view.image.shape[:-1]
    flat = masks.reshape(-1, *shape)
    logits = perturbed_logits(view, lambda mask: jnp.where(mask[..., None], other, view.image), flat)
    leading = masks.shape[: masks.ndim - len(shape)]
    return pair_scores(view, logits.reshape(*leading, -1), targets)

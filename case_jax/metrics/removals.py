"""The top of maps removed from an image: passes through the classifier that metrics share, made once for all of them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from case_jax.imageops import Fill, filling
from case_jax.metrics.inputs import MetricInputs
from case_jax.metrics.pair_scores import counts_of, offsets_of, shifted
from case_jax.metrics.perturb import perturbed_logits
from case_jax.ranking import pack, top_mask
from case_jax.tap.view import View


class Removal(NamedTuple):
    """What a metric has removed, in percent of the pixels."""

    fill: Fill
    """What is put in their place."""
    first: tuple[float, ...] = ()
    """The top of the map of the first class."""
    pair: tuple[float, ...] = ()
    """The top of the maps of the first and of the second class, each also moved elsewhere."""


class Left(NamedTuple):
    """What the classifier says without the top of a map."""

    mask: UInt32[Array, "*n w"]
    """What was removed, packed."""
    logits: Float[Array, "*n C"]
    elsewhere: Float[Array, "*n C"] | None
    """The same with the mask moved; None where nothing is asked of it."""


Lefts = dict[float, Left]
"""By percentage."""


def merged(wanted: Iterable[Removal | None]) -> list[Removal]:
    """One removal for each fill, of every percentage that any of them asks for, ascending."""
    known = [removal for removal in wanted if removal is not None]

    def union(fill: Fill, field: str) -> tuple[float, ...]:
        return tuple(sorted({float(p) for r in known if r.fill == fill for p in getattr(r, field)}))

    fills: dict[Fill, None] = dict.fromkeys(removal.fill for removal in known)
    return [Removal(fill, union(fill, "first"), union(fill, "pair")) for fill in fills]


def left_of(
    view: View,
    masks: Bool[Array, "*n_space"],
    other: Float[Array, "*space D"],
    offsets: Int[Array, " S"] | None,
    *,
    moved: int | None = None,
) -> Left:
    """What the classifier says without each mask's pixels, which `other` takes the place of, in one batch of passes.

    Args:
        view: one image's view.
        masks: with any leading axes, but with `moved` one.
        other: what is put in place of removed pixels.
        offsets: how far masks are moved to remove as much elsewhere; None removes nothing elsewhere.
        moved: how many of the masks are moved, the last ones; None moves all.
    """
    space = view.image.shape[:-1]
    flat = masks.reshape(-1, *space)
    count, leading = len(flat), masks.shape[: masks.ndim - len(space)]
    elsewhere = count if moved is None else moved
    if offsets is None or not elsewhere:
        both = flat
    else:
        both = jnp.concatenate([flat, shifted(flat[count - elsewhere :], offsets)])
    logits = perturbed_logits(view, lambda mask: jnp.where(mask[..., None], other, view.image), both)
    words = jax.vmap(lambda mask: pack(mask.ravel()))(flat)
    without = Left(words, logits[:count], None if both is flat else logits[count:])
    return without if moved is not None else jax.tree.map(lambda a: a.reshape(*leading, -1), without)


def without_tops(
    view: View,
    saliency: Float[Array, "*space"],
    other: Float[Array, "*space D"],
    offsets: Int[Array, " S"] | None,
    *,
    alone: Sequence[float] = (),
    moved: Sequence[float] = (),
) -> Lefts:
    """What the classifier says without the top of a map, in one batch of passes.

    Args:
        view: one image's view.
        saliency: a finished map of that image.
        other: what is put in place of removed pixels.
        offsets: of the moved masks; None moves none.
        alone: percentages of pixels to remove.
        moved: those at which as much is removed elsewhere, too.

    Raises:
        CaseJaxError: for a percentage outside (0, 100] or of less than a pixel.
    """
    percents = (*(p for p in alone if p not in moved), *moved)
    masks = jax.vmap(lambda count: top_mask(saliency, count))(counts_of(percents, saliency.shape))
    words, logits, elsewhere = left_of(view, masks, other, offsets, moved=len(moved))
    first = len(percents) - len(moved)
    return {
        p: Left(words[i], logits[i], None if elsewhere is None or i < first else elsewhere[i - first])
        for i, p in enumerate(percents)
    }


def removed(
    view: View,
    maps: Float[Array, "M T *space"],
    blind: Sequence[bool],
    wanted: Sequence[Removal],
    *,
    black: Float[Array, " D"],
    key: Key[Array, ""],
) -> dict[Fill, tuple[Lefts, Lefts]]:
    """What is left without the tops of the first and of the second maps of M methods, by fill, along a leading axis of methods.

    Every pass is made once, whichever metrics ask for it. Of a method that is class-`blind`, whose second map is its first, what is left
    without the first is that without the second, too.

    Args:
        view: one image's view.
        maps: finished maps of all methods.
        blind: which methods' maps are the same for every class.
        wanted: one removal for each fill, see `merged`.
        black: a black pixel in normalised units.
        key: this image's random key.
    """
    offsets, seeing = offsets_of(view, key), np.flatnonzero(~np.asarray(blind))
    found = {}
    for fill, alone, pair in wanted:
        other = filling(fill, view.image, black=black, key=key)
        without = partial(without_tops, view, other=other, offsets=offsets, moved=pair)
        first = jax.lax.map(partial(without, alone=alone), maps[:, 0])
        second = {percent: first[percent] for percent in pair}
        if pair and len(seeing):
            rivals = jax.lax.map(without, maps[seeing, 1])
            second = jax.tree.map(lambda every, some: every.at[seeing].set(some), second, rivals)
        found[fill] = first, second
    return found


def removed_from(inputs: MetricInputs, removal: Removal) -> tuple[Lefts, Lefts]:
    """What is left without the top of the first map and of the second: as the inputs know it, else asked now, as for a metric that does not declare it."""
    first, second = (inputs.removed or {}).get(removal.fill, ({}, {}))
    if first.keys() >= {*removal.first, *removal.pair} and second.keys() >= {*removal.pair}:
        return first, second
    view, (alone, pair) = inputs.view, removal[1:]
    other, offsets = filling(removal.fill, view.image, black=inputs.black, key=inputs.key), offsets_of(view, inputs.key)
    first = without_tops(view, inputs.maps[0], other, offsets, alone=alone, moved=pair)
    return first, without_tops(view, inputs.maps[1], other, offsets, moved=pair) if pair else {}


def stacked(lefts: Mapping[float, Left], percents: Sequence[float], *, moved: bool = False) -> Left:
    """Those of some percentages, along a leading axis; with `moved` what was removed elsewhere, too."""
    chosen = [lefts[float(p)] if moved else lefts[float(p)]._replace(elsewhere=None) for p in percents]
    return jax.tree.map(lambda *values: jnp.stack(values), *chosen)

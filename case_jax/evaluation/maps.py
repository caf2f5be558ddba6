"""One image to the finished maps of every method: what all studies share, traced inside their steps."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from case_jax._checks import require
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import ContrastSet, Query
from case_jax.imageops import finish_maps, is_degenerate, resize_map
from case_jax.methods import MapFunction, described, signed_maps
from case_jax.reasons import Reason
from case_jax.tap.link import Link, probabilities
from case_jax.tap.view import Params, TappedModel, View, at_least_float32

NOISE, RANDOM_CLASS, AGAIN = range(1 << 30, (1 << 30) + 3)
"""What is folded into an image's key for the metrics' noise, the random class, and maps of altered images; class indices lie below."""


class Pixels(NamedTuple):
    """How pixels of D channels become the classifier's input: `(x / 255 − mean) / std`, of float images `(x − mean) / std`."""

    mean: tuple[float, ...]
    """D numbers: as many channels have the images of the source, and the classifier's."""
    std: tuple[float, ...]

    def black(self) -> Float[Array, " D"]:
        """A black pixel in normalised units."""
        return -jnp.asarray(self.mean) / jnp.asarray(self.std)


class Question(NamedTuple):
    """What every image is asked: whose maps, against which classes, of which pixels."""

    methods: Mapping[str, MapFunction]
    contrast: ContrastSet
    pixels: Pixels
    seed: int = 0

    def carried(self) -> dict[str, MapFunction]:
        """The methods that are pytrees: what arrays they hold belong among a program's arguments, never among its constants."""
        return {
            name: own for name, own in self.methods.items() if all(leaf is not own for leaf in jax.tree.leaves(own))
        }

    def carrying(self, carried: Mapping[str, MapFunction]) -> "Question":
        """The same question with these, which a program was given, in the place of its own."""
        return self._replace(methods={name: carried.get(name, own) for name, own in self.methods.items()})


def image_key(seed: int, image_id: Int[Array, ""]) -> Key[Array, ""]:
    """The random key of one image; depends on nothing but the seed and the image's id."""
    return jax.random.fold_in(jax.random.key(seed), image_id)


def view_for_targets(model: TappedModel, params: Params, image: Float[Array, "H W D"]) -> View:
    """A view whose class weights all methods share: a table of all classes where one pullback can hold them."""
    return model.view_all(params, image) if model.num_classes <= model.chunk else model.view(params, image)


def maps_of_view(question: Question, view: View, targets: Int[Array, " T"], key: Key[Array, ""]) -> tuple[Array, Array]:
    """Finished maps (M, T, H, W) of all methods at input resolution, and which are degenerate (M, T)."""
    return maps_and_reasons(question, view, targets, key)[:2]


def maps_and_reasons(
    question: Question, view: View, targets: Int[Array, " T"], key: Key[Array, ""]
) -> tuple[Array, Array, Array]:
    """As `maps_of_view`, and why they are degenerate, by the codes of `Reason` (M, T), as far as maps tell."""
    query, finite = ask(view, targets, question.contrast, key=key), finite_logits(view)
    found = [maps_of_method(name, method, view, query, finite)[1:] for name, method in question.methods.items()]
    maps, degenerate, reasons = map(jnp.stack, zip(*found, strict=True))
    return maps, degenerate, reasons


def maps_of_method(
    name: str, method: MapFunction, view: View, query: Query, finite: Bool[Array, ""], *, signed: bool = False
) -> tuple[Array, Array, Array, Array]:
    """One method's raw maps (T, h, w); finished ones (T, H, W), which are degenerate (T,), and why, by the codes of `Reason` (T,)."""
    exists = (query.targets >= 0) & (query.targets < len(view.logits))
    of = partial(signed_maps, method) if signed else method
    raw = raw_maps(name, of, view, query)
    shape, rescaled = view.image.shape[:2], not described(name, method).mask
    maps, degenerate = finished(raw, shape, finite, rescaled=rescaled, signed=signed)
    return raw, maps, degenerate, _reasons(raw, degenerate, finite, exists)


def _reasons(
    raw: Float[Array, "T h w"], degenerate: Bool[Array, " T"], finite: Bool[Array, ""], exists: Bool[Array, " T"]
) -> Int[Array, " T"]:
    """Why maps are degenerate, as far as they tell; `NONE` for those that are not."""
    known = jnp.isfinite(raw).all((-2, -1)) & finite
    positive = (raw > 0).any((-2, -1))
    told = jnp.where(positive, Reason.CONSTANT.value, Reason.NOT_POSITIVE.value)
    why = jnp.where(~exists, Reason.NO_CLASS.value, jnp.where(known, told, Reason.NOT_FINITE.value))
    return jnp.where(degenerate, why, Reason.NONE.value).astype(jnp.int8)


def finite_logits(view: View) -> Bool[Array, ""]:
    """Whether all logits of the image are finite; otherwise every map of it is degenerate, whatever the method."""
    return jnp.isfinite(view.logits).all()


def shown_probabilities(logits: Float[Array, "*n C"], link: Link) -> Float[Array, "*n C"]:
    """What rows and pictures show: probabilities by the model's link, NaN where it has none."""
    return jnp.full_like(at_least_float32(logits), jnp.nan) if link == "identity" else probabilities(logits, link)


def raw_maps(name: str, method: MapFunction, view: View, query: Query) -> Float[Array, "T h w"]:
    """A method's maps at its own resolution, one per target."""
    maps, count = method(view, query), len(query.targets)
    accepted = f"one map per target, shape ({count}, height, width)"
    require(maps.ndim == 3 and len(maps) == count, f"method {name!r}", f"an output of shape {maps.shape}", accepted)
    return maps


def finished(
    raw: Float[Array, "T h w"],
    shape: tuple[int, ...],
    finite: Bool[Array, "*T"],
    *,
    rescaled: bool = True,
    signed: bool = False,
) -> tuple[Float[Array, "T H W"], Bool[Array, " T"]]:
    """Maps in [0, 1] at input resolution, and which are degenerate; all of them where the image's logits are not `finite`.

    Masks, which say how much of each pixel is seen, are not `rescaled`; `signed` maps keep what is negative, in [−1, 1].
    """
    degenerate = is_degenerate(raw, signed=signed) | ~finite
    if rescaled:
        return finish_maps(raw, shape, signed=signed), degenerate
    return resize_map(jnp.where(degenerate[..., None, None], 0.0, raw), shape), degenerate

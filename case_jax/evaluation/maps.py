"""One image to the finished maps of every method: what all studies share, traced inside their steps."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from case_jax._checks import require
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import ContrastSet, Query
from case_jax.imageops import finish_maps, is_degenerate, resize_map
from case_jax.methods import MapFunction, described
from case_jax.tap.link import Link, probabilities
from case_jax.tap.view import Params, TappedModel, View, at_least_float32

NOISE, RANDOM_CLASS, AGAIN = range(1 << 30, (1 << 30) + 3)
"""What is folded into an image's key for the metrics' noise, the random class, and maps of altered images; class indices lie below."""


class Pixels(NamedTuple):
    """How pixels of D channels become the classifier's input: `(x / 255 − mean) / std`."""

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


def image_key(seed: int, image_id: Int[Array, ""]) -> Key[Array, ""]:
    """The random key of one image; depends on nothing but the seed and the image's id."""
    return jax.random.fold_in(jax.random.key(seed), image_id)


def view_for_targets(model: TappedModel, params: Params, image: Float[Array, "H W D"]) -> View:
    """A view whose class weights all methods share: a table of all classes where one pullback can hold them."""
    return model.view_all(params, image) if model.num_classes <= model.chunk else model.view(params, image)


def maps_of_view(question: Question, view: View, targets: Int[Array, " T"], key: Key[Array, ""]) -> tuple[Array, Array]:
    """Finished maps (M, T, H, W) of all methods at input resolution, and which are degenerate (M, T)."""
    query, shape, finite = ask(view, targets, question.contrast, key=key), view.image.shape[:2], finite_logits(view)
    found = [
        finished(raw_maps(name, method, view, query), shape, finite, rescaled=not described(name, method).mask)
        for name, method in question.methods.items()
    ]
    maps, degenerate = zip(*found, strict=True)
    return jnp.stack(maps), jnp.stack(degenerate)


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

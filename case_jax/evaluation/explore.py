"""One image's class maps of many classes, and what contrasts between any of them need: the numbers of a page to click through."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from case_jax import parallel
from case_jax._checks import require
from case_jax.contrast import ask, topk_logits
from case_jax.imageops import finish_maps, is_degenerate, require_pictures
from case_jax.methods import METHODS, class_maps
from case_jax.metrics.deletion_insertion import deletion_curve
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.link import Link, require_probabilities
from case_jax.tap.view import TappedModel

METHODS_SHOWN = ("grad_cam", "finer_cam", "case")
WATCHED, RIVALS, STEPS = 10, 5, 10
"""Of how many likeliest classes deletion curves are drawn, against how many likeliest others, in how many steps."""


class Explored(NamedTuple):
    """One image's class maps before any rectification, of n of the C classes, likeliest first."""

    layer: str
    link: Link
    classes: Int[np.ndarray, " n"]
    logits: Float[np.ndarray, " C"]
    """Of all classes, in the model's order."""
    maps: Float[np.ndarray, "n h w"]
    """`S_c = Σ_k α_c[k] A[..,k]`."""
    weights: Float[np.ndarray, "m K"]
    """`α_c` of the first m of these classes."""
    rivals: int
    """How many likeliest other classes the maps of the curves are contrasted with."""
    curves: Float[np.ndarray, "T M steps+1"]
    """Deletion curves of the first T classes by the maps of `METHODS_SHOWN`; NaN where a map is degenerate."""


def require_explorable(model: TappedModel) -> None:
    """Raise for a model of a single class, of signals or volumes, or without probabilities."""
    classes = model.num_classes
    require(classes >= 2, "model", f"a model of {classes} class", "one of at least 2, to set one against another")
    require_pictures("a page of class maps", len(model.image_shape) - 1)
    require_probabilities(model.link, asked="a page of class maps, with probabilities and deletion curves,")


def positions(model: TappedModel, image: Float[Array, "H W D"]) -> int:
    """How many positions the layer's map of an image has, which may be of another size than the model was tapped for."""
    like = jax.eval_shape(lambda params, x: model.view(params, x).activation, model.params, image)
    return math.prod(like.shape[:-1])


def explored(model: TappedModel, image: Float[Array, "H W D"], *, kept: int, related: int) -> Explored:
    """Class maps of the `kept` likeliest classes and class weights of the `related` likeliest of them, with deletion curves.

    Args:
        model: the tapped classifier.
        image: one normalised image.
        kept: n, from 2 to C.
        related: m, from 1 to n.

    Raises:
        CaseJaxError: as `require_explorable`; for logits, maps or weights that are not finite.
    """
    require_explorable(model)
    sizes = {"kept": kept, "related": related, "watched": min(WATCHED, kept), "rivals": min(RIVALS, kept - 1)}
    logits, classes, maps, weights, curves = map(np.asarray, _numbers(model, image, **sizes))
    finite = all(np.isfinite(array).all() for array in (logits, maps, weights))
    require(
        finite, "image", "logits or class maps that are not finite", "an image that the classifier has finite ones for"
    )
    return Explored(model.layer, model.link, classes, logits, maps, weights, sizes["rivals"], curves)


@partial(parallel.on_one_device, static_argnames=("kept", "related", "watched", "rivals"))
def _numbers(
    model: TappedModel, image: Float[Array, "H W D"], *, kept: int, related: int, watched: int, rivals: int
) -> tuple[Array, ...]:
    all_of_them = kept == model.num_classes
    view = model.view_all(model.params, image) if all_of_them else model.view(model.params, image)
    classes = jax.lax.top_k(view.logits, kept)[1]
    weights = view.class_weights(classes)
    maps = class_maps(view.activation, weights)
    targets, shape = classes[:watched], image.shape[:2]
    query = ask(view, targets, topk_logits(rivals, model.num_classes))
    raw = jnp.stack([METHODS[name].maps(view, query) for name in METHODS_SHOWN], axis=1)

    def curve(item: Any) -> Float[Array, " steps+1"]:
        target, saliency = item
        return deletion_curve(view, finish_maps(saliency, shape), target, steps=STEPS)

    items = jnp.repeat(targets, len(METHODS_SHOWN)), raw.reshape(-1, *raw.shape[2:])
    found = map_in_chunks(curve, items, chunk=1).reshape(*raw.shape[:2], -1)
    curves = jnp.where(is_degenerate(raw)[..., None], jnp.nan, found)
    return view.logits, classes, maps, weights[:related], curves

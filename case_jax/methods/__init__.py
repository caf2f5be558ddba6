"""Saliency methods: each a pure function of one image's view and a query; `METHODS` is the only dispatch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from case_jax._checks import require, unknown
from case_jax.contrast.sets import ContrastSet, Query, ask
from case_jax.methods.cam import class_maps
from case_jax.methods.case import case
from case_jax.methods.case_span import case_span
from case_jax.methods.controls import centre_gaussian, random_map
from case_jax.methods.finer_cam import finer_cam
from case_jax.methods.grad_cam import grad_cam
from case_jax.methods.softmax_contrast import softmax_contrast
from case_jax.tap.view import Params, TappedModel, View

MapFunction = Callable[[View, Query], Float[Array, "T h w"]]


class Method(NamedTuple):
    """A saliency method and what a reader of a table must know about it."""

    maps: MapFunction
    title: str
    contrastive: bool = False
    """Whether it needs contrast sets."""
    control: bool = False
    """Whether it ignores the classifier, as a yardstick for the others."""


METHODS: dict[str, Method] = {
    "grad_cam": Method(grad_cam, "Grad-CAM"),
    "case": Method(case, "CASE", contrastive=True),
    "case_span": Method(case_span, "CASE-span", contrastive=True),
    "finer_cam": Method(finer_cam, "Finer-CAM", contrastive=True),
    "softmax_contrast": Method(softmax_contrast, "softmax-contrast"),
    "random": Method(random_map, "random map", control=True),
    "centre_gaussian": Method(centre_gaussian, "centre Gaussian", control=True),
}


def method(name: str) -> Method:
    """The method of this name.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def all_class_maps(
    maps: MapFunction,
    model: TappedModel,
    params: Params,
    image: Float[Array, "Hx Wx 3"],
    *,
    contrast: ContrastSet | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "C h w"]:
    """The maps of every class of one image from one forward pass.

    Args:
        maps: a method, for example `case_jax.case`, with options bound by `functools.partial`.
        model: the tapped classifier.
        params: its parameters, `model.params` or others of the same structure.
        image: one normalised image; batch with `jax.vmap`.
        contrast: the contrast sets, for contrastive methods.
        key: this image's random key, for random methods.

    Returns:
        Map c is that of class c, equal to asking about class c alone.
    """
    view = model.view_all(params, image)
    return maps(view, ask(view, jnp.arange(model.num_classes), contrast, key=key))


def top_class_maps(
    maps: MapFunction,
    model: TappedModel,
    params: Params,
    image: Float[Array, "Hx Wx 3"],
    *,
    top: int = 2,
    contrast: ContrastSet | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "top h w"]:
    """The maps of the model's `top` likeliest classes of one image, likeliest first; arguments as `all_class_maps`.

    Raises:
        CaseJaxError: for `top` outside [1, C].
    """
    require(1 <= top <= model.num_classes, "top", top, f"a number of classes from 1 to {model.num_classes}")
    view = model.view(params, image)
    return maps(view, ask(view, jax.lax.top_k(view.logits, top)[1], contrast, key=key))


__all__ = [
    "METHODS",
    "MapFunction",
    "Method",
    "all_class_maps",
    "case",
    "case_span",
    "centre_gaussian",
    "class_maps",
    "finer_cam",
    "grad_cam",
    "method",
    "random_map",
    "softmax_contrast",
    "top_class_maps",
]

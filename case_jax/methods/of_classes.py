"""Any method's maps of every class of an image, or of its likeliest ones."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from case_jax._checks import require
from case_jax.contrast.asking import ask
from case_jax.contrast.choice import AnyContrast
from case_jax.methods.naming import MapFunction
from case_jax.tap.view import Params, TappedModel


def all_class_maps(
    maps: MapFunction,
    model: TappedModel,
    params: Params,
    image: Float[Array, "*space D"],
    *,
    contrast: AnyContrast | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "C *map"]:
    """The maps of every class of one image from one forward pass.

    Args:
        maps: a method, for example `case_jax.case`, with options bound by `functools.partial`.
        model: the tapped classifier.
        params: its parameters, `model.params` or others of the same structure.
        image: one normalised image; batch with `jax.vmap`.
        contrast: the contrast sets, for contrastive methods; any form that `ask` takes.
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
    image: Float[Array, "*space D"],
    *,
    top: int = 2,
    contrast: AnyContrast | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "top *map"]:
    """The maps of the model's `top` likeliest classes of one image, likeliest first; arguments as `all_class_maps`.

    Raises:
        CaseJaxError: for `top` outside [1, C].
    """
    require(1 <= top <= model.num_classes, "top", top, f"a number of classes from 1 to {model.num_classes}")
    view = model.view(params, image)
    return maps(view, ask(view, jax.lax.top_k(view.logits, top)[1], contrast, key=key))

"""Maps of single images, for looking at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from case_jax import parallel
from case_jax._checks import require, require_seed
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import Against, ContrastSet
from case_jax.evaluation.maps import (
    Pixels,
    finite_logits,
    image_key,
    maps_of_method,
    shown_probabilities,
    view_for_targets,
)
from case_jax.evaluation.why import Why
from case_jax.imageops import normalise_image, resize_map
from case_jax.methods import MapFunction, require_signed
from case_jax.source import Example
from case_jax.tap.view import TappedModel


class Explanation(NamedTuple):
    """One image's target classes and every method's map of each."""

    example: Example
    methods: tuple[str, ...]
    targets: Int[np.ndarray, " T"]
    probabilities: Float[np.ndarray, " T"]
    maps: Float[np.ndarray, "M T H W"]
    """Finished: at input resolution, in [0, 1], or in [−1, 1] where they are signed."""
    degenerate: Bool[np.ndarray, "M T"]
    reasons: Int[np.ndarray, "M T"]
    """Why a map is degenerate, by the codes of `case_jax.reasons.Reason`."""
    raw: tuple[Float[np.ndarray, "T h w"], ...]
    """Of each method, unscaled and at its own resolution."""
    enlarged: Float[np.ndarray, "M T H W"]
    """The same at input resolution."""
    signed: bool


def explain_images(
    examples: Sequence[Example],
    model: TappedModel,
    methods: Mapping[str, MapFunction],
    *,
    contrast: Callable[[], ContrastSet],
    pixels: Pixels,
    top: int = 3,
    targets: Sequence[int] | None = None,
    signed: bool = False,
    seed: int = 0,
) -> Iterator[Explanation]:
    """All methods' maps of each image's `top` likeliest classes, or of given ones; compiled once for images of one size.

    Args:
        examples: the images.
        model: the classifier, tapped.
        methods: map functions by name.
        contrast: finds the contrast sets of the contrastive methods; called when the rest has been checked. Classes that all targets are
            contrasted `against` are not among the likeliest.
        pixels: how pixels are normalised.
        top: number of classes.
        targets: these classes instead.
        signed: keep evidence against a class, see `signed_maps`.
        seed: for random methods.

    Raises:
        CaseJaxError: for `top` outside [1, C], targets that do not exist, or signed maps of a method that has none.
    """
    require_seed(seed)
    for name, function in methods.items() if signed else ():
        require_signed(name, function)
    classes = model.num_classes
    proper = targets is None or (len(targets) > 0 and all(0 <= c < classes for c in targets))
    require(proper, "targets", targets, f"classes from 0 to {classes - 1}")
    require(1 <= top <= classes, "top", top, f"a number of classes from 1 to {classes}")
    sets, why = contrast(), Why(model, methods, pixels)
    others = sets.classes if isinstance(sets, Against) else ()
    accepted = f"a number of classes from 1 to {classes - len(others)}"
    require(targets is not None or top <= classes - len(others), "top", top, accepted)

    def asked(logits: Array) -> Array:
        if targets is not None:
            return jnp.asarray(targets, jnp.int32)
        return jax.lax.top_k(logits.at[jnp.asarray(others, jnp.int32)].set(-jnp.inf) if others else logits, top)[1]

    @parallel.on_one_device
    def maps(params: Any, image: Array, image_id: Array) -> tuple[Any, ...]:
        view = view_for_targets(model, params, normalise_image(image, *pixels))
        chosen, finite = asked(view.logits), finite_logits(view)
        query = ask(view, chosen, sets, key=image_key(seed, image_id))
        each = [maps_of_method(name, method, view, query, finite, signed=signed) for name, method in methods.items()]
        raw, *rest = zip(*each, strict=True)
        found, degenerate, reasons = map(jnp.stack, rest)
        enlarged = jnp.stack([resize_map(one, image.shape[:2]) for one in raw])
        p = shown_probabilities(view.logits, view.link)[chosen]
        return chosen, p, found, degenerate, reasons, raw, enlarged

    def explained(example: Example) -> Explanation:
        found = jax.tree.map(np.asarray, maps(model.params, jnp.asarray(example.image), example.image_id))
        first = Explanation(example, tuple(methods), *found, signed=signed)
        return first._replace(reasons=why(np.asarray(example.image), first.targets, first.reasons))

    return map(explained, examples)

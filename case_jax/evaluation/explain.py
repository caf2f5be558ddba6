"""Maps of single images, for looking at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from case_jax import parallel
from case_jax._checks import require, require_seed
from case_jax.contrast.sets import ContrastSet
from case_jax.evaluation.maps import Pixels, Question, image_key, maps_and_reasons, view_for_targets
from case_jax.evaluation.why import Why
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.source import Example
from case_jax.tap.view import TappedModel


class Explanation(NamedTuple):
    """One image's likeliest classes and every method's map of each."""

    example: Example
    methods: tuple[str, ...]
    targets: Int[np.ndarray, " T"]
    probabilities: Float[np.ndarray, " T"]
    maps: Float[np.ndarray, "M T H W"]
    """Finished: at input resolution, in [0, 1]."""
    degenerate: Bool[np.ndarray, "M T"]
    reasons: Int[np.ndarray, "M T"]
    """Why a map is degenerate, by the codes of `case_jax.reasons.Reason`."""


def explain_images(
    examples: Sequence[Example],
    model: TappedModel,
    methods: Mapping[str, MapFunction],
    *,
    contrast: Callable[[], ContrastSet],
    pixels: Pixels,
    top: int = 3,
    seed: int = 0,
) -> Iterator[Explanation]:
    """All methods' maps of each image's `top` likeliest classes; compiled once for images of one size.

    Args:
        examples: the images.
        model: the classifier, tapped.
        methods: map functions by name.
        contrast: finds the contrast sets of the contrastive methods; called when the rest has been checked.
        pixels: how pixels are normalised.
        top: number of classes.
        seed: for random methods.

    Raises:
        CaseJaxError: for `top` outside [1, C].
    """
    require(1 <= top <= model.num_classes, "top", top, f"a number of classes from 1 to {model.num_classes}")
    require_seed(seed)
    question = Question(methods, contrast(), pixels, seed)
    why = Why(model, methods, pixels)

    @parallel.on_one_device
    def maps(params, image, image_id):
        view = view_for_targets(model, params, normalise_image(image, *pixels))
        targets = jax.lax.top_k(view.logits, top)[1]
        key = image_key(seed, image_id)
        return targets, jax.nn.softmax(view.logits)[targets], *maps_and_reasons(question, view, targets, key)

    def explained(example: Example) -> Explanation:
        found = maps(model.params, jnp.asarray(example.image), example.image_id)
        first = Explanation(example, tuple(methods), *(np.asarray(a) for a in found))
        return first._replace(reasons=why(np.asarray(example.image), first.targets, first.reasons))

    return map(explained, examples)

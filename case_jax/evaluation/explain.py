"""Maps of single images, for looking at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import ContrastSet
from case_jax.data import DigitScenes, read_image
from case_jax.evaluation.step import Pixels, Protocol, image_key, maps_of_view, view_for_targets
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction
from case_jax.source import Example, UnreadableImageError
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


def read_examples(images: Sequence[str], *, resize: int, crop: int) -> list[Example]:
    """Image files, or scenes written `digit_scenes:INDEX`, as examples.

    Raises:
        CaseJaxError: for a file that is missing or broken, or an index that is no number; names it.
    """
    examples = []
    for number, image in enumerate(images):
        kind, _, rest = image.partition(":")
        if kind == "digit_scenes":
            require(rest.isdigit(), "images", repr(image), "digit_scenes:INDEX with an index of at least 0")
            examples.append(DigitScenes("test", int(rest) + 1)[int(rest)])
            continue
        try:
            examples.append(Example(number, image, read_image(Path(image), resize=resize, crop=crop), -1))
        except UnreadableImageError as error:
            raise CaseJaxError(f"images: {image} cannot be read ({error.reason}); give an image file.") from error
    return examples


def explain_image(
    example: Example,
    model: TappedModel,
    methods: Mapping[str, MapFunction],
    *,
    contrast: ContrastSet,
    pixels: Pixels,
    top: int = 3,
    seed: int = 0,
) -> Explanation:
    """All methods' maps of one image's `top` likeliest classes.

    Args:
        example: the image.
        model: the classifier, tapped.
        methods: map functions by name.
        contrast: contrast sets of the contrastive methods.
        pixels: how pixels are normalised.
        top: number of classes.
        seed: for random methods.

    Raises:
        CaseJaxError: for `top` outside [1, C].
    """
    require(1 <= top <= model.num_classes, "top", top, f"a number of classes from 1 to {model.num_classes}")
    protocol = Protocol(methods, contrast, {}, {}, pixels, seed)

    @jax.jit
    def maps(params, image, image_id):
        view = view_for_targets(model, params, normalise_image(image, *pixels))
        targets = jax.lax.top_k(view.logits, top)[1]
        return (
            targets,
            jax.nn.softmax(view.logits)[targets],
            *maps_of_view(protocol, view, targets, image_key(seed, image_id)),
        )

    found = maps(model.params, jnp.asarray(example.image), example.image_id)
    return Explanation(example, tuple(methods), *(np.asarray(a) for a in found))

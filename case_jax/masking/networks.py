"""The two networks of a masker's training, taken apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from case_jax._checks import require
from case_jax.masking.ingredients import Ingredients
from case_jax.masking.masker import Masker
from case_jax.training import Network


class Networks(NamedTuple):
    """The two networks, taken apart."""

    masker: Network
    classifier: Network


def networks(
    classifier: nnx.Module,
    stages: tuple[str, ...],
    made_of: Ingredients,
    shape: tuple[int, ...],
    *,
    num_classes: int,
    seed: int,
) -> Networks:
    """The classifier and a fresh masker for it.

    Args:
        classifier: left untouched.
        stages: paths of its stage maps.
        made_of: ingredients.
        shape: of an image.
        num_classes: of the classifier.
        seed: of the masker's initial parameters.

    Raises:
        CaseJaxError: when the classifier has no stage maps, or not those that are wanted.
    """
    require(
        stages,
        "model",
        "a classifier with maps of one resolution only",
        "a ResNet, DenseNet, VGG, ConvNeXt or digit_resnet",
    )
    require(num_classes >= 2, "model", f"a classifier of {num_classes} class", "at least 2 classes")
    taken = Network(classifier, stages)
    maps = jax.eval_shape(lambda v, x: taken(v, x, train=False)[1], taken.variables, jnp.zeros((1, *shape)))
    masker = Masker(
        [m.shape[-1] for m in maps],
        stages=made_of.stages,
        width=made_of.width,
        num_classes=num_classes if made_of.class_conditional else None,
        size_conditional=made_of.size_conditional,
        rngs=nnx.Rngs(seed),
    )
    return Networks(Network(masker), taken)

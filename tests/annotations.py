"""jaxtyping's import hook with beartype, on from here on: what tests call the numerical rooms with must be as annotated, and so must the answers.

Values are checked when a call returns: one that raises says itself what is wrong, and tests read that. What a dataclass is made of is
not checked, because JAX makes its pytrees anew with batch axes, and with objects that are no arrays.
"""

from functools import cache
from importlib.util import find_spec

import jax
import jaxtyping
import numpy as np

ROOMS = ("audio", "contrast", "methods", "metrics", "imageops", "ranking", "masking")
TAP = ("view", "tapping", "head", "link", "linking", "function", "parameters")
MODELS = (
    "layers",
    "loaded",
    "convnext",
    "densenet",
    "digit_resnet",
    "efficientnet_lite",
    "resnet",
    "sound_cnn",
    "swin",
    "vgg",
    "vit",
)
TRAINING = ("classifier", "network", "optimise")
CHECKED = (
    *ROOMS,
    *(f"training.{name}" for name in TRAINING),
    *(f"tap.{name}" for name in TAP),
    *(f"models.{name}" for name in MODELS),
)
"""Not the rest of `tap`, `models` and `training`: tens of thousands of small calls about programs and files, hardly one of which takes an array."""
ON = find_spec("beartype") is not None


def checker(stub):
    """jaxtyping's typechecker: a function that checks its arguments, as annotated, when it is called.

    For every function jaxtyping makes two to be checked: one that takes the arguments, before the call, and one that takes the answer
    besides, as `ret0`, after it. The first lets everything pass.
    """
    if "ret0" not in stub.__code__.co_varnames or stub.__name__ == "__init__":
        return stub
    from beartype import BeartypeConf, beartype

    checked = cache(lambda: beartype(conf=BeartypeConf(is_pep484_tower=True))(stub))  # when it is first called
    return lambda *args, **kwargs: checked()(*args, **kwargs)


if ON:
    jaxtyping.Array = jax.Array | np.ndarray | np.generic  # as functions of JAX take any of them
    jaxtyping.install_import_hook([f"case_jax.{name}" for name in CHECKED], "annotations.checker")

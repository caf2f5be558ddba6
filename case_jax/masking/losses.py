"""What a masker is trained for: pure functions of logits, masks and labels, a value an image; a batch's loss is their mean.

Phang, Park, Geras, arXiv 2010.09750, equations 3 to 6; equal to the public code on stored numbers.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from case_jax._checks import require, unknown

Objective = Literal["classification", "entropy", "contrast"]
Direction = Literal["maximise", "minimise"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TV_WEIGHT, BORDER = 1e-3, 0.3


def correct(logits: Float[Array, "B C"], labels: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Whether the label is the likeliest class."""
    return logits.argmax(-1) == labels


def objective(
    kind: Objective,
    direction: Direction,
    logits: Float[Array, "B C"],
    labels: Int[Array, " B"],
    *,
    counted: Bool[Array, " B"] | None = None,
    rivals: Int[Array, " B"] | None = None,
    most: float | None = None,
) -> Float[Array, " B"]:
    """What is made of the classifier's answer to the masked image; to be minimised.

    `classification`: `−log p_y` to maximise p_y, its negative to minimise it, at least `−most`. `entropy`: `∓H(p)`, zero for images that are not `counted`.
    `contrast` (ours): `softplus(∓(y_label − y_rival))`, which only what tells the two classes apart can lower.

    Args:
        kind: one of `OBJECTIVES`.
        direction: one of `DIRECTIONS`.
        logits: of the masked images.
        labels: the classes asked about.
        counted: images whose entropy counts, the paper's: those classified correctly without a mask; None counts all.
        rivals: the classes that `contrast` sets against the labels.
        most: nats of `−log p_y` above which minimising p_y gains nothing, as that loss has no bound of its own; None: no such limit.

    Raises:
        CaseJaxError: for an unknown kind or direction, or `contrast` without rivals.
    """
    if direction not in DIRECTIONS:
        raise unknown("direction", direction, DIRECTIONS)
    sign = 1.0 if direction == "maximise" else -1.0
    if kind == "classification":
        log = _at(jax.nn.log_softmax(logits), labels)
        return -log if direction == "maximise" else log if most is None else jnp.maximum(log, -most)
    if kind == "entropy":
        log = jax.nn.log_softmax(logits)
        entropy = -(jnp.exp(log) * log).sum(-1)
        return -sign * (entropy if counted is None else jnp.where(counted, entropy, 0.0))
    if kind == "contrast":
        require(rivals is not None, "rivals", None, "a class an image, for the objective 'contrast'")
        assert rivals is not None
        return jax.nn.softplus(-sign * (_at(logits, labels) - _at(logits, rivals)))
    raise unknown("objective", kind, OBJECTIVES)


def _at(values: Float[Array, "B C"], classes: Int[Array, " B"]) -> Float[Array, " B"]:
    return jnp.take_along_axis(values, classes[:, None], -1)[:, 0]


def size_reward(
    mask: Float[Array, "B H W"],
    earned: Bool[Array, " B"],
    *,
    weight: float,
    sizes: Float[Array, " B"] | None = None,
    power: int = 1,
) -> Float[Array, " B"]:
    """`−λ relu(1[earned] − s)`: a reward for small masks, where the mask does its work. `s` is the mask's mean.

    Args:
        mask: values in [0, 1].
        earned: masked in: the label is still found; masked out: it was found without a mask and is not any more.
        weight: λ.
        sizes: wanted means p of a size-conditional masker: then `s = |mean − p|^power`.
        power: 1 or 2.

    Raises:
        CaseJaxError: for another power.
    """
    require(power in (1, 2), "power", power, "1 or 2")
    size = mask.mean((1, 2))
    if sizes is not None:
        size = jnp.abs(size - sizes) ** power
    return -weight * jax.nn.relu(earned.astype(mask.dtype) - size)


def total_variation(
    mask: Float[Array, "B H W"], *, weight: float = TV_WEIGHT, border: float = BORDER
) -> Float[Array, " B"]:
    """`λ (Σ Δ_h² + Σ Δ_w² + b · Σ edge²) / 2`: differences of neighbours, and the first and last rows and columns (corners twice)."""
    differences = (jnp.diff(mask, axis=1) ** 2).sum((1, 2)) + (jnp.diff(mask, axis=2) ** 2).sum((1, 2))
    edges = (mask[:, [0, -1], :] ** 2).sum((1, 2)) + (mask[:, :, [0, -1]] ** 2).sum((1, 2))
    return weight * (differences + border * edges) / 2

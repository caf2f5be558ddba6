"""What a classifier's outputs mean: the link from logits to probabilities, declared once when a model is tapped."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from case_jax._checks import CaseJaxError, require
from case_jax.tap.head import at_least_float32

Link = Literal["softmax", "sigmoid", "probabilities", "identity"]
LINKS: dict[Link, str] = {
    "softmax": "logits of classes of which one is true, p = softmax(y); a single logit z becomes two classes, −z/2 and z/2",
    "sigmoid": "logits of labels that may all be true, p = sigmoid(y) of each; a sigmoid at the network's end is taken off",
    "probabilities": "the network ends in softmax (with one output in sigmoid), which is taken off",
    "identity": "numbers that are no logits, as in regression: there are no probabilities, and what needs them refuses",
}


def probabilities(logits: Float[Array, "*n C"], link: Link) -> Float[Array, "*n C"]:
    """Of all classes, `softmax(y)` or `sigmoid(y)`, in float32 at least.

    Args:
        logits: of one image or more, as a tapped model returns them.
        link: the model's own (`TappedModel.link`).

    Raises:
        CaseJaxError: for the link `identity`, under which there are none.
    """
    require_probabilities(link)
    y = at_least_float32(logits)
    return jax.nn.sigmoid(y) if link == "sigmoid" else jax.nn.softmax(y, axis=-1)


def ranking(logits: Float[Array, "*n C"], link: Link) -> Float[Array, "*n C"]:
    """Numbers in the order of the probabilities, of which several may round to 1 under `sigmoid`: there the logits."""
    return probabilities(logits, link) if link == "softmax" else at_least_float32(logits)


def log_probabilities(logits: Float[Array, "*n C"], link: Link) -> Float[Array, "*n C"]:
    """The logarithm of `probabilities`, without their underflow; arguments and errors as there."""
    require_probabilities(link)
    y = at_least_float32(logits)
    return jax.nn.log_sigmoid(y) if link == "sigmoid" else jax.nn.log_softmax(y, axis=-1)


def shares(logits: Float[Array, "*n k"], link: Link) -> Float[Array, "*n k"]:
    """`p_j / Σ_j p_j` over some of the classes, whose logits these are; errors as `probabilities`."""
    require_probabilities(link)
    y = at_least_float32(logits)
    return jax.nn.softmax(jax.nn.log_sigmoid(y) if link == "sigmoid" else y, axis=-1)


def probability(logits: Float[Array, " C"], target: Int[Array, ""] | int, link: Link) -> Float[Array, ""]:
    """The target's probability; NaN for a traced class that the model does not have.

    Raises:
        CaseJaxError: for the link `identity`, and for a class that does not exist where that is known.
    """
    return of_class(probabilities(logits, link), target)


def complement(logits: Float[Array, " C"], target: Int[Array, ""] | int, link: Link) -> Float[Array, ""]:
    """1 − p of one class without cancellation: the sum of the other probabilities, under `sigmoid` that of its absence.

    Down to the smallest probability that float32 holds; NaN for a traced class that the model does not have.

    Raises:
        CaseJaxError: as `probability`.
    """
    if link == "sigmoid":
        return of_class(probabilities(-logits, link), target)
    require_classes("target", target, len(logits))
    p, others = probabilities(logits, link), jnp.arange(len(logits)) != target
    return jnp.where(others.all(), jnp.nan, jnp.where(others, p, 0.0).sum())


def one_logit_names(name: str) -> tuple[str, str]:
    """Names of the two classes that one logit becomes."""
    return "not", name


def of_class(values: Float[Array, " C"], target: Int[Array, ""] | int) -> Float[Array, ""]:
    """One class's value, NaN for a traced class that does not exist (JAX's indexing gives the last one's); else an error."""
    require_classes("target", target, len(values))
    target = jnp.asarray(target)
    return jnp.where((target >= 0) & (target < len(values)), values[target], jnp.nan)


def require_classes(argument: str, given: Any, classes: int) -> None:
    """Raise for class indices that are known, not traced, and that a model of so many classes does not have."""
    if not isinstance(given, Tracer):
        wrong = sorted({int(c) for c in np.ravel(given) if not 0 <= c < classes})
        require(not wrong, argument, wrong, f"class indices from 0 to {classes - 1}")


def require_probabilities(link: Link, *, argument: str = "link", asked: str = "probabilities") -> None:
    """Raise where a link gives no probabilities, and `asked` needs them."""
    if link == "identity":
        raise CaseJaxError(
            f"{argument}: {asked} of a model tapped with link='identity', whose outputs are no logits; accepted: methods and metrics "
            "that need no probability (grad_cam, case, …; sensitivity, similarity, …), or a model tapped with link='softmax' or 'sigmoid'."
        )

"""At tap time: a network's outputs made into the logits of at least two classes, or a refusal that says what to declare."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, unknown
from case_jax.tap.ending import Ending, ending, without_ending
from case_jax.tap.link import LINKS, Link, probabilities

Apply = Callable[[Any, Array], Array]
Kernel = Callable[[Any], Float[Array, "F M"]]
WHAT_TO_CUT = (
    "cut the network off behind its logits, so that it returns what the softmax (or sigmoid) takes, and leave link out"
)


class Linked(NamedTuple):
    """A network whose outputs are logits."""

    apply: Apply
    link: Link
    """Of these logits: `probabilities` has become `softmax`."""
    one_logit: bool
    """Whether its two classes are −z/2 and z/2 of one logit z, so that the second's probability is sigmoid(z)."""
    head_kernel: Kernel | None


def linked(
    apply: Apply,
    program: ClosedJaxpr,
    params: Any,
    image: Array,
    link: Link | None,
    *,
    head_kernel: Kernel | None,
    head_is_last: bool,
) -> Linked:
    """The network with what was declared of its outputs carried out, and what was not declared looked for.

    A softmax (link `probabilities`) or sigmoid (link `sigmoid`) at the end is taken off: what it takes are the logits, and not only up to a
    number per image, as the logarithm of its output would be. One logit z becomes the two classes (−z/2, z/2).

    Args:
        apply: one normalised image to the network's outputs, a vector.
        program: the same, traced.
        params: its parameters.
        image: the tap image. Outputs on it that are ≥ 0 and sum to one are no logits; it is looked at where no link is declared and
            the network does not end in a dense layer.
        link: what is declared; None is `softmax`, after a look.
        head_kernel: the kernel of a declared head.
        head_is_last: whether that head's outputs are the network's.

    Raises:
        CaseJaxError: for an unknown link, a softmax or sigmoid that was not declared, or one that was and is not there.
    """
    if link is not None and link not in LINKS:
        raise unknown("link", link, LINKS)
    if link == "identity":
        return Linked(apply, link, False, head_kernel)
    found, outputs = ending(program), int(program.out_avals[0].shape[0])  # type: ignore[attr-defined]
    _require_declared(found, outputs, link)
    if link is None and outputs > 1 and not found.linear:
        _require_logits(apply, params, image)
    if found.kind is not None:
        plain = without_ending(apply, found.kind)
        _require_undone(apply, plain, params, image, "sigmoid" if found.kind == "sigmoid" else "softmax")
        apply = plain
    if outputs > 1:
        return Linked(apply, "sigmoid" if link == "sigmoid" else "softmax", False, head_kernel)
    kernel = head_kernel if head_kernel is None or not head_is_last else _doubled_kernel(head_kernel)
    return Linked(_doubled(apply), "softmax", True, kernel)


def _require_declared(found: Ending, outputs: int, link: Link | None) -> None:
    """Raise unless the softmax or sigmoid that the network ends in is the one that was declared."""
    shown = "no link" if link is None else f"link={link!r}"
    if found.kind == "softmax":
        require(
            outputs > 1,
            "link",
            f"{shown} for a network that ends in the softmax of one output, which is always 1",
            WHAT_TO_CUT,
        )
        accepted = f"link='probabilities', which takes that softmax off; or {WHAT_TO_CUT}"
        given = f"{shown} for a network that ends in softmax, so that its outputs are probabilities and no logits"
        require(link == "probabilities", "link", given, accepted)
    elif found.kind == "sigmoid":
        accepted = f"link='sigmoid', which takes those sigmoids off; or {WHAT_TO_CUT}"
        given = f"{shown} for a network that ends in sigmoid, so that its outputs are probabilities and no logits"
        require(link == "sigmoid" or (link == "probabilities" and outputs == 1), "link", given, accepted)
    elif link == "probabilities":
        wanted = "a softmax of all outputs" if outputs > 1 else "a sigmoid"
        given = f"{link!r} for a network whose last operation is {found.operation or 'none'!r}, in which {wanted} was not recognised"
        accepted = (
            f"a network that ends in jax.nn.softmax or jax.nn.sigmoid, with nothing behind it; else {WHAT_TO_CUT}"
        )
        require(False, "link", given, accepted)


def _known(params: Any, image: Any) -> bool:
    """Whether the network can be evaluated: no argument is traced or only a shape."""
    leaves = [image, *jax.tree.leaves(params)]
    return all(isinstance(a, np.ndarray | jax.Array) and not isinstance(a, Tracer) for a in leaves)


def _rounding(dtype: Any) -> float:
    return max(1e-4, 4 * float(jnp.finfo(dtype).eps))


def _require_logits(apply: Apply, params: Any, image: Array) -> None:
    """Raise for outputs that are ≥ 0 and sum to one."""
    if not _known(params, image):
        return
    found = np.asarray(parallel.on_one_device(apply)(params, image))
    low, high, total = (float(f(found.astype(np.float64))) for f in (np.min, np.max, np.sum))
    if low >= 0 and abs(total - 1) <= _rounding(found.dtype):
        raise CaseJaxError(
            f"link: none is given, and the {len(found)} outputs for the tap image, {low:.3g} to {high:.3g}, sum to one: probabilities, where "
            f"logits are expected; accepted: {WHAT_TO_CUT}; link='probabilities' where jax.nn.softmax is the network's last operation; "
            "link='softmax' where these are logits all the same."
        )


def _require_undone(apply: Apply, plain: Apply, params: Any, image: Array, link: Link) -> None:
    """Raise unless the probabilities of the network without its end are what it returned with it."""
    if not _known(params, image):
        return

    @parallel.on_one_device
    def both(params: Any, image: Array) -> tuple[Array, Array]:
        return apply(params, image), probabilities(plain(params, image), link)

    was, now = (np.asarray(a).astype(np.float64) for a in both(params, image))
    error = float(np.max(np.abs(was - now)))
    accepted = f"a network whose last {link} is over all its outputs; else {WHAT_TO_CUT}"
    proper = not np.isfinite(was).all() or error <= _rounding(jax.eval_shape(apply, params, image).dtype)
    require(
        proper, "link", f"a network that ends in {link}, without which probabilities differ by {error:.2g}", accepted
    )


def _doubled(apply: Apply) -> Apply:
    def two_classes(params: Any, x: Array) -> Array:
        half = apply(params, x) / 2
        return jnp.concatenate([-half, half])

    return two_classes


def _doubled_kernel(kernel: Kernel) -> Kernel:
    def two_columns(params: Any) -> Array:
        half = kernel(params) / 2
        return jnp.concatenate([-half, half], axis=-1)

    return two_columns

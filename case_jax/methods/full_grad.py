"""FullGrad."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jaxtyping import Array, Float, Int

from case_jax.contrast.sets import Query
from case_jax.imageops import resize_map
from case_jax.methods.attribution import of_targets
from case_jax.tap.biases import Decomposition, decomposed
from case_jax.tap.split import inner_jaxprs
from case_jax.tap.view import View, at_least_float32


class FullGradients(NamedTuple):
    """What a class's logit is the sum of: `y_c = Σ image + Σ_l Σ biases[l]`."""

    image: Float[Array, "*space D"]
    """`x ⊙ ∂y_c/∂x`."""
    biases: list[Float[Array, "*layer"]]
    """`b_l ⊙ ∂y_c/∂z_l` at every place of the program where a bias comes in, in its own shape."""


def full_gradients(view: View, target: Int[Array, ""] | int) -> FullGradients:
    """The logit of one class as a sum over pixels and biases, exact but for rounding, whatever the network is made of (`tap.biases.decomposed`)."""
    return _terms(decomposed(view.predict, view.image), view.image, jax.nn.one_hot(target, len(view.logits)))


def _terms(parts: Decomposition, image: Array, row: Float[Array, " C"]) -> FullGradients:
    at_image, at_biases = parts.pull(row.astype(parts.output.dtype))
    products = [at_least_float32(b) * at_least_float32(g) for b, g in zip(parts.biases, at_biases, strict=True)]
    return FullGradients(at_least_float32(image) * at_least_float32(at_image), products)


def _map_shapes(jaxpr: Jaxpr) -> set[tuple[tuple[int, ...], bool]]:
    """The spatial shapes of what a program's convolutions give, and whether channels stand in front of them."""
    found: set[tuple[tuple[int, ...], bool]] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            _, feature, *space = eqn.params["dimension_numbers"].out_spec
            found.add((tuple(eqn.outvars[0].aval.shape[axis] for axis in space), feature == 1))  # type: ignore[attr-defined]
        for body, _ in inner_jaxprs(eqn):
            found |= _map_shapes(body)
    return found


def _as_map(term: Array, shapes: set[tuple[tuple[int, ...], bool]]) -> Array | None:
    """A term of a map of the image, channels last; None for others, of dense layers and tokens."""
    for shape, first in shapes:
        if term.ndim == len(shape) + 2 and len(term) == 1:
            term = term[0]
        if term.ndim == len(shape) + 1 and (term.shape[1:] if first else term.shape[:-1]) == shape:
            return jnp.moveaxis(term, 0, -1) if first else term
    return None


def full_grad(view: View, query: Query) -> Float[Array, "T *space"]:
    """Input × gradient and the same of every bias: all that the logit is made of.

    `Σ_d ψ(x ⊙ ∂y_c/∂x) + Σ_l up(Σ_k ψ(b_l ⊙ ∂y_c/∂z_l))`, `ψ(t) = (|t| − min |t|) / (max |t| − min |t|)` over all channels and positions of a
    term. The biases b_l are found in the traced program, those of a normalisation by fixed statistics with the bias in front of it; of what is not
    piecewise linear (GELU, softmax) each operation has its own, `f(v) − f'(v) v`. Before ψ all terms sum to the logit (`full_gradients`); terms that are no
    map of the image, those of dense layers and tokens, are in that sum alone.

    Args:
        view: one image's view; the layer that was tapped plays no part.
        query: targets (T,); contrast sets and key are not used.

    Returns:
        One map per target at the image's resolution, unscaled, ≥ 0; NaN for a class that the model does not have. It is weakly class-conditional:
        absolute values keep what speaks against the class.

    Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019 (arXiv 1905.00780). Their code enlarges
    with corners aligned; here half-pixel centres are, as everywhere.
    """
    parts, shape = decomposed(view.predict, view.image), view.image.shape[:-1]
    shapes = _map_shapes(parts.program) | {(shape, False)}

    def of_class(row: Array) -> Array:
        found = _terms(parts, view.image, row)
        total = _scaled(found.image).sum(-1)
        for term in found.biases:
            layer = _as_map(term, shapes)
            if layer is not None:
                total = total + resize_map(_scaled(layer).sum(-1), shape)
        return total

    return of_targets(view, query.targets, of_class, chunk=max(1, view.chunk // (1 + len(parts.biases))))


def _scaled(term: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """ψ; zero where all magnitudes are equal."""
    size = jnp.abs(term) - jnp.abs(term).min()
    return size / jnp.where(size.max() > 0, size.max(), 1.0)

"""Contrasts: from class weights α to the effective weights whose class map speaks for the target alone.

Every contrast is linear in the activation, so a contrastive map is `relu(Σ_k w[k] A[..,k])` with the effective weights w
given here. All functions take one image's view, targets (T,) and contrast sets (T, k), and return (T, K).
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from case_jax._checks import require
from case_jax.contrast.sets import topk_logits
from case_jax.imageops import channel_means
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.link import complement, shares
from case_jax.tap.link import probabilities as probabilities_of
from case_jax.tap.view import View, at_least_float32

Targets = Int[Array, " T"]
Sets = Int[Array, "T k"]
EffectiveWeights = Float[Array, "T K"]

EPS = 1e-8
RANK_TOLERANCE = 1e-6
UNROLLED = 16
"""Contrast sets of up to this size are summed without a loop."""
HIGHEST = jax.lax.Precision.HIGHEST


def _set_mean(view: View, sets: Sets, shares: Float[Array, "T k"]) -> EffectiveWeights:
    """`Σ_j shares[t,j] α_{sets[t,j]}`, one member at a time so that (T, k, K) is never formed."""

    return sum_over_members(lambda classes, share: share[:, None] * view.class_weights(classes), sets, shares)


def sum_over_members(term: Callable[..., Array], *members: Shaped[Array, "T k"]) -> Array:
    """`Σ_j term(members[:, j], …)`, in a loop where there are many."""
    columns = tuple(array.T for array in members)
    if len(columns[0]) <= UNROLLED:
        return functools.reduce(operator.add, map(term, *columns))
    first, rest = (tuple(column[part] for column in columns) for part in (0, slice(1, None)))
    return jax.lax.scan(lambda total, member: (total + term(*member), None), term(*first), rest)[0]


def orthogonal_to(
    alpha: Float[Array, "*n K"], mean: Float[Array, "*n K"], *, eps: float = EPS, eps_relative: bool = False
) -> Float[Array, "*n K"]:
    """Class weights without their component along the mean contrast weights.

    `α − β ᾱ` with `β = ⟨α, ᾱ⟩ / (‖ᾱ‖² + ε)`.

    Args:
        alpha: class weights.
        mean: mean class weights of the contrast set, ᾱ.
        eps: ε; the absolute 1e-8 is the paper's form, which depends on the gradients' scale.
        eps_relative: take `ε = eps · ‖α‖²` instead, which makes the map independent of the gradients' scale.

    Returns:
        Effective weights. Where ᾱ is zero they are α itself.
    """
    scale = (alpha**2).sum(-1, keepdims=True) if eps_relative else 1.0
    beta = projection_share((alpha * mean).sum(-1, keepdims=True), (mean**2).sum(-1, keepdims=True), eps * scale)
    return alpha - beta * mean


def projection_share(product: Array, squared: Array, eps: Array | float) -> Array:
    """`β = ⟨α, ᾱ⟩ / (‖ᾱ‖² + ε)`, zero where the denominator is."""
    norm = squared + eps
    return product / jnp.where(norm > 0, norm, 1.0)


def orthogonal_to_span(alpha: Float[Array, " K"], others: Float[Array, "k K"]) -> Float[Array, " K"]:
    """Class weights minus their projection on the span of the contrast weights.

    An orthonormal basis of the span by Gram–Schmidt, twice for float32 accuracy; a contrast vector that lies in the span of
    those before it (to 1e-6 of its length) adds nothing. If what remains of α is below 1e-6 of α, it is zero: the span
    holds the target's weights, and the map is degenerate rather than rounding noise.
    """

    def remove(vector, basis):
        for _ in range(2):
            shadow = jnp.matmul(basis, vector, precision=HIGHEST)
            vector = vector - jnp.matmul(basis.T, shadow, precision=HIGHEST)
        return vector

    def unit_or_zero(vector, reference):
        squared, limit = (vector**2).sum(), RANK_TOLERANCE**2 * (reference**2).sum()
        kept = squared > limit
        return jnp.where(kept, vector / jnp.sqrt(jnp.where(kept, squared, 1.0)), 0.0), kept

    def extend(basis, member):
        i, vector = member
        unit, _ = unit_or_zero(remove(vector, basis), vector)
        return basis.at[i].set(unit), None

    basis, _ = jax.lax.scan(extend, jnp.zeros_like(others), (jnp.arange(len(others)), others))
    rest = remove(alpha, basis)
    return jnp.where(unit_or_zero(rest, alpha)[1], rest, 0.0)


def none(view: View, targets: Targets) -> EffectiveWeights:
    """`α_c` itself."""
    return view.class_weights(targets)


def mean_orthogonal(
    view: View, targets: Targets, sets: Sets, *, eps: float = EPS, eps_relative: bool = False
) -> EffectiveWeights:
    """`α_c − β_c ᾱ_c`, with ᾱ_c the mean weights of the contrast set; see `orthogonal_to`."""
    alpha = view.class_weights(targets)
    mean = _set_mean(view, sets, jnp.full(sets.shape, 1.0 / sets.shape[1], alpha.dtype))
    return orthogonal_to(alpha, mean, eps=eps, eps_relative=eps_relative)


def span_orthogonal(view: View, targets: Targets, sets: Sets, *, chunk: int = 32) -> EffectiveWeights:
    """`α_c` minus its projection on `span{α_j : j ∈ N(c)}`; see `orthogonal_to_span`. `chunk` targets at a time."""

    def one(member):
        target, others = member
        return orthogonal_to_span(view.class_weights(target[None])[0], view.class_weights(others))

    return map_in_chunks(one, (targets, sets), chunk=chunk)


def difference(view: View, targets: Targets, sets: Sets, *, gamma: float = 1.0) -> EffectiveWeights:
    """`Σ_j p_j (α_c − γ α_j) / Σ_j p_j` over the contrast set, with p by the model's link."""
    return view.class_weights(targets) - gamma * _set_mean(view, sets, shares(view.logits[sets], view.link))


def mean(view: View, targets: Targets) -> EffectiveWeights:
    """`α_c − mean_{j≠c} α_j` over all other classes, of which one pullback gives the sum."""
    classes = len(view.logits)
    require(classes >= 2, "targets", f"a class of {classes}", "a model of at least 2 classes, one to contrast with")
    total = channel_means(at_least_float32(view.pull(jnp.ones_like(view.logits))))
    return (classes * view.class_weights(targets) - total) / (classes - 1)


def maximum(view: View, targets: Targets) -> EffectiveWeights:
    """`α_c − α_j` with j the likeliest other class."""
    rivals = topk_logits(1, len(view.logits))(view.logits, targets)[:, 0]
    return view.class_weights(targets) - view.class_weights(rivals)


def softmax(view: View, targets: Targets) -> EffectiveWeights:
    """`mean_{hw} ∂ log p_c/∂A`, that is `Σ_{j≠c} p_j (α_c − α_j)` over all classes: the weighted contrast times 1 − p_c.

    With m the likeliest class, `s = Σ_{j≠m} p_j` and `r = Σ_{j≠m} p_j α_j`, the weights are `s α_m − r` for m itself and
    `α_c − p_m α_m − r` for the others: nothing cancels as p_m → 1, down to the smallest probability that float32 holds.

    Under the link `sigmoid` p_c depends on y_c alone, and they are `(1 − p_c) α_c`: there are no others to contrast with.
    """
    if view.link == "sigmoid":
        absent = jax.vmap(lambda c: complement(view.logits, c, view.link))(targets)
        return absent[:, None] * view.class_weights(targets)
    probabilities = probabilities_of(view.logits, view.link)
    likeliest = view.logits.argmax()
    others = probabilities.at[likeliest].set(0.0)
    rest = channel_means(at_least_float32(view.pull(others)))
    alpha, alpha_likeliest = view.class_weights(targets), view.class_weights(likeliest[None])[0]
    of_others = alpha - probabilities[likeliest] * alpha_likeliest
    absent = complement(view.logits, likeliest, view.link)
    return jnp.where((targets == likeliest)[:, None], absent * alpha, of_others) - rest

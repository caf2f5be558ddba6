"""Integrated gradients."""

from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from case_jax._checks import require, unknown
from case_jax.contrast.sets import Query
from case_jax.methods.attribution import Reduce, baseline_image, signed, summed_gradients
from case_jax.methods.cam import evidence, of_existing
from case_jax.tap.view import View, at_least_float32

Rule = Literal["gausslegendre", "riemann_trapezoid"]
RULES: tuple[Rule, ...] = get_args(Rule)


def quadrature(rule: Rule, steps: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes in [0, 1] and weights of an integral over it.

    `gausslegendre` is exact for polynomials of degree 2n − 1. `riemann_trapezoid` is what captum calls so: n equidistant nodes from 0
    to 1 of weight 1/n, half of it at the ends. The weights then sum to 1 − 1/n, so the attributions miss a share 1/n of the logit's
    change; it is here for comparison with captum's numbers.

    Raises:
        CaseJaxError: for an unknown rule, or fewer steps than it needs (1 and 2).
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    least = 1 if rule == "gausslegendre" else 2
    require(steps >= least, "steps", steps, f"at least {least} for the rule {rule!r}")
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    weights = np.full(steps, 1 / steps)
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


def _integrated(
    view: View, targets: Array, reduce: Reduce, *, steps: int, rule: Rule, baseline: Any, batch: int
) -> Array:
    nodes, weights = quadrature(rule, steps)
    start = baseline_image(view, baseline)
    change = view.image - start
    return summed_gradients(
        view,
        targets,
        lambda total: reduce(at_least_float32(change) * total),
        lambda node: start + node.astype(change.dtype) * change,
        jnp.asarray(nodes, at_least_float32(change).dtype),
        weights,
        batch=batch,
    )


def integrated_gradients_attribution(
    view: View,
    targets: Int[Array, " T"],
    *,
    steps: int = 32,
    rule: Rule = "gausslegendre",
    baseline: Any = None,
    batch: int = 8,
) -> Float[Array, "T *space D"]:
    """The signed attribution at input resolution; it sums to `f_c(x) − f_c(x₀)` as far as the quadrature is exact.

    Arguments, degenerate values and errors as in `integrated_gradients`.
    """
    return _integrated(view, targets, signed, steps=steps, rule=rule, baseline=baseline, batch=batch)


def convergence_delta(
    view: View, targets: Int[Array, " T"], attribution: Float[Array, "T *space D"], *, baseline: Any = None
) -> Float[Array, " T"]:
    """How far an attribution is from complete: `Σ attribution − (f_c(x) − f_c(x₀))` of each target, in logits."""
    change = at_least_float32(view.logits) - at_least_float32(view.predict(baseline_image(view, baseline)))
    return of_existing(view, Query(targets), attribution.sum(tuple(range(1, attribution.ndim))) - change[targets])


def integrated_gradients(
    view: View,
    query: Query,
    *,
    steps: int = 32,
    rule: Rule = "gausslegendre",
    baseline: Any = None,
    batch: int = 8,
    sign: int = 1,
) -> Float[Array, "T *space"]:
    """What each pixel adds to the class's logit on the straight way from a baseline to the image.

    `relu(Σ_d (x − x₀)[..,d] · ∫₀¹ ∂f_c/∂x (x₀ + α(x − x₀))[..,d] dα)` over the colour channels d. Before the positive part the
    attributions are complete: they sum to `f_c(x) − f_c(x₀)` up to the quadrature's error (`convergence_delta`); the map is not.

    Args:
        view: one image's view.
        query: targets (T,); contrast sets and key are not used.
        steps: n, nodes of the quadrature.
        rule: `gausslegendre`, or `riemann_trapezoid` as in captum (see `quadrature`).
        baseline: x₀ in normalised units: a number, one pixel (3,), or an image; by default 0, the data set's mean.
        batch: most images on the way in memory at once.
        sign: −1 for what speaks against the class: the map of the negated score (counterfactual maps).

    Returns:
        One map per target at input resolution, unscaled, ≥ 0; all zero where no pixel speaks for the class, NaN for a class that
        the model does not have.

    Raises:
        CaseJaxError: for an unknown rule, too few steps, a baseline of another shape, or a batch below 1.

    Sundararajan, Taly, Yan, Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv 1703.01365).
    """
    return _integrated(
        view, query.targets, lambda a: evidence(a.sum(-1), sign), steps=steps, rule=rule, baseline=baseline, batch=batch
    )

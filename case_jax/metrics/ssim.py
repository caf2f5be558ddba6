"""Structural similarity of two maps."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.imageops import require_pictures

WINDOW, SIGMA = 11, 1.5


def ssim(first: Float[Array, "H W"], second: Float[Array, "H W"]) -> Float[Array, ""]:
    """Mean structural similarity of two maps with values in [0, 1]; 1 for equal maps.

    `SSIM = mean over positions of (2 μₐμ_b + C₁)(2 σ_ab + C₂) / ((μₐ² + μ_b² + C₁)(σₐ² + σ_b² + C₂))`, with Gaussian-weighted means,
    variances and covariance in a window of 11×11 pixels (σ = 1.5, weights divided by their sum, no sample correction),
    C₁ = 0.01², C₂ = 0.03², and the positions whose window lies inside the map. This is scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)`.

    Args:
        first: one map, in [0, 1].
        second: another of the same shape.

    Returns:
        The similarity, −1 to 1, computed in float32 at least. Two all-zero maps are equal, and so are two equal constants: leave
        degenerate maps out. NaN where a map holds NaN.

    Raises:
        CaseJaxError: for maps of other shapes, or with a side below 11 pixels.

    Wang, Bovik, Sheikh, Simoncelli, Image quality assessment: from error visibility to structural similarity (2004).
    """
    shape = first.shape
    require_pictures("SSIM", len(shape))
    accepted = f"two maps of one shape (H, W) with sides of at least {WINDOW} pixels, the window; batch with jax.vmap"
    proper = len(shape) == 2 and shape == second.shape and min(shape) >= WINDOW
    require(proper, "first, second", f"shapes {shape} and {second.shape}", accepted)
    dtype = jnp.float64 if jnp.float64 in (first.dtype, second.dtype) else jnp.float32
    # the window's statistics do not depend on where zero lies, so a common shift spares the variances most of their rounding
    a, b = first.astype(dtype) - 0.5, second.astype(dtype) - 0.5
    ua, ub, aa, bb, ab = _windowed(jnp.stack([a, b, a * a, b * b, a * b]))
    va, vb, covariance = aa - ua * ua, bb - ub * ub, ab - ua * ub
    ua, ub, c1, c2 = ua + 0.5, ub + 0.5, 0.01**2, 0.03**2
    above = (2 * ua * ub + c1) * (2 * covariance + c2)
    return (above / ((ua * ua + ub * ub + c1) * (va + vb + c2))).mean()


def _windowed(fields: Float[Array, "n H W"]) -> Float[Array, "n h w"]:
    """Gaussian-weighted means of all windows that lie inside."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    for axis in (1, 2):
        inside = fields.shape[axis] - WINDOW + 1
        slices = [jax.lax.slice_in_dim(fields, i, i + inside, axis=axis) for i in range(WINDOW)]
        fields = sum(
            (float(w) * s for w, s in zip(weights / weights.sum(), slices, strict=True)), jnp.zeros_like(slices[0])
        )
    return fields

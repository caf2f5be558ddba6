"""Noisy linear imputation: removed pixels become weighted means of their neighbours."""

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from case_jax._checks import require
from case_jax.imageops import require_pictures, resize_map
from case_jax.tap.head import at_least_float32

EDGES = ((0, 1, 1 / 6), (1, 0, 1 / 6), (1, 1, 1 / 12), (1, -1, 1 / 12))
"""Half of a pixel's neighbours (rows down, columns right) and their weights; the other half follows by symmetry."""
COARSEST = 4
"""No grid is made from one with a side of so many pixels or fewer."""
TOLERANCE, MAX_ITERATIONS = 1e-6, 500
"""Relative residual at which the solution is within 1e-5 of the image's range; it takes about 40 iterations at any size."""


def impute(
    image: Float[Array, "H W D"],
    removed: Bool[Array, "H W"],
    *,
    noise: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "H W D"]:
    """Replace removed pixels so that each is the weighted mean of its neighbours, plus noise.

    `Σ_n w_n (u − u_n) = 0` at every removed pixel u, over its up to eight neighbours inside the image, w_n = 1/6 for direct and 1/12 for
    diagonal ones; kept pixels stay. This sparse linear system is solved by conjugate gradients with a multilevel preconditioner.

    Args:
        image: one normalised image.
        removed: which of its pixels are removed.
        noise: standard deviation of the Gaussian noise added to removed pixels, in the image's units; 0.01 in the public code.
        key: random key of this image, for the noise.

    Returns:
        The image, in its own dtype; solved in float32 at least. Removed pixels without any path to a kept one (where all are removed) become 0.

    Raises:
        CaseJaxError: for a mask of another size, a negative noise, or noise without a key.

    Rong, Leemann, Borisov, Kasneci, Kasneci, A Consistent and Efficient Evaluation Strategy for Attribution Methods (arXiv 2202.00449); equal to
    `NoisyLinearImputer` of pytorch-grad-cam, which factorises the matrix, to 1e-5 of the image's range.
    """
    require_pictures("ROAD's imputation of pixels", image.ndim - 1)
    proper = image.ndim == 3 and removed.shape == image.shape[:2]
    accepted = "one image (H, W, D) and the mask (H, W) of its removed pixels; batch with jax.vmap"
    require(proper, "image, removed", f"shapes {image.shape} and {removed.shape}", accepted)
    require(noise >= 0, "noise", noise, "a standard deviation of at least 0")
    require(
        noise == 0 or key is not None,
        "key",
        key,
        "this image's key where noise is above 0, for example jax.random.key(0)",
    )
    planes = jnp.moveaxis(at_least_float32(image), -1, 0)
    gone = removed.astype(planes.dtype)
    solution, _ = cg(
        lambda u: gone * _differences(u),
        -gone * _differences(jnp.where(removed, 0.0, planes)),
        tol=TOLERANCE,
        maxiter=MAX_ITERATIONS,
        M=_preconditioner(removed, planes.dtype),
    )
    if noise > 0 and key is not None:
        solution = solution + noise * jax.random.normal(key, planes.shape, planes.dtype)
    return jnp.where(removed[..., None], jnp.moveaxis(solution, 0, -1).astype(image.dtype), image)


def _differences(planes: Float[Array, "D H W"]) -> Float[Array, "D H W"]:
    """`Σ_n w_n (u − u_n)` at every pixel, over neighbours inside the image.

    Summed from differences of neighbours: these are almost exact where the planes are smooth, and only so does float32 suffice.
    """
    _, height, width = planes.shape
    total = jnp.zeros_like(planes)
    for down, right, weight in EDGES:
        left, over = max(0, -right), max(0, right)
        flow = weight * (planes[:, : height - down, left : width - over] - planes[:, down:, over : width - left])
        here, there = ((0, 0), (0, down), (left, over)), ((0, 0), (down, 0), (over, left))
        total = total + jnp.pad(flow, here) - jnp.pad(flow, there)
    return total


def _preconditioner(
    removed: Bool[Array, "H W"], dtype: DTypeLike
) -> Callable[[Float[Array, "D H W"]], Float[Array, "D H W"]]:
    """The sum of the residual and of its smoothed copies on ever coarser grids (Bramble, Pasciak, Xu 1990).

    `M⁻¹ r = r + Σ_l P_l R_l P_lᵀ r`, P_l bilinear interpolation from grid l to the image, R_l the coarse pixels whose whole support has been
    removed. Without it the number of iterations grows with the diameter of the removed region.
    """
    shapes = [removed.shape]
    while min(shapes[-1]) > COARSEST:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    kept, active = (~removed)[None].astype(dtype), []
    for fine, coarse in pairwise(shapes):
        kept = (_coarsen(kept, fine, coarse) > 0).astype(dtype)
        active.append(1 - kept)

    def precondition(residual: Float[Array, "D H W"]) -> Float[Array, "D H W"]:
        parts = [residual]
        for inner, (fine, coarse) in zip(active, pairwise(shapes), strict=True):
            parts.append(inner * _coarsen(parts[-1], fine, coarse))
        smooth = parts.pop()
        while parts:
            part = parts.pop()
            smooth = part + resize_map(smooth, part.shape[-2:])
        return smooth

    return precondition


def _coarsen(planes: Float[Array, "D H W"], fine: tuple[int, ...], coarse: tuple[int, ...]) -> Float[Array, "D h w"]:
    """The transpose of bilinear interpolation from the coarse to the fine grid."""
    like = jax.ShapeDtypeStruct((len(planes), *coarse), planes.dtype)
    return jax.linear_transpose(lambda u: resize_map(u, fine), like)(planes)[0]

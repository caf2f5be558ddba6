"""Signature Activation: where the signs of a layer's spatial frequencies agree, and its control that never sees the classifier."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.imageops import blur
from case_jax.methods.cam import of_existing
from case_jax.tap.view import View, at_least_float32

ROUNDING = 1e-5
"""Share of a channel's largest coefficient up to which another one counts as zero: what float32 leaves where theory has nothing."""
SIDE, SIGMA = 64, 0.045
"""Of the image signature: its longest side at most, and the blur as a share of it."""


def cosines(count: int) -> Float[np.ndarray, "n n"]:
    """The orthonormal DCT-II as a matrix: `C[k,i] = √(2/n) cos(π (2i+1) k / (2n))`, row 0 divided by √2; its transpose is its inverse."""
    frequencies, places = np.arange(count)[:, None], np.arange(count)
    matrix = math.sqrt(2 / count) * np.cos(np.pi * (2 * places + 1) * frequencies / (2 * count))
    matrix[0] /= math.sqrt(2)
    return matrix


def signature(channels: Float[Array, "*space K"], *, reference_scaling: bool = False) -> Float[Array, "*space"]:
    """The mean over channels of the squared signature: `D = C A Cᵀ`, `R = Cᵀ sign(D) C`, `mean_k R_k²`; C along every spatial axis.

    The magnitudes of all coefficients are thrown away, those of channels too. A coefficient of at most 1e-5 of its channel's largest has the
    sign 0: rounding decides no sign. Summed over positions a channel gives the number of its nonzero signs, so that the mean is at most 1.

    Args:
        channels: an image or a layer's activation.
        reference_scaling: as the authors' notebook computes it, whose transform along the first axis is not orthonormal: the way back weighs
            that axis' frequency 0 by 1/√2, and all by √(2h). The map of a transposed image is then not the transposed map.

    Returns:
        ≥ 0; constant for channels that are constant, zero for channels that are zero.
    """
    axes = tuple(range(channels.ndim - 1))
    waves = [jnp.asarray(cosines(channels.shape[axis]), channels.dtype) for axis in axes]

    def along_all(values: Array, matrices: list[Array]) -> Array:
        for axis, matrix in enumerate(matrices):
            turned = jnp.tensordot(matrix, values, (1, axis), precision=jax.lax.Precision.HIGHEST)
            values = jnp.moveaxis(turned, 0, axis)
        return values

    found = along_all(channels, waves)
    signs = jnp.where(jnp.abs(found) > ROUNDING * jnp.abs(found).max(axes), jnp.sign(found), 0)
    if reference_scaling:
        signs = (signs * math.sqrt(2 * channels.shape[0])).at[0].divide(math.sqrt(2))
    return (along_all(signs, [wave.T for wave in waves]) ** 2).mean(-1)


def signature_activation(view: View, query: Query, *, reference_scaling: bool = False) -> Float[Array, "T *space"]:
    """The signature of the activation: channels weigh alike, whatever their size, and only where their frequencies agree in sign counts.

    See `signature` for the equations. No gradient, no class: one forward pass. The bilateral filter of the authors' pictures is left out.

    Class-blind: a control for every test of class sensitivity that still depends on classifier and image.

    Args:
        view: one image's view.
        query: targets (T,), of which only the number is used.
        reference_scaling: as the authors' notebook scales its transform.

    Returns:
        The same map for every target at the layer's resolution, less its minimum; all zero for an activation whose channels are constant; NaN
        for a class that the model does not have.

    Tello Ayala, Fahed, Pan, Pomerantsev, Ellinor, Philippakis, Doshi-Velez, *Signature Activation*, 2023 (arXiv 2309.11443).
    """
    found = signature(at_least_float32(view.activation), reference_scaling=reference_scaling)
    return of_existing(view, query, _from_zero(found, len(query.targets)))


def image_signature(view: View, query: Query) -> Float[Array, "T *space"]:
    """The signature of the image, whatever the classifier and the class: class-blind by construction.

    An image whose longest side is above 64 is made so long (the original: so wide), by linear interpolation that averages what it leaves out; the
    colour channels as they are given stand for the original's CIE Lab; the map is blurred by 0.045 of its longest side.

    Args:
        view: one image's view, of which only the image is used.
        query: targets (T,), of which only the number is used.

    Returns:
        The same map for every target, at most 64 long, less its minimum; all zero for an image of one colour.

    Hou, Harel, Koch, *Image Signature: Highlighting Sparse Salient Regions*, PAMI 2012.
    """
    *sides, colours = view.image.shape
    small, longest, side = at_least_float32(view.image), max(sides), min(SIDE, max(sides))
    if side < longest:
        small = jax.image.resize(small, (*(max(1, round(side * n / longest)) for n in sides), colours), "linear")
    found = blur(signature(small)[..., None], SIGMA * side)[..., 0]
    return _from_zero(found, len(query.targets))


def _from_zero(one: Float[Array, "*space"], count: int) -> Float[Array, "T *space"]:
    """One map for all targets, less its minimum; all zero where what stands out is rounding."""
    least, most = one.min(), one.max()
    risen = jnp.where(most - least > ROUNDING * most, one - least, 0)
    return jnp.broadcast_to(risen, (count, *one.shape))

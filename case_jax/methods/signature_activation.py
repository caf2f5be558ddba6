"""Signature Activation: where the signs of a layer's spatial frequencies agree, and its control that never sees the classifier."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.imageops import blur, require_pictures
from case_jax.methods.cam import of_existing
from case_jax.tap.view import View, at_least_float32

ROUNDING = 1e-5
"""Share of a channel's largest coefficient up to which another one counts as zero: what float32 leaves where theory has nothing."""
WIDTH, SIGMA = 64, 0.045
"""Of the image signature: the most columns, and the blur as a share of the columns."""


def cosines(count: int) -> Float[np.ndarray, "n n"]:
    """The orthonormal DCT-II as a matrix: `C[k,i] = √(2/n) cos(π (2i+1) k / (2n))`, row 0 divided by √2; its transpose is its inverse."""
    frequencies, places = np.arange(count)[:, None], np.arange(count)
    matrix = math.sqrt(2 / count) * np.cos(np.pi * (2 * places + 1) * frequencies / (2 * count))
    matrix[0] /= math.sqrt(2)
    return matrix


def signature(channels: Float[Array, "h w K"], *, reference_scaling: bool = False) -> Float[Array, "h w"]:
    """The mean over channels of the squared signature: `D = C A Cᵀ`, `R = Cᵀ sign(D) C`, `mean_k R_k²`.

    The magnitudes of all coefficients are thrown away, those of channels too. A coefficient of at most 1e-5 of its channel's largest has the
    sign 0: rounding decides no sign. Summed over positions a channel gives the number of its nonzero signs, so that the mean is at most 1.

    Args:
        channels: an image or a layer's activation.
        reference_scaling: as the authors' notebook computes it, whose transform along the rows is not orthonormal: the way back weighs the
            rows' frequency 0 by 1/√2, and all by 2h. The map of a transposed image is then not the transposed map.

    Returns:
        ≥ 0; constant for channels that are constant, zero for channels that are zero.
    """
    height, width, _ = channels.shape
    down, across = (jnp.asarray(cosines(n), channels.dtype) for n in (height, width))
    exact = jax.lax.Precision.HIGHEST
    found = jnp.einsum("uy,yxk,vx->uvk", down, channels, across, precision=exact)
    signs = jnp.where(jnp.abs(found) > ROUNDING * jnp.abs(found).max((0, 1)), jnp.sign(found), 0)
    if reference_scaling:
        signs = (signs * math.sqrt(2 * height)).at[0].divide(math.sqrt(2))
    back = jnp.einsum("uy,uvk,vx->yxk", down, signs, across, precision=exact)
    return (back**2).mean(-1)


def signature_activation(view: View, query: Query, *, reference_scaling: bool = False) -> Float[Array, "T h w"]:
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

    Raises:
        CaseJaxError: for anything but pictures.

    Tello Ayala, Fahed, Pan, Pomerantsev, Ellinor, Philippakis, Doshi-Velez, *Signature Activation*, 2023 (arXiv 2309.11443).
    """
    require_pictures("signature_activation", view.activation.ndim - 1)
    found = signature(at_least_float32(view.activation), reference_scaling=reference_scaling)
    return of_existing(view, query, _from_zero(found, len(query.targets)))


def image_signature(view: View, query: Query) -> Float[Array, "T h w"]:
    """The signature of the image, whatever the classifier and the class: class-blind by construction.

    An image wider than 64 is made so wide, by linear interpolation that averages what it leaves out; the colour channels as they are given stand for
    the original's CIE Lab; the map is blurred by 0.045 of its width.

    Args:
        view: one image's view, of which only the image is used.
        query: targets (T,), of which only the number is used.

    Returns:
        The same map for every target, at most 64 wide, less its minimum; all zero for an image of one colour.

    Raises:
        CaseJaxError: for anything but pictures.

    Hou, Harel, Koch, *Image Signature: Highlighting Sparse Salient Regions*, PAMI 2012.
    """
    require_pictures("image_signature", view.image.ndim - 1)
    height, width, _ = view.image.shape
    small, wide = at_least_float32(view.image), min(WIDTH, width)
    if wide < width:
        small = jax.image.resize(small, (max(1, round(wide * height / width)), wide, small.shape[-1]), "linear")
    found = blur(signature(small)[..., None], SIGMA * wide)[..., 0]
    return _from_zero(found, len(query.targets))


def _from_zero(one: Float[Array, "h w"], count: int) -> Float[Array, "T h w"]:
    """A map less its minimum, which is rounding alone where nothing stands out."""
    least, most = one.min(), one.max()
    risen = jnp.where(most - least > ROUNDING * most, one - least, 0)
    return jnp.broadcast_to(risen, (count, *one.shape))

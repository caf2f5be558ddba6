"""Controls: maps that know nothing of the classifier."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError
from case_jax.contrast.sets import Query
from case_jax.tap.view import View, at_least_float32


def random_map(view: View, query: Query) -> Float[Array, "T *space"]:
    """Independent uniform noise for every image and target: as class-sensitive as can be, and worthless.

    Args:
        view: one image's view; only the image's size is used.
        query: targets (T,) and the image's key.

    Returns:
        One map per target at input resolution, in [0, 1).

    Raises:
        CaseJaxError: when the query has no key.
    """
    key = query.key
    if key is None:
        raise CaseJaxError(
            "key: the random map needs this image's key; build the query with ask(..., key=jax.random.key(0))."
        )
    keys = jax.vmap(lambda target: jax.random.fold_in(key, target))(query.targets)
    return jax.vmap(lambda key: jax.random.uniform(key, view.image.shape[:-1]))(keys)


def centre_gaussian(view: View, query: Query, *, width: float = 0.25) -> Float[Array, "T *space"]:
    """A Gaussian in the middle of the image, whatever the image and the class: class-blind by construction.

    Args:
        view: one image's view; only the image's size is used.
        query: targets (T,), of which only the number is used.
        width: standard deviation as a share of the image's sides.

    Returns:
        The same map for every target at input resolution, in (0, 1].
    """
    shape = view.image.shape[:-1]
    along = [((jnp.arange(n, dtype=jnp.float32) + 0.5) / n - 0.5) / width for n in shape]
    squares = jnp.meshgrid(*(places**2 for places in along), indexing="ij", sparse=True)
    gaussian = jnp.exp(-0.5 * functools.reduce(operator.add, squares))
    return jnp.broadcast_to(gaussian, (len(query.targets), *shape))


def whole_image(view: View, query: Query) -> Float[Array, "T *space"]:
    """Everything but the first pixel, whatever the image and the class: as a mask it hides next to nothing, so that average drop is near 0.

    Args:
        view: one image's view; only the image's size is used.
        query: targets (T,), of which only the number is used.

    Returns:
        The same map for every target at input resolution, 1 everywhere but for a 0 at the first position, without which it would be constant and so
        enter no score. Its ranking of pixels means nothing.

    Poppi et al., Revisiting the Evaluation of Class Activation Mapping for Explainability, 2021 (arXiv 2104.10252), call it Fake-CAM.
    """
    shape = view.image.shape[:-1]
    return jnp.broadcast_to(jnp.ones(shape).at[(0,) * len(shape)].set(0.0), (len(query.targets), *shape))


def sobel_edges(view: View, query: Query) -> Float[Array, "T *space"]:
    """The edges of the image, whatever the classifier and the class: class-blind by construction.

    `√((Sₓ ∗ g)² + (S_y ∗ g)²)`, g the mean of the colour channels, `Sₓ = (1, 2, 1)ᵀ (−1, 0, 1) / 8`, so that a ramp has its slope per
    pixel; the outermost pixels are repeated beyond the border. In signals and volumes the same: a difference along one axis, smoothed along
    all others.

    Args:
        view: one image's view, of which only the image is used.
        query: targets (T,), of which only the number is used.

    Returns:
        The same map for every target at input resolution, in the image's normalised units, ≥ 0; all zero for an image of one colour.

    Sobel and Feldman 1968; as a yardstick for saliency maps in Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018
    (arXiv 1810.03292).
    """
    grey = jnp.pad(at_least_float32(view.image).mean(-1), 1, mode="edge")

    def derivative(axis: int) -> Array:
        a = jnp.moveaxis(grey, axis, 0)
        across = (a[2:] - a[:-2]) / 2
        for other in range(1, grey.ndim):
            a = jnp.moveaxis(across, other, 0)
            across = jnp.moveaxis((a[:-2] + 2 * a[1:-1] + a[2:]) / 4, 0, other)
        return jnp.moveaxis(across, 0, axis)

    edges = functools.reduce(jnp.hypot, map(derivative, range(1, grey.ndim)), jnp.abs(derivative(0)))
    return jnp.broadcast_to(edges, (len(query.targets), *edges.shape))

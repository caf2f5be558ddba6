"""Random views of photographs, as classifiers are trained on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def random_view(key: Key[Array, ""], image: Float[Array, "H W D"]) -> Float[Array, "H W D"]:
    """A random rectangle of the image, resized to the image's size, mirrored half of the time.

    The rectangle has 8% to 100% of the area and an aspect ratio of 3:4 to 4:3, log-uniform, cut down to the image where it would leave
    it; interpolation is linear with antialias. Batch with `jax.vmap`.

    Szegedy et al., *Going deeper with convolutions*, CVPR 2015.
    """
    height, width = image.shape[:2]
    area_key, ratio_key, place, mirror = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (), minval=AREA[0], maxval=AREA[1])
    ratio = jnp.exp(jax.random.uniform(ratio_key, (), minval=jnp.log(RATIO[0]), maxval=jnp.log(RATIO[1])))
    sides = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / ratio, ratio])), 1.0)  # shares of height and width
    start = jax.random.uniform(place, (2,)) * (1 - sides) * jnp.array([height, width], jnp.float32)
    view = jax.image.scale_and_translate(image, image.shape, (0, 1), 1 / sides, -start / sides, "linear")
    return jnp.where(jax.random.bernoulli(mirror), view[:, ::-1], view)

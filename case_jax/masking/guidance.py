"""A masker's second stage on noisy sounds: masks that already follow the clean sound are pulled towards where it is loud.

Paissan, Ravanelli, Subakan, Listenable Maps for Audio Classifiers (ICML 2024, arXiv 2403.13086), fine-tuning.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LIKE, LOUD = 0.6, 0.35
"""How like the clean sound a masked one must be to be guided, and from which share of its largest value on the clean sound is loud."""


def likeness(clean: Float[Array, "B H W D"], shown: Float[Array, "B H W D"]) -> Float[Array, " B"]:
    """The cosine `⟨c ⊙ s⟩ / √(⟨c²⟩ ⟨s²⟩)` of two spectrograms, not centred; 0 where one of them is silent."""
    product, squares = (clean * shown).mean((1, 2, 3)), ((clean**2).mean((1, 2, 3)), (shown**2).mean((1, 2, 3)))
    norm = jnp.sqrt(squares[0]) * jnp.sqrt(squares[1])
    return jnp.where(norm > 0, product / jnp.where(norm > 0, norm, 1.0), 0.0)


def loud(clean: Float[Array, "B H W D"], *, share: float = LOUD) -> Bool[Array, "B H W"]:
    """Where the clean sound has at least this share of its largest value: the mask that is aimed at."""
    strength = clean.max(-1)
    return strength >= share * strength.max((1, 2), keepdims=True)


def guided(
    clean: Float[Array, "B H W D"], images: Float[Array, "B H W D"], mask: Float[Array, "B H W"], *, least: float = LIKE
) -> Bool[Array, " B"]:
    """Which masks are guided: those whose masked-in spectrogram `M ⊙ X` is like the clean one."""
    return likeness(clean, mask[..., None] * images) >= least


def guidance(clean: Float[Array, "B H W D"], mask: Float[Array, "B H W"]) -> Float[Array, " B"]:
    """Binary cross-entropy of the mask against `loud(clean)`, the mean over its values; in nats, 87 at most a value."""
    aim, smallest = loud(clean), jnp.finfo(mask.dtype).tiny
    return -jnp.log(jnp.maximum(jnp.where(aim, mask, 1 - mask), smallest)).mean((1, 2))

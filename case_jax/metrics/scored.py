"""What a metric sees of one image and one method."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from case_jax.tap.view import View


class Scored(NamedTuple):
    """One method's finished maps of one image's two likeliest classes, with all that a score may need."""

    maps: Float[Array, "2 H W"]
    """At input resolution, in [0, 1]; first the top-1, then the top-2 class."""
    degenerate: Bool[Array, "2"]
    """Which of the two rank nothing; scores that need them are NaN."""
    view: View
    targets: Int[Array, "2"]
    probabilities: Float[Array, "2"]
    regions: Bool[Array, "R H W"]
    """Evidence regions; R = 0 where the data have none."""
    region_classes: Int[Array, " R"]
    black: Float[Array, " 3"]
    """A black pixel in normalised units."""
    key: Key[Array, ""]
    """This image's random key."""

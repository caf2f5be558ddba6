"""What a metric sees of one image and one method."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from case_jax.tap.view import View


class MetricInputs(NamedTuple):
    """One method's finished maps of some of one image's classes, with all that a score may need."""

    maps: Float[Array, "T *space"]
    """At input resolution, in [0, 1]; first the top-1, then the top-2 class, then, where a metric of the run needs one, a class
    drawn at random from all but the top-1."""
    degenerate: Bool[Array, " T"]
    """Which of them rank nothing; scores that need them are NaN."""
    view: View
    targets: Int[Array, " T"]
    probabilities: Float[Array, " T"]
    """Of the targets, in float32 at least."""
    regions: Bool[Array, "R *space"]
    """Evidence regions; R = 0 where the data have none."""
    region_classes: Int[Array, " R"]
    black: Float[Array, " D"]
    """A black pixel in normalised units."""
    key: Key[Array, ""]
    """This image's random key."""
    explain: Callable[[Float[Array, "*space D"]], Float[Array, "*space"]] | None = None
    """This method's finished map of the top-1 class for another (altered) image; for metrics that say they need it."""
    of_image: Any = None
    """What `Metric.of_image` has made of this image; None where nothing has been, and the metric makes it itself."""
    removed: Any = None
    """What the classifier says without the top of the maps, from `removals.removed`; None where nothing has been asked, and the metric asks
    itself."""
    label: Int[Array, ""] | int = -1
    """The image's true class; −1 where it is unknown."""
    recursed: Callable[[Int[Array, ""], int], Float[Array, "rounds C"]] | None = None
    """A class and a number of rounds to the logits of the image masked by this method's own explanations, round by round, from the whole image
    on (`methods.masked_rounds`); for metrics that need the method itself."""

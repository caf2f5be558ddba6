"""From a view, targets and a contrast to the query that a method is asked."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, Key

from case_jax._checks import require
from case_jax.contrast.choice import AnyContrast, choose_contrast
from case_jax.contrast.sets import Against, HighestOthers, Query
from case_jax.tap.link import require_classes
from case_jax.tap.view import View


def ask(
    view: View, targets: Int[Array, " T"], contrast: AnyContrast | None = None, *, key: Key[Array, ""] | None = None
) -> Query:
    """The query about these targets of this image.

    Args:
        view: the image's view.
        targets: target classes.
        contrast: gives each target its contrast set, in any form that `choose_contrast` takes; None for methods that need none.
        key: this image's random key.

    Raises:
        CaseJaxError: for targets that are no vector of integers, or, outside of traces, that the model does not have. (Inside
            a trace such a target's weights are NaN, and its map is degenerate.) Also for a contrast that does not fit the classes.
    """
    given, targets = targets, jnp.asarray(targets)
    classes = view.logits.shape[0]
    require(
        targets.ndim == 1 and targets.size and jnp.issubdtype(targets.dtype, jnp.integer),
        "targets",
        f"shape {targets.shape}, dtype {targets.dtype}",
        "a vector of class indices, for example jnp.array([3, 7])",
    )
    require_classes("targets", given, classes)
    if contrast is None:
        return Query(targets, key=key)
    sets = choose_contrast(contrast, classes).sets
    if isinstance(sets, Against) and not isinstance(given, Tracer):
        sets.require_others(np.asarray(given))
    members = sets.members(view.logits) if isinstance(sets, HighestOthers) else None
    return Query(targets, sets(view.logits, targets), key, members)

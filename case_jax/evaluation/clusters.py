"""What the images of a run share with others, as columns of its rows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from case_jax._checks import require
from case_jax.source import Example


def cluster_columns(examples: Sequence[Example], count: int) -> dict[str, Int[np.ndarray, " n"]]:
    """`cluster_1`, … of these images; none where the source says nothing of what its images share.

    Args:
        examples: images of a tile, in order; may be none.
        count: ids that every image has, as the first image of the run.

    Raises:
        CaseJaxError: for an image that has another number of ids.
    """
    for example in examples:
        given = len(example.clusters)
        accepted = f"{count} like the first image; pad with −1"
        require(given == count, f"image {example.name!r}", f"{given} ids in `clusters`", accepted)
    ids = np.array([example.clusters for example in examples], np.int64).reshape(len(examples), count)
    return {f"cluster_{place}": column for place, column in enumerate(ids.T, start=1)}

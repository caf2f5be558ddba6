"""The compiled step of a sweep over pairs of classes, alone."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import METHODS, topk_logits
from case_jax.evaluation.batches import Batch
from case_jax.evaluation.maps import Pixels, Question
from case_jax.evaluation.studies.pair_counts import empty_counts, make_counting_step, pairs_in
from case_jax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from case_jax.parallel.grid import ALONE
from case_jax.ranking import pixel_count
from case_jax.tap import TappedModel

PIXELS = Pixels(IMAGENET_MEAN, IMAGENET_STD)


def compiled_step(model: TappedModel, methods: tuple[str, ...], images: np.ndarray, *, top: int, memory: int) -> Any:
    """The step of a sweep on one device, compiled, with the arguments for one call."""
    shape, count = images.shape[1:3], len(images)
    size = {"shape": shape, "tile": count, "methods": len(methods), "gradients": model.chunk}
    pairs = pairs_in(memory, top=top, pixels=pixel_count(5.0, shape), **size)
    question = Question({n: METHODS[n].maps for n in methods}, topk_logits(5, model.num_classes), PIXELS)
    step = partial(make_counting_step(question, model, pairs), share=ALONE)
    shapes = empty_counts(len(methods), model.num_classes, 1)
    counts = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    nowhere = np.zeros((count, 0, *shape), bool), np.zeros((count, 0), np.int32)
    batch = Batch(images, np.arange(count, dtype=np.int32), *nowhere, np.full(count, -1, np.int32))
    return jax.jit(step).lower(counts, model.params, batch).compile(), (counts, model.params, batch)

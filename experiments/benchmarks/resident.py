"""An evaluation's step on images that are already on the devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from case_jax import parallel
from case_jax.evaluation.batches import load_tile
from case_jax.evaluation.engine import Job


def resident_step(job: Job) -> Callable[[], Any]:
    """An evaluation's compiled step, to be called on its first tiles again and again: one tile a device."""
    (source, indices, _), [(step, *_)] = job.images, job.program.compiled
    loaded = [load_tile(source, indices, t, job.empty).batch for t in range(parallel.device_count())]
    batch = parallel.shard(jax.tree.map(lambda *a: np.stack(a), *loaded))
    return partial(step, parallel.replicate((job.model.params, job.question.carried())), batch)

"""An evaluation's step on images that are already on the devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from case_jax import parallel
from case_jax.evaluation.planning import Plan
from case_jax.evaluation.stream import load_tile, template


def resident_step(planned: Plan) -> Callable[[], Any]:
    """The plan's compiled step, to be called on its first tiles again and again: one tile a device."""
    empty, devices = template(planned.source, planned.indices, planned.tile), parallel.device_count()
    loaded = [load_tile(planned.source, planned.indices, t, empty).batch for t in range(devices)]
    batch = parallel.shard(jax.tree.map(lambda *a: np.stack(a), *loaded))
    return partial(planned.step, parallel.replicate(planned.model.params), batch)

"""Training that can be killed and goes on exactly: networks as pure functions, batches by number, one resumable loop."""

from case_jax.training.examples import Examples, few_shot
from case_jax.training.loop import Batch, Keys, Recipe, Task, require_shared, train
from case_jax.training.network import Network, Variables

__all__ = ["Batch", "Examples", "Keys", "Network", "Recipe", "Task", "Variables", "few_shot", "require_shared", "train"]

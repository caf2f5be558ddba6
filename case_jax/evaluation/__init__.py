"""Many images: the compiled step, the stream through the devices, resumable runs, sweeps, single explanations."""

from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.planning import Plan, plan
from case_jax.evaluation.run import evaluate
from case_jax.evaluation.step import Pixels

__all__ = ["Pixels", "Plan", "count_confusions", "evaluate", "plan"]

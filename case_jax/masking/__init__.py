"""Masking-based saliency (Phang, Park, Geras, arXiv 2010.09750; L-MAC for sound, arXiv 2403.13086): the masking model, what it is trained for, and
what fills its holes."""

from case_jax.masking.guidance import guidance
from case_jax.masking.infill import INFILLERS, InfillNet, infiller, masked_in, masked_out
from case_jax.masking.ingredients import LMAC, Ingredients, Side
from case_jax.masking.losses import objective, size_reward, total_variation
from case_jax.masking.masker import Masker, binary_concrete, to_image
from case_jax.masking.networks import networks
from case_jax.masking.task import masker_task
from case_jax.masking.trained import TrainedMasker, load_masker, save_masker

__all__ = [
    "INFILLERS",
    "LMAC",
    "InfillNet",
    "Ingredients",
    "Masker",
    "Side",
    "TrainedMasker",
    "binary_concrete",
    "guidance",
    "infiller",
    "load_masker",
    "masked_in",
    "masked_out",
    "masker_task",
    "networks",
    "objective",
    "save_masker",
    "size_reward",
    "to_image",
    "total_variation",
]

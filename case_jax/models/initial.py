"""A bundled network as it was before any training."""

import jax
from flax import nnx

from case_jax._checks import require_seed
from case_jax.models import Classifier
from case_jax.models.entries import ModelEntry
from case_jax.tap.view import Params

UNTRAINED = 0x5A17


def initial_params(classifier: Classifier, *, seed: int = 0) -> Params:
    """Parameters as the network's own initialisers draw them.

    Kernels are random; biases are 0, scales 1, and the statistics of batch normalisations those of no data (mean 0, variance 1), so that
    nothing that was learnt is left in any of them. The draws are never those that training with the same seed began with: such kernels would
    be like the trained ones.

    Args:
        classifier: from `load_classifier`.
        seed: of the draws.

    Returns:
        Parameters for `TappedModel.view` of the same classifier; see `fitted`.

    Raises:
        CaseJaxError: for a seed outside [0, 2³²).
    """
    return drawn_params(classifier.entry, classifier.outputs, seed=seed)


def drawn_params(entry: ModelEntry, outputs: int, *, seed: int = 0) -> Params:
    """As `initial_params`, of a network by its entry and how many numbers it returns."""
    require_seed(seed)
    rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(seed), UNTRAINED))
    return nnx.split(entry.build(outputs, rngs=rngs), nnx.RngState, ...)[2]

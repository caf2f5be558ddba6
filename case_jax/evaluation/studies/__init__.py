"""The studies: one question each, all on one engine. A study of one's own needs no entry here."""

from case_jax.evaluation.studies.evaluate import Evaluate
from case_jax.evaluation.studies.grid_pointing import OTHER_CELLS, GridPointing, of_mosaics
from case_jax.evaluation.studies.localise import Localise, localisation
from case_jax.evaluation.studies.pair_agreements import agreements
from case_jax.evaluation.studies.pairs import PairAgreement, prepare_pairs, run_pairs
from case_jax.evaluation.studies.sanity import Sanity

__all__ = [
    "OTHER_CELLS",
    "Evaluate",
    "GridPointing",
    "Localise",
    "PairAgreement",
    "Sanity",
    "agreements",
    "localisation",
    "of_mosaics",
    "prepare_pairs",
    "run_pairs",
]

"""Many images: studies on one engine that streams them through all devices into resumable runs.

subject = Subject(source, model, contrast, Pixels(mean, std), ["grad_cam", "case"])
folder = run(prepare(Evaluate(), subject, limit=1000), RunFolder("runs/mine"))
"""

from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.engine import prepare, run
from case_jax.evaluation.maps import Pixels
from case_jax.evaluation.studies import Evaluate, GridPointing, Localise, PairAgreement, Sanity
from case_jax.evaluation.subject import Subject

__all__ = [
    "Evaluate",
    "GridPointing",
    "Localise",
    "PairAgreement",
    "Pixels",
    "Sanity",
    "Subject",
    "count_confusions",
    "prepare",
    "run",
]

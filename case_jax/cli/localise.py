"""`case-jax localise`: do maps lie on the object, from the shell."""

from case_jax.cli.common import CommonArgs, run_study
from case_jax.evaluation.studies.localise import Localise, Target, require_located
from case_jax.metrics.localisation_curves import THRESHOLDS


def localise(
    common: CommonArgs,
    target: Target = "label",
    truth: str | None = None,
    thresholds: int = THRESHOLDS,
    reference_box: bool = False,
) -> None:
    """Do maps lie on the object? LE, OM, F1, SM, PxAP, MaxBoxAcc and what the maps are like, in one table with baselines.

    Needs data that say where their objects are: digit scenes, sound scenes, or ImageNet prepared with --boxes. If it is killed, the same
    command continues where it stopped.

    For example:

        case-jax localise --limit 200

        case-jax localise --methods grad_cam case centre_gaussian --truth marker

        case-jax localise --model resnet50 --data tfds:imagenet2012:validation --contrast topk_logits:5 --methods grad_cam case --crops ~/crops

    Args:
        common: options of all studies.
        target: whose map: that of the image's label, or of the likeliest class (predicted).
        truth: what counts as the object; of scenes `union` (body and the marker that the label names, the default), `body` or `marker`; of ImageNet `boxes`.
        thresholds: of MaxBoxAcc; most of the host's time is proportional to them.
        reference_box: make boxes as the masking paper's code does, without their last row and column.
    """
    study = Localise(target, truth, thresholds, reference_box)

    def asked(setup, subject):
        require_located(subject.source, truth)
        return study, subject

    run_study(common, asked, "localise", target, truth)

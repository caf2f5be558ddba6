"""`case-jax grid-pointing`: the grid pointing game from the shell."""

from case_jax.cli.common import Asked, CommonArgs, run_study
from case_jax.cli.setup import Setup
from case_jax.evaluation.kept_gallery import REGIONS
from case_jax.evaluation.studies.grid_pointing import OTHER_CELLS, GridPointing, of_mosaics
from case_jax.evaluation.studies.mosaics import require_confidence
from case_jax.evaluation.subject import Subject
from case_jax.metrics.grid_pointing import require_grid


def grid_pointing(
    common: CommonArgs,
    n: int = 2,
    mosaics: int = 100,
    confidence: float | None = None,
    difull: bool = True,
    upsampled: bool = False,
) -> None:
    """In mosaics of images of different classes, do maps lie in the cell of their own class?

    The contrast `mosaic` sets each class against those in the other cells, in place of the contrasts of `case-jax list contrasts`.
    --limit is the number of images to choose from. If it is killed, the same command continues where it stopped.

    For example:

        case-jax grid-pointing

        case-jax grid-pointing --n 3 --methods grad_cam case --contrast mosaic

        case-jax grid-pointing --data folder:photos --confidence 0.99 --contrast topk_logits:5

    Args:
        common: options of all studies.
        n: rows and columns of a mosaic.
        mosaics: how many, drawn once by the seed; each image is used once at most.
        confidence: images are used only if the classifier gives their class at least this probability; by default 0.99, and 0.6 for digit
            scenes, whose classifier is trained to give at most 0.7.
        difull: also run DiFull, in which the classifier sees every cell alone: a check of the score itself.
        upsampled: score maps enlarged to input resolution, as in published numbers.
    """
    require_grid(n)
    if confidence is not None:
        require_confidence(confidence)

    def asked(setup: Setup, subject: Subject) -> Asked:
        if common.model.contrast == OTHER_CELLS.name:
            subject = subject._replace(contrast=OTHER_CELLS)
        drawn = of_mosaics(
            subject,
            setup.tap,
            n=n,
            mosaics=mosaics,
            confidence=confidence,
            limit=common.limit,
            stall=common.devices.stall,
        )
        return GridPointing(n, difull, upsampled), drawn

    run_study(common, asked, "grid_pointing", f"{n}x{n}", limited=False, gallery=REGIONS)

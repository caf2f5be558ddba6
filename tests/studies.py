"""Studies in one call each, as most tests want them."""

from case_jax.evaluation import Evaluate, GridPointing, Localise, PairAgreement, Sanity, Subject, prepare, run
from case_jax.evaluation.studies import OTHER_CELLS, agreements, localisation, of_mosaics, prepare_pairs, run_pairs
from case_jax.methods import usual
from case_jax.results import RunFolder

METHODS = usual()
SUBJECT = ("seed", "model_name", "class_names")
HOW = ("limit", "tile", "part", "memory")


def parted(options, *kinds):
    """The options of each kind, and the rest."""
    taken = [{name: options.pop(name) for name in kind if name in options} for kind in kinds]
    return (*taken, options)


def asked(study, source, model, contrast, methods, pixels, options):
    """A study of type `study`, checked."""
    subject, how, rest = parted(dict(options), SUBJECT, HOW)
    return prepare(study(**rest), Subject(source, model, contrast, pixels, methods, **subject), **how)


def evaluation(source, model, contrast, *, pixels, methods=METHODS, **options):
    """An evaluation that can be run."""
    return asked(Evaluate, source, model, contrast, methods, pixels, options)


def localise(source, model, contrast, methods, path, *, pixels, **options):
    """What a localisation finds."""
    options = {"part": 4 * options.get("tile", 16), **options}
    return localisation(
        run(asked(Localise, source, model, contrast, methods, pixels, options), RunFolder(path), progress=False)
    )


def sanity(source, model, contrast, methods, path, *, pixels, **options):
    """The folder of sanity checks."""
    tile = options.get("tile", 8)
    job = asked(Sanity, source, model, contrast, methods, pixels, {"part": tile, **options})
    return run(job, RunFolder(path), progress=False)


def count_pairs(source, model, contrast, methods, *, pixels, folder=None, save_seconds=300.0, **options):
    """What is counted for every pair of classes."""
    subject, how, rest = parted(options, SUBJECT, ("limit", "tile"))
    job = prepare_pairs(PairAgreement(**rest), Subject(source, model, contrast, pixels, methods, **subject), **how)
    return run_pairs(job, folder, save_seconds=save_seconds, progress=False)


def play(source, tap, model, methods, path, *, pixels, contrast=OTHER_CELLS, **options):
    """The folder of the grid pointing game, and what was played."""
    drawing, subject, how, rest = parted(options, ("mosaics", "confidence", "limit"), SUBJECT, ("tile", "part"))
    n = rest.get("n", 2)
    drawn = of_mosaics(Subject(source, model, contrast, pixels, methods, **subject), tap, n=n, **drawing)
    job = prepare(GridPointing(**rest), drawn, **how)
    return job, run(job, RunFolder(path), progress=False)


__all__ = ["agreements", "count_pairs", "evaluation", "localise", "play", "sanity"]

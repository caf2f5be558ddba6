"""`case-jax pairs`: which pairs of classes a method fails to tell apart, from the shell."""

from pathlib import Path

from case_jax._checks import require
from case_jax.cli.commands import report
from case_jax.cli.common import CommonArgs, print_cost
from case_jax.cli.output import say
from case_jax.cli.processes import together
from case_jax.cli.setup import set_up
from case_jax.evaluation.cost import measure_pairs
from case_jax.evaluation.studies.pairs import MEMORY, SAVE_SECONDS, PairAgreement, prepare_pairs, run_pairs
from case_jax.evaluation.studies.superclasses import read_hierarchy
from case_jax.files import write_atomically


def pairs(
    common: CommonArgs,
    top: int | None = None,
    hierarchy: Path | None = None,
    agreement_percent: float = 5.0,
    class_shards: int = 1,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Mean agreement of the maps of every pair of classes: which classes does a method fail to tell apart?

    Most pairs of classes are easy to tell apart; --top 2 takes the two likeliest of each image alone, which is the class-sensitivity
    diagnostic. --memory bounds what maps may take on each device: they are made for as many classes at a time as fit.
    If it is killed, the same command continues where it stopped.

    For example:

        case-jax pairs --methods grad_cam case --limit 300

        case-jax pairs --top 2

        case-jax pairs --model resnet50 --data folder:val --methods grad_cam case --hierarchy wordnet.csv

        case-jax pairs --model resnet50 --data folder:val --methods case --top 20 --class-shards 4 --tile 64 --memory 2

    Args:
        common: options of all studies.
        top: pairs among this many likeliest classes of each image; all classes by default.
        hierarchy: CSV file with the columns class,superclass and every class once: agreement within and between super-classes.
        agreement_percent: k, percent of the pixels.
        class_shards: devices that share the classes of a tile, and the rows of the matrix; the others take other tiles.
        save_seconds: how often the sums so far are written, in seconds; a killed run loses at most this much work.
    """
    accepted = "a number of images: chunks of classes, not tiles, are what --memory bounds"
    require(common.tile != "auto", "tile", common.tile, accepted)
    require(common.part is None, "part", common.part, "nothing: sums are written every --save-seconds")
    common.devices.check()
    chosen = common.model.methods(common.methods)
    memory = MEMORY if common.memory is None else int(common.memory * 1e9)
    study = PairAgreement(top, agreement_percent, memory, class_shards)
    with together(common.processes) as first, common.devices.mapped():
        setup = set_up(common.model.for_data(common.data), common.crops, chosen)
        if hierarchy is not None:
            read_hierarchy(hierarchy, setup.classifier.class_names)
        subject, folder = common.subject(setup, chosen, "pairs", f"top{top}" if top else None)
        tile = common.tile if isinstance(common.tile, int) else None
        job = prepare_pairs(study, subject, limit=common.limit, tile=tile)
        if common.plan:
            print_cost(measure_pairs(job), job)
            return
        say(
            f"pairs: {len(job.images.indices):,} images of {subject.source.name} × {len(chosen)} methods into {folder.path}"
        )
        run_pairs(job, folder, save_seconds=save_seconds, stall=common.devices.stall)
        if first:
            from case_jax.report.pairs import HIERARCHY  # matplotlib

            if hierarchy is not None:
                write_atomically(folder.path / HIERARCHY, hierarchy.read_bytes())
            report(folder.path)

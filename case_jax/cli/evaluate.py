"""`case-jax evaluate`: the tests, from the shell."""

from case_jax.cli.common import Asked, CommonArgs, run_study
from case_jax.cli.named import ALL, chosen_metrics
from case_jax.cli.setup import Names, Setup
from case_jax.evaluation.default_methods import with_untrained
from case_jax.evaluation.studies.evaluate import Evaluate
from case_jax.evaluation.subject import Subject
from case_jax.methods import UNTRAINED
from case_jax.metrics import PERCENTS


def evaluate(
    common: CommonArgs,
    metrics: Names = (),
    agreement_percent: float = 5.0,
    fidelity_percents: tuple[float, ...] = PERCENTS,
    fill: str = "mean",
) -> None:
    """Run the class-sensitivity, fidelity and evidence tests and write a report.

    If it is killed, the same command continues where it stopped, on any number of devices and processes.

    For example:

        case-jax evaluate

        case-jax evaluate --methods grad_cam case --contrast topk_logits:3 --limit 200 --out runs/try

        case-jax evaluate --data folder:photos --contrast topk_logits:5

        case-jax evaluate --coordinator host0:1234 --process-count 2 --process-id 0    # and the same with 1 on another host

    Args:
        common: options of all studies.
        metrics: names from `case-jax list metrics`, or `all`; by default all but the slow ones.
        agreement_percent: k of the class-sensitivity diagnostic, percent of the pixels.
        fidelity_percents: how much the fidelity test removes, percent of the pixels; 50 must be among them.
        fill: what replaces removed pixels: mean, blur, noise or zero-pixel.
    """
    named = tuple(name for name in common.methods if name != UNTRAINED)
    chosen = common.model.methods(named, scored=True) if named or not common.methods else {}
    scored = chosen_metrics(metrics, common.model.set, chosen)
    study = Evaluate(tuple(scored), scored, agreement_percent, fidelity_percents, fill)

    def asked(setup: Setup, subject: Subject) -> Asked:
        usual, named = common.methods in ((), (ALL,)), UNTRAINED in common.methods
        if not usual and not named:
            return study, subject
        methods = with_untrained(subject.functions, setup.model, named=named, seed=common.seed)
        return study, subject._replace(methods=methods)

    run_study(common, asked, "evaluate", methods=chosen)

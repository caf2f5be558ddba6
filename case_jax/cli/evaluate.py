"""`case-jax evaluate`: the tests, from the shell."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tabulate import tabulate

from case_jax._checks import require
from case_jax.cli.commands import report
from case_jax.cli.processes import Processes, together
from case_jax.cli.ready import Model, Names, make_ready, require_outside, run_folder, say
from case_jax.evaluation.cost import counting, described, measure
from case_jax.evaluation.gallery import save_gallery
from case_jax.evaluation.planning import PART, TILE, Plan
from case_jax.evaluation.planning import plan as plan_evaluation
from case_jax.evaluation.run import evaluate as run_evaluation
from case_jax.metrics import PERCENTS

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]
ProcessesArgs = Annotated[Processes, tyro.conf.arg(name="")]


def evaluate(
    model: ModelArgs,
    processes: ProcessesArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    metrics: Names = (),
    limit: int | None = None,
    out: Path | None = None,
    agreement_percent: float = 5.0,
    fidelity_percents: tuple[float, ...] = PERCENTS,
    fill: str = "mean",
    tile: int | Literal["auto"] = TILE,
    part: int = PART,
    memory: float | None = None,
    precision: str = "float32",
    seed: int = 0,
    crops: Path | None = None,
    plan: bool = False,
) -> None:
    """Run the class-sensitivity, fidelity and evidence tests and write a report.

    Killed anywhere, the same command resumes where it was, on any number of devices and processes.

    For example:

        case-jax evaluate

        case-jax evaluate --methods grad_cam case --contrast topk_logits:3 --limit 200 --out runs/try

        case-jax evaluate --data folder:photos --contrast topk_logits:5

        case-jax evaluate --coordinator host0:1234 --process-count 2 --process-id 0    # and the same with 1 on another host

    Args:
        model: classifier and contrast.
        processes: several processes that share the run; --out must be a folder that all of them see.
        data: `digit_scenes[:SPLIT]`, `folder:PATH` (labels from sub-folders when there are any) or `tfds:NAME:SPLIT`.
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        metrics: names from `case-jax list metrics`, or `all`; by default all but the slow ones.
        limit: number of images, drawn once by the seed; all of a folder, and 1000 scenes, by default.
        out: run folder; by default one below runs/, named after data, model and limit.
        agreement_percent: k of the class-sensitivity diagnostic, percent of the pixels.
        fidelity_percents: how much the fidelity test removes, percent of the pixels; must hold 50.
        fill: what is put in place of removed pixels: mean, blur, noise or zero-pixel.
        tile: images per device and step; `auto` takes as many as --memory holds.
        part: images per result file; what a killed run loses.
        memory: GB per device for `--tile auto`; by default 0.8 of what there is.
        precision: of the classifier's passes: float32, tf32 or bf16; maps and scores are float32 always.
        seed: for drawing images and for random methods.
        crops: folder in which decoded images are kept, for this run and others on the same images; by default nowhere.
        plan: run nothing: print images, operations, bytes and the time that this would take here and on more chips, by a few measured steps.
    """
    accepted = "a bound in GB above 0, with --tile auto"
    require(memory is None or (memory > 0 and tile == "auto"), "memory", memory, accepted)
    chosen = model.methods(methods, scored=True)
    scored = model.metrics(metrics, chosen)
    with together(processes) as first:
        ready = make_ready(model, crops, chosen)
        source = ready.open(data, limit=limit, seed=seed)
        folder = run_folder(out, source.name, model.model, limit)
        require_outside(folder.path, source)
        if not plan:
            folder.require_writable()
        planned = plan_evaluation(
            source,
            ready.model,
            partial(ready.contrast, folder.path, evaluated=source, seed=seed, precision=precision, planning=plan),
            pixels=ready.pixels,
            methods=chosen,
            metrics=tuple(scored),
            metric_options=scored,
            agreement_percent=agreement_percent,
            fidelity_percents=fidelity_percents,
            fill=fill,
            limit=limit,
            seed=seed,
            tile=None if tile == "auto" else tile,
            part=part,
            memory=None if memory is None else int(memory * 1e9),
            precision=precision,
            model_name=model.model,
            class_names=ready.classifier.class_names,
        )
        if plan:
            _print_cost(planned)
            return
        say(f"evaluate: {len(planned.indices)} images of {source.name} × {len(chosen)} methods into {folder.path}")
        run_evaluation(planned, folder)
        if first:
            save_gallery(planned, folder)
            report(folder.path)


def _print_cost(planned: Plan) -> None:
    cost = measure(planned.step, planned.model, planned.source, planned.indices, planned.tile)
    lines, uncounted = described(cost, planned.config), planned.contrast.uncounted
    if uncounted is not None:
        lines.append(
            ("contrast sets", f"not counted by a plan, which takes a {planned.contrast.name} of the same shape")
        )
        lines.append(
            ("before a run", f"confusions are counted on {uncounted.source}: {counting(cost, uncounted.images)}")
        )
    print(tabulate(lines, tablefmt="plain"))
    rows = [(chips, hosts, f"{seconds:,.0f} s", bound) for chips, hosts, seconds, bound in cost.table()]
    without = "" if uncounted is None else ", counting of confusions not"
    print(f"\nPredicted for chips and hosts like this one, 4 chips a host, compilation included{without}:\n")
    print(tabulate(rows, headers=("chips", "hosts", "time", "bound by"), tablefmt="github"))

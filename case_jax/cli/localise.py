"""`case-jax localise`: do maps lie on the object, from the shell."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from case_jax.cli.processes import Processes, together
from case_jax.cli.ready import Model, Names, Ready, make_ready, require_outside, run_folder, say
from case_jax.evaluation.localise import TILE, Localisation, Target, require_located
from case_jax.evaluation.localise import localise as run_localisation
from case_jax.methods import titles_of
from case_jax.metrics.localisation_curves import THRESHOLDS
from case_jax.results import write_atomically, write_json
from case_jax.source import Source

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]
ProcessesArgs = Annotated[Processes, tyro.conf.arg(name="")]
LISTED = 10


def localise(
    model: ModelArgs,
    processes: ProcessesArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    target: Target = "label",
    truth: str | None = None,
    limit: int | None = None,
    out: Path | None = None,
    tile: int = TILE,
    thresholds: int = THRESHOLDS,
    reference_box: bool = False,
    seed: int = 0,
    crops: Path | None = None,
) -> None:
    """Do maps lie on the object? LE, OM, F1, SM, PxAP, MaxBoxAcc and what the maps are like, in one table with baselines.

    Needs data that say where their objects are: digit scenes, or ImageNet prepared with --boxes.

    Writes `parts/*.parquet` (a row per image and method), `summary.csv`, `summary.json` and `summary.md`. Killed anywhere, the same
    command resumes where it was.

    For example:

        case-jax localise --limit 200

        case-jax localise --methods grad_cam case centre_gaussian --truth marker

        case-jax localise --model resnet50 --data tfds:imagenet2012:validation --contrast topk_logits:5 --methods grad_cam case --crops ~/crops

    Args:
        model: classifier and contrast.
        processes: as in `case-jax evaluate`.
        data: `digit_scenes[:SPLIT]`, or `tfds:imagenet2012:validation`.
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        target: whose map: that of the image's label, or of the likeliest class (predicted).
        truth: what counts as the object; of digit scenes `union` (body and bright marker, the default), `body` or `marker`; of ImageNet `boxes`.
        limit: number of images, drawn once by the seed; all of ImageNet, and 1000 scenes, by default.
        out: run folder; by default one below runs/, named after data, model, target, truth and limit.
        tile: images per device and step.
        thresholds: of MaxBoxAcc; most of the host's time is proportional to them.
        reference_box: make boxes as the masking paper's code does, without their last row and column.
        seed: for drawing images and for random methods.
        crops: as in `case-jax evaluate`.
    """
    chosen = model.methods(methods)
    with together(processes) as first:
        ready = make_ready(model, crops, chosen)
        source, kind = require_located(ready.open(data, limit=limit, seed=seed), truth)
        folder = run_folder(out, "localise", source.name, model.model, target, kind, limit)
        require_outside(folder.path, source)
        folder.require_writable()
        say(f"localise: {limit or len(source):,} images of {source.name} × {len(chosen)} methods into {folder.path}")
        found = run_localisation(
            source,
            ready.model,
            partial(ready.contrast, folder.path, evaluated=source, seed=seed),
            chosen,
            folder,
            pixels=ready.pixels,
            target=target,
            truth=kind,
            limit=limit,
            seed=seed,
            tile=tile,
            thresholds=thresholds,
            reference_box=reference_box,
            model_name=model.model,
        )
        if first:
            settings = {"target": target, "truth": kind, "thresholds": thresholds, "reference_box": reference_box}
            write_results(found, titles_of(chosen), settings | _facts(ready, source, seed), folder.path)


def _facts(ready: Ready, source: Source, seed: int) -> dict[str, object]:
    return {
        "data": source.name, "fingerprint": source.fingerprint, "model": ready.choice.model, "weights": ready.classifier.weights,
        "layer": ready.model.layer, "contrast": ready.choice.contrast, "set": list(ready.choice.set), "seed": seed,
    }  # fmt: skip


def write_results(found: Localisation, titles: dict[str, str], settings: dict[str, object], folder: Path) -> None:
    """Write the tables of a run into its folder, and say what was found and what was left out."""
    from case_jax.report.localisation import markdown, summarise  # not before `--help`

    summary = summarise(found.rows, found.overall)
    text = markdown(summary, titles)
    counts = "\n".join(f"- {what}: {number:,}" for what, number in found.counts.items())
    scores = json.loads(summary.to_json(orient="records"))  # NaN becomes null
    facts = {"settings": settings, "counts": found.counts, "excluded": found.excluded, "scores": scores}
    write_json(folder / "summary.json", facts)
    write_atomically(folder / "summary.csv", summary.to_csv(index=False).encode())
    write_atomically(folder / "summary.md", f"{text}\n{counts}\n".encode())
    print(f"{text}\n{counts}\n")
    for entry in found.excluded[:LISTED]:
        say(f"left out: {entry['name']} ({entry['reason']})")
    if len(found.excluded) > LISTED:
        say(f"left out: {len(found.excluded) - LISTED} more, listed in summary.json")
    print("\n".join(str(folder / name) for name in ("summary.csv", "summary.json", "summary.md", "parts")))

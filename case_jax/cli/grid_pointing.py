"""`case-jax grid-pointing`: the grid pointing game from the shell."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from case_jax.cli.ready import Model, Names, make_ready, require_outside, say
from case_jax.evaluation.grid_pointing import grid_pointing as play
from case_jax.evaluation.grid_pointing import other_cells, require_game
from case_jax.methods import titles_of
from case_jax.models import tap_classifier
from case_jax.results import require_writable, write_atomically, write_json

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]

CONFIDENCE, SCENE_CONFIDENCE = 0.99, 0.6
"""Of the authors; and for digit scenes, whose classifier is trained to give the likeliest class 0.7."""
OTHER_CELLS = "mosaic"
SCENES_NOTE = (
    "\nDigit scenes of different classes may show the same digit: mass on a 7 in another cell is evidence for every class with a 7, and "
    "no map that shows all of the evidence reaches 100% here.\n"
)


def grid_pointing(
    model: ModelArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    n: int = 2,
    mosaics: int = 100,
    confidence: float | None = None,
    limit: int | None = None,
    out: Path = Path("runs/grid_pointing"),
    difull: bool = True,
    upsampled: bool = False,
    tile: int = 8,
    seed: int = 0,
) -> None:
    """In mosaics of images of different classes, do maps lie in the cell of their own class?

    The contrast `mosaic` sets each class against those in the other cells, in place of the contrasts of `case-jax list contrasts`.

    Writes `grid_pointing.csv` (a row per setting, mosaic, cell and method), `summary.csv`, `summary.json`, `summary.md` and `mosaics.png`.

    For example:

        case-jax grid-pointing

        case-jax grid-pointing --n 3 --methods grad_cam case --contrast mosaic

        case-jax grid-pointing --data folder:photos --confidence 0.99 --contrast topk_logits:5

    Args:
        model: classifier and contrast.
        data: as in `case-jax evaluate`; images with a label are used where they are classified correctly.
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        n: rows and columns of a mosaic.
        mosaics: how many, drawn once by the seed; each image is used once at most.
        confidence: least probability of an image's class; by default 0.99, and 0.6 for digit scenes, whose classifier is trained to
            give at most 0.7.
        limit: number of images to choose from, drawn once by the seed; all of a folder, and 1000 scenes, by default.
        out: folder to write to; files of the same name are replaced.
        difull: also play DiFull, in which every cell is classified alone: the check of the score itself.
        upsampled: score maps enlarged to input resolution, as in published numbers.
        tile: mosaics per device and step.
        seed: for drawing images and mosaics, and for random methods.
    """
    from case_jax.report.grid_pointing import draw_pointing, markdown, summarise

    scenes = data.partition(":")[0] == "digit_scenes"
    least = (SCENE_CONFIDENCE if scenes else CONFIDENCE) if confidence is None else confidence
    require_game(n=n, mosaics=mosaics, confidence=least, tile=tile, seed=seed)
    chosen = model.methods(methods)
    ready = make_ready(model, methods=chosen)
    source = ready.open(data, limit=limit, seed=seed)
    require_outside(out, source)
    require_writable(out)
    by_cell = model.contrast == OTHER_CELLS
    found = play(
        source,
        partial(tap_classifier, ready.classifier, layer=model.layer),
        chosen,
        pixels=ready.pixels,
        contrast=other_cells if by_cell else ready.contrast(out, evaluated=source, seed=seed).sets,
        n=n,
        mosaics=mosaics,
        confidence=least,
        limit=limit,
        difull=difull,
        upsampled=upsampled,
        seed=seed,
        tile=tile,
    )
    names = ready.classifier.class_names
    summary = summarise(found.rows)
    titles = titles_of(chosen)
    text = markdown(summary, titles, n) + (SCENES_NOTE if scenes else "")
    counts = "\n".join(f"- {what}: {number:,}" for what, number in found.counts.items())
    settings = {
        "data": source.name, "fingerprint": source.fingerprint, "model": model.model, "weights": ready.classifier.weights,
        "layer": ready.model.layer, "contrast": ready.choice.contrast, "set": list(model.set), "n": n, "confidence": least,
        "upsampled": upsampled, "seed": seed,
    }  # fmt: skip
    scores = json.loads(summary.to_json(orient="records"))  # NaN becomes null
    write_json(out / "summary.json", {"settings": settings, "counts": found.counts, "scores": scores})
    rows = found.rows.assign(class_name=[names[c] for c in found.rows["class"]])
    tables = {"grid_pointing.csv": rows.to_csv(index=False), "summary.csv": summary.to_csv(index=False)}
    tables["summary.md"] = f"{text}\n{counts}\n"
    for file, table in tables.items():
        write_atomically(out / file, table.encode())
    pictures = draw_pointing(found, titles, names, out)
    print(f"{text}\n{counts}\n")
    for entry in found.excluded:
        say(f"could not be read again: {entry['name']} ({entry['reason']})")
    print("\n".join(str(file) for file in [*(out / name for name in tables), out / "summary.json", *pictures]))

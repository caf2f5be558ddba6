"""`case-jax sanity`: do maps notice that the classifier has forgotten what it learnt? From the shell."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from case_jax._checks import require
from case_jax.cli.ready import Model, Names, Ready, make_ready, require_outside, run_folder, say
from case_jax.evaluation.sanity import TILE, Sanity
from case_jax.evaluation.sanity import sanity as run_sanity
from case_jax.evaluation.sanity_step import LABELS
from case_jax.models import load_classifier
from case_jax.models.initial import initial_params
from case_jax.results import RunFolder, write_atomically, write_json
from case_jax.tap.parameters import permuted
from case_jax.tap.view import Params

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]
LIMIT = 200


def sanity(
    model: ModelArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    kinds: Names = (),
    shuffled_weights: Path | None = None,
    redraw: Literal["initialise", "permute"] = "initialise",
    depth: int | None = None,
    limit: int | None = None,
    out: Path | None = None,
    tile: int = TILE,
    seed: int = 0,
    crops: Path | None = None,
) -> None:
    """Do maps change when the classifier loses what it has learnt, layer by layer, or learnt nothing but noise?

    Compares each map with the one for the same class after layers are put back to before training: from the logits down
    (`cascading`), or one at a time (`independent`); and with that of a classifier trained on shuffled labels (`labels`). A map that
    stays the same does not explain this classifier.

    Writes a run folder with a row per image, change and method, `layers.csv`, `summary.csv`, `summary.json`, `summary.md` and the curves,
    `cascading.png` and `independent.png`. Killed anywhere, the same command resumes where it was.

    For example:

        case-jax sanity --methods grad_cam case guided_backprop sobel

        case-jax sanity --shuffled-weights shuffled.safetensors --kinds labels

        case-jax sanity --model resnet50 --data folder:photos --depth 2 --limit 50 --methods grad_cam saliency

    Args:
        model: classifier and contrast.
        data: as in `case-jax evaluate`.
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        kinds: cascading, independent, labels; by default the first two, and labels where there are --shuffled-weights.
        shuffled_weights: weights of the same network, trained on shuffled labels.
        redraw: what a layer is put back to: new draws of the network's initialisers, or its own values in another order.
        depth: counts modules as one layer whose paths begin with the same so many names (2: layer4.1); by default every module is one.
        limit: number of images, drawn once by the seed; 200 by default, or all where there are fewer.
        out: folder to write to; by default one below runs/, named after data, model and limit.
        tile: images per device and step.
        seed: for the new draws, for drawing images and for random methods.
        crops: as in `case-jax evaluate`.
    """
    chosen = model.methods(methods)
    require(LABELS not in kinds or shuffled_weights is not None, "kinds", LABELS, "labels with --shuffled-weights FILE")
    ready = make_ready(model, crops, chosen)
    shuffled = None if shuffled_weights is None else _params_of(shuffled_weights, ready)
    source = ready.open(data, limit=LIMIT if limit is None else limit, seed=seed)
    count = min(LIMIT, len(source)) if limit is None else limit
    folder = run_folder(out, "sanity", source.name, model.model, count)
    require_outside(folder.path, source)
    folder.require_writable()
    own = ready.model.params
    say(f"sanity: {count:,} of {len(source):,} images of {source.name} × {len(chosen)} methods into {folder.path}")
    found = run_sanity(
        source,
        ready.model,
        partial(ready.contrast, folder.path, evaluated=source, seed=seed),
        chosen,
        folder,
        pixels=ready.pixels,
        untrained=permuted(own, seed=seed) if redraw == "permute" else initial_params(ready.classifier, seed=seed),
        shuffled=shuffled,
        kinds=kinds or None,
        depth=depth,
        limit=count,
        seed=seed,
        tile=tile,
        model_name=model.model,
    )
    settings = {
        "data": source.name, "images": count, "model": model.model, "weights": ready.classifier.weights,
        "layer": ready.model.layer, "contrast": ready.choice.contrast, "set": list(model.set), "redraw": redraw, "depth": depth, "seed": seed,
        "shuffled_weights": None if shuffled_weights is None else str(shuffled_weights),
    }  # fmt: skip
    write_results(found, folder, settings)


def _params_of(weights: Path, ready: Ready) -> Params:
    """The parameters of another classifier of the same network."""
    from flax import nnx

    other = load_classifier(ready.choice.model, weights=weights)
    given, classes = len(other.class_names), ready.model.num_classes
    require(given == classes, "shuffled_weights", f"{weights} for {given} classes", f"{classes}, as the classifier has")
    return nnx.split(other.module, nnx.RngState, ...)[2]


def write_results(found: Sanity, folder: RunFolder, settings: dict[str, object]) -> None:
    """Write tables and curves of the checks into their folder, and say what was found."""
    from case_jax.report.loading import methods_of  # not before `--help`
    from case_jax.report.sanity import draw_curves, layer_table, markdown, summarise

    methods = methods_of(folder.config())
    layers, summary = layer_table(found.rows), summarise(found.rows)
    counts = {
        "images": int(found.rows["image_id"].nunique()),
        "could not be read": len(found.excluded),
        "layers": len(found.layers),
    }
    text = (
        markdown(summary, layers, methods) + "\n" + "\n".join(f"- {what}: {n:,}" for what, n in counts.items()) + "\n"
    )
    scores = json.loads(summary.to_json(orient="records"))  # NaN becomes null
    facts = {
        "settings": settings,
        "counts": counts,
        "layers": found.layers,
        "scores": scores,
        "excluded": found.excluded,
    }
    write_json(folder.path / "summary.json", facts)
    tables = {
        "layers.csv": layers.to_csv(index=False), "summary.csv": summary.to_csv(index=False), "summary.md": text
    }  # fmt: skip
    for file, table in tables.items():
        write_atomically(folder.path / file, table.encode())
    pictures = draw_curves(layers, methods, folder.path)
    print(text)
    for entry in found.excluded:
        say(f"could not be read: {entry['name']} ({entry['reason']})")
    print(
        "\n".join(
            str(file) for file in [*(folder.path / name for name in tables), folder.path / "summary.json", *pictures]
        )
    )

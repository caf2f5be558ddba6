"""`case-jax sweep`: which pairs of classes a method fails to tell apart, from the shell."""

import io
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from case_jax.cli.processes import Processes, together
from case_jax.cli.ready import Model, Names, make_ready, require_outside, run_folder, say
from case_jax.evaluation.superclasses import ALL, Hierarchy, blocks, read_hierarchy, superclass_table
from case_jax.evaluation.sweep import MEMORY, SAVE_SECONDS, TILE, Sweep, confused_pairs
from case_jax.evaluation.sweep import sweep as run_sweep
from case_jax.methods import titles_of
from case_jax.results import write_atomically, write_json

ModelArgs = Annotated[Model, tyro.conf.arg(name="")]
ProcessesArgs = Annotated[Processes, tyro.conf.arg(name="")]


def sweep(
    model: ModelArgs,
    processes: ProcessesArgs,
    data: str = "digit_scenes",
    methods: Names = (),
    top: int | None = None,
    limit: int | None = None,
    out: Path | None = None,
    hierarchy: Path | None = None,
    agreement_percent: float = 5.0,
    tile: int = TILE,
    memory: float = MEMORY / 1e9,
    class_shards: int = 1,
    save_seconds: float = SAVE_SECONDS,
    seed: int = 0,
    crops: Path | None = None,
) -> None:
    """Mean agreement of the maps of every pair of classes: which classes does a method fail to tell apart?

    Writes `sweep.npz` (agreement and image counts, methods × classes × classes), `sweep.json` (counts, and what was left out),
    `pairs.csv` (the twenty most confused pairs of each method) and a heat map per method; with a hierarchy also
    `superclasses.csv` and a heat map of super-classes. Killed anywhere, the same command resumes where it was.

    For example:

        case-jax sweep --methods grad_cam case --limit 300

        case-jax sweep --top 2

        case-jax sweep --model resnet50 --data folder:val --methods grad_cam case --hierarchy wordnet.csv

        case-jax sweep --model resnet50 --data folder:val --methods case --top 20 --class-shards 4 --tile 64 --memory 2

    Args:
        model: classifier and contrast.
        processes: as in `case-jax evaluate`.
        data: as in `case-jax evaluate`.
        methods: names from `case-jax list methods`, or `all`; by default all but the slow ones.
        top: pairs among this many likeliest classes of each image; all classes by default.
        limit: number of images, drawn once by the seed; all of a folder, and 1000 scenes, by default.
        out: folder to write to; by default one below runs/, named after data, model, top and limit.
        hierarchy: CSV file with the columns class,superclass and every class once: agreement within and between super-classes.
        agreement_percent: k, percent of the pixels.
        tile: images per device and step.
        memory: GB on each device for maps: they are made in chunks of classes that fit. Beside them come packed
            masks, tile × classes × pixels / 8 bytes, and what the classifier itself needs.
        class_shards: devices that share the classes of a tile, and the rows of the matrix; the others take other tiles.
        save_seconds: how often the sums so far are written; what a killed sweep loses at most.
        seed: for drawing images and for random methods.
        crops: as in `case-jax evaluate`.
    """
    chosen = model.methods(methods)
    with together(processes) as first:
        ready = make_ready(model, crops, chosen)
        names = ready.classifier.class_names
        groups = None if hierarchy is None else read_hierarchy(hierarchy, names)
        source = ready.open(data, limit=limit, seed=seed)
        folder = run_folder(out, "sweep", source.name, model.model, f"top{top}" if top else None, limit)
        require_outside(folder.path, source)
        folder.require_writable()
        say(f"sweep: {len(source):,} images of {source.name} × {len(chosen)} methods into {folder.path}")
        found = run_sweep(
            source,
            ready.model,
            partial(ready.contrast, folder.path, evaluated=source, seed=seed),
            chosen,
            pixels=ready.pixels,
            top=top,
            agreement_percent=agreement_percent,
            limit=limit,
            seed=seed,
            tile=tile,
            memory=int(memory * 1e9),
            class_shards=class_shards,
            folder=folder,
            save_seconds=save_seconds,
            model_name=model.model,
        )
        if first:
            write_results(found, titles_of(chosen), names, groups, folder.path)


def write_results(
    found: Sweep, titles: dict[str, str], names: tuple[str, ...], hierarchy: Hierarchy | None, folder: Path
) -> None:
    """Write arrays, tables and heat maps of a sweep into its folder, and say what was found."""
    from case_jax.report.heat_map import Groups, draw_heat_maps  # not before `--help`

    arrays = {"methods": np.array(found.methods), "classes": np.array(names)}
    arrays |= {"agreement": found.agreement, "images": found.images}
    groups, files = None, [folder / "sweep.npz", folder / "sweep.json", folder / "pairs.csv"]
    pairs = confused_pairs(found, names)
    print(pairs.groupby("method", sort=False).head(5).to_markdown(index=False, floatfmt=".3f"))
    write_atomically(folder / "pairs.csv", pairs.to_csv(index=False).encode())
    if hierarchy is not None:
        groups = Groups(hierarchy.order(), hierarchy.names, hierarchy.sizes())
        further, more = _write_superclasses(found, hierarchy, titles, folder)
        arrays, files = arrays | further, files + more
    _write_arrays(folder / "sweep.npz", arrays)
    left_out = {name: int(n) for name, n in zip(found.methods, found.degenerate, strict=True) if n}
    counts = {"images": found.counted, "could not be read": len(found.excluded)}
    write_json(folder / "sweep.json", {"counts": counts, "degenerate maps": left_out, "excluded": found.excluded})
    files += draw_heat_maps(titles, arrays["agreement"], names, folder, groups)
    if left_out:
        print(f"Degenerate maps left out: {left_out}")
    _say_unread(found)
    print("\n".join(map(str, files)))


def _write_superclasses(
    found: Sweep, hierarchy: Hierarchy, titles: dict[str, str], folder: Path
) -> tuple[dict[str, np.ndarray], list[Path]]:
    """The table and the heat maps of super-classes; their arrays for `sweep.npz`, and the files."""
    from case_jax.report.heat_map import draw_superclass_maps

    cells, table = blocks(found, hierarchy), superclass_table(found, hierarchy)
    overall = table.loc[table["superclass"] == ALL, ["method", "within", "between"]]
    print("\n" + overall.to_markdown(index=False, floatfmt=".3f") + "\n")
    write_atomically(folder / "superclasses.csv", table.to_csv(index=False).encode())
    arrays = {
        "superclasses": np.array(hierarchy.names),
        "superclass": hierarchy.of_class,
        "superclass_agreement": cells.agreement,
        "superclass_images": cells.images,
    }
    files = draw_superclass_maps(titles, cells.agreement, hierarchy.names, folder)
    return arrays, [folder / "superclasses.csv", *files]


def _write_arrays(file: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(file, buffer.getvalue())


def _say_unread(found: Sweep, most: int = 10) -> None:
    """Which images were not read: the first by name, all in `sweep.json`."""
    for entry in found.excluded[:most]:
        print(f"Could not be read: {entry['name']} ({entry['reason']})")
    if len(found.excluded) > most:
        print(f"Could not be read either: {len(found.excluded) - most} more, listed in sweep.json")

"""An evaluation: methods × metrics over a data set into a run folder that survives being killed."""

import datetime
import functools
import hashlib
import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from case_jax import parallel
from case_jax._checks import require, require_percent, unknown
from case_jax.contrast.choice import ContrastChoice
from case_jax.evaluation.step import Batch, Pixels, Protocol, make_step
from case_jax.evaluation.stream import Tile, first_readable, select, template, through_devices, tiles
from case_jax.imageops import FILLS, normalise_image
from case_jax.methods import METHODS, MapFunction, method
from case_jax.metrics import METRICS, PERCENTS, Metric, metric
from case_jax.ranking import pixel_count
from case_jax.results import RunFolder, fingerprint, write_json
from case_jax.source import Source
from case_jax.tap.view import TappedModel, check_closed_form

PACKAGES = (
    "case-jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "scipy",
    "statsmodels",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "pillow",
)

TILE, PART = 32, 128


class Plan(NamedTuple):
    """An evaluation that has been checked and can start."""

    protocol: Protocol
    step: Callable[[Any, Batch], Any]
    """The step under `jax.pmap`; compiled at its first call, once for as many runs as the plan is used for."""
    model: TappedModel
    source: Source
    indices: np.ndarray
    contrast: ContrastChoice
    config: dict[str, Any]
    tile: int
    part: int


def quick(known: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the methods or metrics that run when none are named: those that are not slow."""
    return tuple(name for name, entry in known.items() if not entry.slow)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def session() -> dict[str, Any]:
    """When, how and on what a run was started."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "devices": parallel.device_names(),
        "machine": platform.machine(),
        "versions": versions(),
    }


def _method_facts(name: str, function: MapFunction) -> dict[str, Any]:
    """Title and options of a method; a function of one's own also with a digest of its source, so that two are told apart."""
    known = METHODS.get(name)
    bare = _bare(function)
    if known is not None and known.maps is not bare:
        known = None
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    facts = {
        "title": known.title if known else name,
        "control": bool(known and known.control),
        "contrastive": bool(known and known.contrastive),
        "class_blind": bool(known and known.class_blind),
        "options": {k: v if isinstance(v, bool | int | float | str | None) else repr(v) for k, v in defaults.items()},
    }
    return facts if known else facts | {"source": _source_digest(bare)}


def _bare(function: Any) -> Any:
    return function.func if isinstance(function, functools.partial) else function


def _source_digest(function: Any) -> str:
    try:
        code = inspect.getsource(function)
    except (OSError, TypeError):  # typed into an interpreter, or an object with __call__
        code = repr(type(function))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _numerics() -> dict[str, Any]:
    """What may change the last bits of the rows: rows of two of these are not mixed in one run."""
    return {
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "case_jax": importlib.metadata.version("case-jax"),
        "x64": jax.config.jax_enable_x64,  # type: ignore[attr-defined]
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
    }


def require_other_images(evaluated: Source, fingerprint: str | None, name: str | None) -> None:
    """Raise when confusions are counted on the images that are evaluated: the contrast would know the answers."""
    require(
        fingerprint != evaluated.fingerprint,
        "contrast_data",
        f"{name}, which is the evaluation data",
        "another labelled split to count confusions on, or --contrast topk_logits:5, which needs none",
    )


def require_fitting(source: Source, model: TappedModel, contrast: ContrastChoice, pixels: Pixels) -> None:
    """Raise unless images, classifier and contrast sets belong together."""
    _check_classes(source, model)
    require_other_images(source, contrast.fingerprint, contrast.source)
    finite = np.isfinite([*pixels.mean, *pixels.std]).all() and min(pixels.std) > 0
    require(finite, "pixels", pixels, "finite means and deviations above 0, one per channel")
    if contrast.table is not None:
        rows, accepted = len(contrast.table), f"sets for the model's {model.num_classes} classes"
        require(rows == model.num_classes, "contrast", f"sets for {rows} classes", accepted)


def plan(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice,
    *,
    pixels: Pixels,
    methods: Sequence[str] | Mapping[str, MapFunction] = quick(METHODS),
    metrics: Sequence[str] | Mapping[str, Metric] = quick(METRICS),
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    agreement_percent: float = 5.0,
    fidelity_percents: Sequence[float] = PERCENTS,
    fill: str = "mean",
    limit: int | None = None,
    seed: int = 0,
    tile: int = TILE,
    part: int = PART,
    model_name: str = "custom",
) -> Plan:
    """Check an evaluation completely, before any long work.

    Args:
        source: the images.
        model: the classifier, tapped.
        contrast: the contrast sets of the contrastive methods.
        pixels: how the source's uint8 pixels become the classifier's input.
        methods: names in `METHODS`, or your own functions by name; by default all but the slow ones.
        metrics: names in `METRICS`, or your own by name; by default all but the slow ones.
        metric_options: keyword options of metrics, by name of the metric; they win over the three that follow.
        agreement_percent: k of the class-sensitivity diagnostic, in percent of the pixels.
        fidelity_percents: how much is removed in the fidelity test; must hold 50.
        fill: what is put in place of removed pixels.
        limit: evaluate this many images, drawn once by the seed; None takes all.
        seed: for the drawing of images, random methods and the fill `noise`.
        tile: images per device and step. It fixes the shapes, and so the last bits, of the computation.
        part: images per Parquet part; a multiple of `tile`. What is lost when a run is killed is at most the parts in hand.
        model_name: how tables name the classifier.

    Raises:
        CaseJaxError: for anything that could not run: see the message.
    """
    functions = methods if isinstance(methods, Mapping) else {name: method(name).maps for name in methods}
    require(len(functions) >= 1, "methods", "none", f"at least one of {', '.join(METHODS)}")
    require(len(functions) == len(methods), "methods", f"{list(methods)}", "every method once")
    require(len(metrics) >= 1, "metrics", "none", f"at least one of {', '.join(METRICS)}")
    chosen = dict(metrics) if isinstance(metrics, Mapping) else {name: metric(name) for name in metrics}
    if fill not in FILLS:
        raise unknown("fill", fill, FILLS)
    require(tile >= 1, "tile", tile, "at least 1 image per device and step")
    require(part >= tile and part % tile == 0, "part", part, f"a multiple of the tile, {tile}")
    require_fitting(source, model, contrast, pixels)
    indices = select(source, limit, seed)
    first = first_readable(source, indices).image
    require_percent("agreement_percent", [agreement_percent])
    pixel_count(agreement_percent, first.shape[:2])
    if model.head_kernel is not None:
        check_closed_form(model, normalise_image(first, *pixels))
    options: dict[str, dict[str, Any]] = {
        "sensitivity": {"percent": float(agreement_percent)},
        "fidelity": {"percents": tuple(float(p) for p in fidelity_percents), "fill": fill},
        "evidence": {"percent": float(agreement_percent)},
    }
    for name in metric_options or {}:
        if name not in chosen:
            raise unknown("metric_options", name, chosen)
    scores = {name: options.get(name, {}) | dict((metric_options or {}).get(name, {})) for name in chosen}
    if "fidelity" in scores:
        _check_removed(scores["fidelity"]["percents"], first.shape[:2])
    protocol = Protocol(functions, contrast.sets, chosen, scores, pixels, seed)
    step = parallel.over_devices(make_step(protocol, model))
    parallel.trace(step, model.params, template(source, indices, tile))  # what a function refuses fails here
    config = configuration(protocol, model, source, indices, contrast)
    config |= {"tile": tile, "part": part}
    config["model"]["name"] = model_name
    return Plan(protocol, step, model, source, indices, contrast, config, tile, part)


def configuration(
    protocol: Protocol, model: TappedModel, source: Source, indices: np.ndarray, contrast: ContrastChoice
) -> dict[str, Any]:
    """Everything that decides the rows, as JSON values."""
    table = contrast.table
    return {
        "data": {
            "name": source.name,
            "fingerprint": source.fingerprint,
            "images": len(indices),
            "selection": fingerprint([indices]),
        },
        "model": {
            "weights": fingerprint(jax.tree.leaves(model.params)),
            "layer": model.layer,
            "classes": model.num_classes,
            "activation": list(model.activation_shape),
            "class_weights": "pullback" if model.head_kernel is None else "closed form",
        },
        "pixels": protocol.pixels._asdict(),
        "methods": {name: _method_facts(name, function) for name, function in protocol.methods.items()},
        "contrast": {
            "name": contrast.name,
            "table": None if table is None else fingerprint([np.asarray(table, np.int64)]),
        },
        "metrics": dict(protocol.options),
        "own_metrics": {
            name: _source_digest(_bare(found.columns))
            for name, found in protocol.metrics.items()
            if METRICS.get(name) is not found
        },
        "measures": {
            n: [m._asdict() for m in found.measures] for n, found in protocol.metrics.items() if found.measures
        },
        "seed": protocol.seed,
        "numerics": _numerics(),
    }


def _check_removed(percents: Sequence[float], shape: tuple[int, ...]) -> None:
    require_percent("fidelity_percents", percents)
    for percent in percents:
        pixel_count(percent, shape)
    accepted = "a list that holds 50, the paper's percentage, and every percentage once"
    proper = 50 in percents and len(set(percents)) == len(percents)
    require(proper, "fidelity_percents", list(percents), accepted)


def _check_classes(source: Source, model: TappedModel) -> None:
    require(model.num_classes >= 2, "model", f"{model.num_classes} class", "a classifier of at least 2 classes")
    if source.class_names is not None:
        accepted = f"as many as the classifier has, {model.num_classes}"
        require(
            len(source.class_names) == model.num_classes, "source", f"{len(source.class_names)} class names", accepted
        )


def evaluate(planned: Plan, folder: RunFolder, *, progress: bool | None = None) -> RunFolder:
    """Run an evaluation into a folder, or resume it there; the rows do not depend on when it was interrupted.

    Args:
        planned: from `plan`.
        folder: the run folder; new, empty, or holding this very run.
        progress: show a bar with rate and time left; None shows it in a terminal.

    Returns:
        The run folder, complete: one row per readable image and method.

    Raises:
        CaseJaxError: when the folder cannot be written, holds another run or damaged parts, or is in use.
    """
    with folder.locked():
        folder.open(planned.config, session())
        write_json(folder.path / "contrast.json", _contrast_facts(planned))
        total = -(-len(planned.indices) // planned.tile)
        per_part = planned.part // planned.tile
        done = folder.done()
        numbers = [t for t in range(total) if t // per_part not in done]
        if numbers:
            _run_tiles(planned, folder, numbers, total, per_part, progress)
    return folder


def _run_tiles(
    planned: Plan, folder: RunFolder, numbers: Sequence[int], total: int, per_part: int, progress: bool | None
) -> None:
    """Evaluate these tiles; a part is written as soon as its last tile is there."""
    empty = template(planned.source, planned.indices, planned.tile)
    stream = tiles(planned.source, planned.indices, numbers, empty, ahead=2 * parallel.device_count())
    images = len(planned.indices)
    missing = sum(min(planned.tile, images - t * planned.tile) for t in numbers)
    hidden = None if progress is None else not progress
    finished: dict[int, list[tuple[Tile, Any]]] = {}
    with tqdm(total=images, initial=images - missing, unit=" images", desc="evaluate", disable=hidden) as bar:
        for tile, columns in through_devices(planned.step, planned.model.params, stream):
            part = tile.number // per_part
            read = finished.setdefault(part, [])
            read.append((tile, columns))
            if len(read) == min(per_part, total - part * per_part):
                rows = _rows(read, list(planned.protocol.methods))
                folder.write_part(part, rows, [e for t, _ in finished.pop(part) for e in t.excluded])
            bar.update(sum(e is not None for e in tile.examples) + len(tile.excluded))


def _contrast_facts(planned: Plan) -> dict[str, Any]:
    choice, names = planned.contrast, planned.source.class_names
    return {
        "name": choice.name,
        "source": choice.source,
        "class_names": list(names) if names else None,
        "table": None if choice.table is None else np.asarray(choice.table).tolist(),
        "filled": None if choice.filled is None else np.asarray(choice.filled).tolist(),
    }


def _rows(read: list[tuple[Tile, Any]], methods: list[str]) -> dict[str, np.ndarray]:
    """One row per image and method, as columns."""
    kept = [(e, slot, columns) for tile, columns in read for slot, e in enumerate(tile.examples) if e is not None]
    examples = [example for example, _, _ in kept]
    count = len(methods)

    def repeated(values: Sequence[Any], dtype: Any = None) -> np.ndarray:
        return np.repeat(np.asarray(values, dtype), count)

    rows: dict[str, np.ndarray] = {
        "image_id": repeated([e.image_id for e in examples], np.int64),
        "name": repeated([e.name for e in examples], str),
        "label": repeated([e.label for e in examples], np.int32),
        "method": np.tile(np.asarray(methods, str), len(kept)),
    }
    for name, like in read[0][1].items():
        values: Iterator[np.ndarray] = (columns[name][slot] for _, slot, columns in kept)
        empty = np.zeros((0, *like.shape[1:]), like.dtype)
        stacked = np.stack(list(values)) if kept else empty
        rows[name] = stacked.ravel() if stacked.ndim == 2 else np.repeat(stacked, count)
    return rows

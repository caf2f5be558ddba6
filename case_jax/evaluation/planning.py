"""What an evaluation will do, checked completely before any long work, and everything that decides its rows."""

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from case_jax import parallel
from case_jax._checks import require, require_percent, unknown
from case_jax.contrast.choice import ContrastChoice, require_counted
from case_jax.evaluation.cost import largest_tile, memory_bound
from case_jax.evaluation.step import Batch, Pixels, Protocol, make_step
from case_jax.evaluation.stream import first_readable, select, template
from case_jax.imageops import FILLS, normalise_image
from case_jax.methods import METHODS, MapFunction, bare, described, method, titles_of
from case_jax.metrics import METRICS, PERCENTS, Metric, metric
from case_jax.ranking import pixel_count
from case_jax.results import fingerprint
from case_jax.source import Source
from case_jax.tap.precision import at_precision
from case_jax.tap.view import TappedModel, check_closed_form

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
    class_names: tuple[str, ...] | None


def quick(known: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the methods or metrics that run when none are named: those that are not slow."""
    return tuple(name for name, entry in known.items() if not entry.slow)


def _method_facts(name: str, function: MapFunction, title: str) -> dict[str, Any]:
    """Title and options of a method; a function of one's own also with a digest, so that two are told apart."""
    found, source = described(name, function), bare(function)
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    facts = {
        "title": title,
        "control": found.control,
        "contrastive": found.contrastive,
        "class_blind": found.class_blind,
        "options": {k: v if isinstance(v, bool | int | float | str | None) else repr(v) for k, v in defaults.items()},
    }
    own = found is not METHODS.get(name)
    return facts | {"source": getattr(source, "digest", None) or _source_digest(source)} if own else facts


def _source_digest(function: Any) -> str:
    try:
        code = inspect.getsource(function)
    except (OSError, TypeError):  # typed into an interpreter, or an object with __call__
        code = repr(type(function))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def numerics() -> dict[str, Any]:
    """What may change the last bits of the rows: rows of two of these are not mixed in one run."""
    return {
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "case_jax": importlib.metadata.version("case-jax"),
        "x64": jax.config.jax_enable_x64,  # type: ignore[attr-defined]
    }


def require_other_images(evaluated: Source, fingerprint: str | None, name: str | None) -> None:
    """Raise when confusions are counted on the images that are evaluated: the contrast would know the answers."""
    require(
        fingerprint != evaluated.fingerprint,
        "contrast_data",
        f"{name}, which is the evaluation data",
        "another labelled split to count confusions on, or --contrast topk_logits:5, which needs none",
    )


def require_fitting(source: Source, model: TappedModel, pixels: Pixels, names: Sequence[str] | None = None) -> None:
    """Raise unless images, classifier and the names of its classes belong together."""
    require(model.num_classes >= 2, "model", f"{model.num_classes} class", "a classifier of at least 2 classes")
    for argument, given in (("source", source.class_names), ("class_names", names)):
        if given is not None:
            accepted = f"as many as the classifier has, {model.num_classes}"
            require(len(given) == model.num_classes, argument, f"{len(given)} class names", accepted)
    finite = np.isfinite([*pixels.mean, *pixels.std]).all() and min(pixels.std) > 0
    require(finite, "pixels", pixels, "finite means and deviations above 0, one per channel")


def settled(
    contrast: ContrastChoice | Callable[[], ContrastChoice],
    source: Source,
    model: TappedModel,
    image: Array,
    *,
    planning: bool = False,
) -> ContrastChoice:
    """The contrast sets, found when all else has been checked; the closed form of the class weights, on this image, before them.

    Raises:
        CaseJaxError: for a closed form that does not hold, sets that do not fit, or, unless `planning`, stand-ins for sets.
    """
    if model.head_kernel is not None:
        check_closed_form(model, image)
    contrast = contrast if isinstance(contrast, ContrastChoice) else contrast()
    _require_sets(source, model, contrast)
    if not planning:
        require_counted(contrast)
    return contrast


def _require_sets(source: Source, model: TappedModel, contrast: ContrastChoice) -> None:
    """Raise unless contrast sets fit the classifier and come from other images."""
    require_other_images(source, contrast.fingerprint, contrast.source)
    if contrast.table is not None:
        rows, accepted = len(contrast.table), f"sets for the model's {model.num_classes} classes"
        require(rows == model.num_classes, "contrast", f"sets for {rows} classes", accepted)


def plan(
    source: Source,
    model: TappedModel,
    contrast: ContrastChoice | Callable[[], ContrastChoice],
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
    tile: int | None = TILE,
    part: int = PART,
    memory: int | None = None,
    precision: str = "float32",
    model_name: str = "custom",
    class_names: Sequence[str] | None = None,
) -> Plan:
    """Check an evaluation completely, before any long work.

    Args:
        source: the images.
        model: the classifier, tapped.
        contrast: the contrast sets of the contrastive methods; or a function that finds them, called when the rest has been checked.
        pixels: how the source's uint8 pixels become the classifier's input.
        methods: names in `METHODS`, or your own functions by name; by default all but the slow ones.
        metrics: names in `METRICS`, or your own by name; by default all but the slow ones.
        metric_options: keyword options of metrics, by name of the metric; they win over the three that follow.
        agreement_percent: k of the class-sensitivity diagnostic, in percent of the pixels.
        fidelity_percents: how much is removed in the fidelity test; must hold 50.
        fill: what is put in place of removed pixels.
        limit: evaluate this many images, drawn once by the seed; None takes all.
        seed: for the drawing of images, random methods and the fill `noise`.
        tile: images per device and step. It fixes the shapes, and so the last bits, of the computation. None takes as many as `memory`
            holds, a power of two of at most `part`.
        part: images per Parquet part; a multiple of `tile`. What is lost when a run is killed is at most the parts in hand.
        memory: bytes per device for `tile=None`; by default 0.8 of what the device has.
        precision: of the classifier's passes, a name in `PRECISIONS`; maps and scores are float32 always.
        model_name: how tables name the classifier.
        class_names: how tables name its classes; by default as the source does.

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
    require(tile is None or tile >= 1, "tile", tile, "at least 1 image per device and step")
    require(part >= 1 and part % (tile or 1) == 0, "part", part, f"a multiple of the tile, {tile}")
    require(
        memory is None or tile is None,
        "memory",
        memory,
        "a bound for a tile that is found, not given: leave one of them out",
    )
    require_fitting(source, model, pixels, class_names)
    low = at_precision(model, precision)
    indices = select(source, limit, seed)
    first = first_readable(source, indices).image
    require_percent("agreement_percent", [agreement_percent])
    pixel_count(agreement_percent, first.shape[:2])
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
    contrast = settled(contrast, source, model, normalise_image(first, *pixels), planning=True)
    model = low
    protocol = Protocol(functions, contrast.sets, chosen, scores, pixels, seed)
    step = parallel.over_devices(make_step(protocol, model))
    if tile is None:
        tile = largest_tile(step, model, source, indices, memory=memory or memory_bound(), most=min(part, len(indices)))
        part -= part % tile
    parallel.trace(step, model.params, template(source, indices, tile))  # what a function refuses fails here
    config = configuration(protocol, model, source, indices, contrast)
    config |= {"tile": tile, "part": part}
    config["model"] |= {"name": model_name, "precision": precision}
    names = source.class_names if class_names is None else tuple(class_names)
    return Plan(protocol, step, model, source, indices, contrast, config, tile, part, names)


def configuration(
    protocol: Protocol, model: TappedModel, source: Source, indices: np.ndarray, contrast: ContrastChoice
) -> dict[str, Any]:
    """Everything that decides the rows, as JSON values; of metrics only where there are any."""
    table = contrast.table
    metrics = {
        "metrics": dict(protocol.options),
        "own_metrics": {
            name: _source_digest(bare(found.columns))
            for name, found in protocol.metrics.items()
            if METRICS.get(name) is not found
        },
        "measures": {
            n: [m._asdict() for m in found.measures] for n, found in protocol.metrics.items() if found.measures
        },
    }
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
        "methods": {
            name: _method_facts(name, protocol.methods[name], title)
            for name, title in titles_of(protocol.methods).items()
        },
        "contrast": {
            "name": contrast.name,
            "table": None if table is None else fingerprint([np.asarray(table, np.int64)]),
        },
        **(metrics if protocol.metrics else {}),
        "seed": protocol.seed,
        "numerics": numerics(),
    }


def _check_removed(percents: Sequence[float], shape: tuple[int, ...]) -> None:
    require_percent("fidelity_percents", percents)
    for percent in percents:
        pixel_count(percent, shape)
    accepted = "a list that holds 50, the paper's percentage, and every percentage once"
    proper = 50 in percents and len(set(percents)) == len(percents)
    require(proper, "fidelity_percents", list(percents), accepted)

"""What is measured of trained ImageNet networks on photographs: a row per view, cell of a mosaic or changed layer, and method.

Every piece is kept below the run folders, so that the same command goes on where it was stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from case_jax import METHODS, METRICS
from case_jax.contrast.asking import ask
from case_jax.data import PhotoMosaics, Photos
from case_jax.evaluation import Evaluate, Pixels, Sanity, prepare, run
from case_jax.evaluation.maps import image_key, view_for_targets
from case_jax.evaluation.studies.grid_pointing import other_cells
from case_jax.files import write_atomically
from case_jax.imageops import finish_maps, is_degenerate, normalise_image
from case_jax.methods import MapFunction, untrained_contrast
from case_jax.metrics import Metric
from case_jax.metrics.grid_pointing import grid_pointing_scores
from case_jax.models import load_classifier
from case_jax.models.initial import initial_params
from case_jax.results import RunFolder
from case_jax.source import Example, Source
from case_jax.tap import TappedModel
from experiments.fidelity import PROTOCOLS, protocol_columns
from experiments.kept import compact, joined, packed
from experiments.networks import Subject, Where, asked, asked_by_name
from experiments.photographs_views import TenCrops
from experiments.specificity import CONTROLS, UNTRAINED, contrasts
from experiments.ties import PERCENTS, RULES, tie_columns

CONTRAST = "topk_logits:10"
CAMS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "eigen_cam", "eigen_grad_cam", "ablation_cam")
"""HiResCAM is Grad-CAM behind an average pool and one dense layer."""
OPERATORS, SIZES = ("case", "case_span", "finer_cam"), (1, 3, 5, 10)
BESIDE = ", other cells"
"""Ends the names of methods that are asked against a mosaic's other classes."""
SWEEP, FEW, HALF = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0), (5.0, 20.0, 50.0), (50.0,)
SANITY = (
    "grad_cam",
    "layer_cam",
    "case",
    "finer_cam",
    "softmax_contrast",
    "guided_backprop",
    "saliency",
    "input_x_gradient",
)
TILE = 5
"""Views at a time: 80 altered copies of them are 1.5 GB of Lite0's widest maps."""

USUAL = ("image_id", "method", "network", "layer", "cluster_1", "label", "top1", "p1", "degenerate_1", "degenerate_2")
TIES = tuple(f"{rule}_{k}" for rule in (*RULES, "zeros") for k in PERCENTS)
CHECKED = ("image_id", "method", "network", "cluster_1", "kind", "step", "layer", "degenerate", "degenerate_changed", "spearman", "spearman_abs", "ssim", "hog", "top1", "target")  # fmt: skip


def sized(operators: Sequence[str] = OPERATORS, sizes: Sequence[int] = SIZES) -> dict[str, MapFunction]:
    """Contrasts with so many of an image's likeliest other classes."""
    return {f"{METHODS[name].title}, k = {k}": partial(asked, method=name, k=k) for name in operators for k in sizes}


def titled(*names: str) -> dict[str, MapFunction]:
    """Methods as they are, under their titles."""
    return {METHODS[name].title: METHODS[name].maps for name in names}


def with_maps() -> dict[str, MapFunction]:
    """Methods whose maps of the two likeliest classes are compared."""
    return {**titled(*CAMS), **sized(), **titled("softmax_contrast", "random", "sobel")}


def with_pairs(subject: Subject) -> dict[str, MapFunction]:
    """Methods of class-specific deletion: class activation maps that differ, contrasts, controls."""
    model = subject.model()
    untrained = untrained_contrast(model, initial_params(subject.classifier, seed=0), seed=0)
    plain = titled("grad_cam", "layer_cam")
    return {**plain, **contrasts(), **titled(*(name for name in CONTROLS if name != "sobel")), UNTRAINED: untrained}


def at_the_convolution() -> dict[str, MapFunction]:
    """The same, fewer, for the layer that the CASE paper taps."""
    return {
        **titled("grad_cam", "layer_cam"),
        **sized(("case",), (1, 5)),
        **sized(("finer_cam",), (5,)),
        **titled("random"),
    }


def pointing() -> dict[str, MapFunction]:
    """Methods of the grid pointing game."""
    beside = {f"{METHODS[name].title}{BESIDE}": METHODS[name].maps for name in OPERATORS}
    return {**titled(*CAMS), **sized(), **titled("softmax_contrast", "random", "centre_gaussian"), **beside}


def faithful() -> dict[str, MapFunction]:
    """Methods of the fidelity test."""
    chosen = sized(("case",), (1, 5)) | sized(("case_span", "finer_cam"), (5,))
    return {**titled(*CAMS), **chosen, **titled("softmax_contrast", "random", "sobel")}


def subject_of(name: str, where: Where, views: int) -> Subject:
    """A network of the model zoo with its views of the photographs."""
    classifier = load_classifier(name)
    facts = classifier.of_images
    how: dict[str, Any] = {"resize": facts.resize, "crop": facts.crop, "interpolation": facts.interpolation}
    return Subject(name, classifier, TenCrops(Photos(classifier.class_names, **how), **how, views=views), None, where)


def measured_by(
    subject: Subject,
    piece: str,
    methods: Mapping[str, MapFunction],
    metrics: Sequence[str] | Mapping[str, Metric],
    *,
    layer: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """A row per view and method, in files of five views."""
    study, studied = Evaluate(metrics, options or {}), subject.studied(methods, CONTRAST, layer=layer)
    job = prepare(study, studied, limit=limit, tile=min(TILE, limit or TILE), part=min(TILE, limit or TILE))
    rows = run(job, RunFolder(subject.where.kept / "photographs" / piece / subject.name), progress=False).rows()
    return rows.assign(network=subject.name, layer=layer or next(iter(subject.layers.values())))


def maps_of(subject: Subject, methods: Mapping[str, MapFunction], limit: int | None) -> pd.DataFrame:
    """Agreement of the maps of the two likeliest classes, at both layers."""
    frames = [
        measured_by(subject, f"maps-{layer}", methods, ("sensitivity",), layer=layer, limit=limit)
        for layer in subject.layers.values()
    ]
    return compact(joined(frames), [*USUAL, "F", "F_plus", "zeros_in_top"])


def ties_of(subject: Subject, methods: Mapping[str, MapFunction], limit: int | None) -> pd.DataFrame:
    """The same by every rule for ties."""
    metrics = {"ties": Metric(tie_columns, "what other tie rules make of F")}
    return compact(measured_by(subject, "ties", methods, metrics, limit=limit), [*USUAL, *TIES])


def likeness_of(subject: Subject, images: int) -> pd.DataFrame:
    """How alike the two likeliest classes are before any contrast: in their weights, and in their maps before rectification."""
    some = [subject.source[i] for i in range(min(images, len(subject.source)))]
    pixels = jnp.stack([normalise_image(jnp.asarray(e.image), *subject.pixels) for e in some])
    found = []
    for layer in subject.layers.values():
        model = subject.model(layer)
        columns = jax.jit(jax.vmap(partial(_likeness, model), (None, 0)))(model.params, pixels)
        facts = {"image_id": [e.image_id for e in some], "network": subject.name, "layer": layer}
        found.append(pd.DataFrame(facts | {name: np.asarray(value) for name, value in columns.items()}))
    return joined(found)


def _likeness(model: TappedModel, params: Any, image: Array) -> dict[str, Array]:
    view = model.view(params, image)
    weights = view.class_weights(jax.lax.top_k(view.logits, 2)[1])
    maps = jnp.einsum("hwk,ck->chw", view.activation, weights).reshape(2, -1)
    cosine = weights[0] @ weights[1] / (jnp.linalg.norm(weights[0]) * jnp.linalg.norm(weights[1]))
    return {"cosine": cosine, "correlation": jnp.corrcoef(maps)[0, 1], "positive": (maps[0] > 0).mean()}


def pairs_of(
    subject: Subject, methods: Mapping[str, MapFunction], limit: int | None, layer: str | None = None
) -> pd.DataFrame:
    """Class-specific deletion."""
    piece = f"pairs-{layer or 'last'}"
    rows = measured_by(subject, piece, methods, ("sensitivity", "specificity"), layer=layer, limit=limit)
    return compact(rows, [*USUAL, "F", *(c for c in map(str, rows) if c.startswith(("specificity", "necessity", "hurts_own")))])  # fmt: skip


def fidelity_of(
    subject: Subject, methods: Mapping[str, MapFunction], limit: int | None, *, whole: bool
) -> pd.DataFrame:
    """The fidelity test; `whole`: all shares of pixels, and half of them by the other protocols."""
    scores, options = {"fidelity": METRICS["fidelity"]}, {"fidelity": {"percents": SWEEP if whole else FEW}}
    if whole:
        others = {p: o for p, o in PROTOCOLS.items() if p != "mean"}
        scores |= {p: Metric(protocol_columns, "the fidelity test by another protocol") for p in others}
        options |= {p: {"protocol": p, "percents": HALF, **o} for p, o in others.items()}
    rows = measured_by(subject, "fidelity", methods, scores, options=options, limit=limit)
    return compact(rows, [*USUAL, *(c for c in map(str, rows) if "p_removed_" in c)])


def sanity_of(subject: Subject, names: Sequence[str], limit: int, depth: int) -> pd.DataFrame:
    """How alike maps are when layers are as before training, from the logits down."""
    study = Sanity(initial_params(subject.classifier, seed=0), kinds=("cascading",), depth=depth)
    job = prepare(study, subject.studied(asked_by_name(names), "topk_logits:5"), limit=limit, tile=min(TILE, limit), part=min(TILE, limit))  # fmt: skip
    rows = run(job, RunFolder(subject.where.kept / "photographs" / "sanity" / subject.name), progress=False).rows()
    return compact(rows.assign(network=subject.name), CHECKED)


def cells_of(subject: Subject, methods: Mapping[str, MapFunction], mosaics: int) -> pd.DataFrame:
    """A row per mosaic, method and cell; kept as one file."""
    file = subject.where.kept / "photographs" / "mosaics" / f"{subject.name}-{mosaics}.parquet"
    if not file.exists():
        facts = subject.classifier.of_images
        how: dict[str, Any] = {"crop": facts.crop, "interpolation": facts.interpolation}
        source = PhotoMosaics(subject.classifier.class_names, mosaics, **how)
        rows = pd.concat(list(_pointed(subject.model(), subject.pixels, source, methods)))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, packed(compact(rows, list(map(str, rows)))))
    return pd.read_parquet(file).assign(network=subject.name)


def _pointed(
    model: TappedModel, pixels: Pixels, source: Source, methods: Mapping[str, MapFunction]
) -> Iterator[pd.DataFrame]:
    """Rows of so many mosaics at a time."""
    step = jax.jit(jax.vmap(partial(_cell_scores, model, pixels, methods), (None, 0, 0, 0)))
    for start in range(0, len(source), TILE):
        examples = [source[i] for i in range(start, min(start + TILE, len(source)))]
        shown = [e.evidence.classes for e in examples if e.evidence is not None]
        found = step(model.params, jnp.stack([jnp.asarray(e.image) for e in examples]), jnp.stack(shown), jnp.arange(start, start + len(examples)))  # fmt: skip
        for place, example in enumerate(examples):
            columns = {name: np.asarray(value[place]) for name, value in found.items()}
            yield _cell_rows(example, shown[place], columns, list(methods))


def _cell_scores(
    model: TappedModel,
    pixels: Pixels,
    methods: Mapping[str, MapFunction],
    params: Any,
    image: Array,
    classes: Array,
    number: Array,
) -> dict[str, Array]:
    """Of the four classes that a mosaic shows: which share of the map lies in the own cell, whether its highest pixel does, and how many
    classes are likelier.

    A class is held against the image's likeliest others, or, by methods named so, against those of the other cells.
    """
    view = view_for_targets(model, params, normalise_image(image, *pixels))
    likeliest = ask(view, classes, CONTRAST, key=image_key(0, number))
    beside, cells = likeliest._replace(contrast=other_cells(view.logits, classes), members=None), jnp.arange(4)
    found: dict[str, list[Array]] = {"share": [], "points": [], "degenerate": []}
    for name, method in methods.items():
        maps = method(view, beside if name.endswith(BESIDE) else likeliest)
        highest = finish_maps(maps, image.shape[:2]).reshape(4, -1).argmax(1)
        row, column = jnp.divmod(highest, image.shape[1])
        there = 2 * (2 * row // image.shape[0]) + 2 * column // image.shape[1]
        flat = is_degenerate(maps)
        found["share"].append(jnp.where(flat, jnp.nan, grid_pointing_scores(maps, cells, 2)))
        found["points"].append(jnp.where(flat, jnp.nan, (there == cells).astype(jnp.float32)))
        found["degenerate"].append(flat)
    places = (view.logits > view.logits[classes][:, None]).sum(1)
    return {name: jnp.stack(values) for name, values in found.items()} | {"place": places, "p": view.probabilities()[classes]}  # fmt: skip


def _cell_rows(
    example: Example, classes: np.ndarray, found: Mapping[str, np.ndarray], methods: Sequence[str]
) -> pd.DataFrame:
    """Rows of one mosaic, methods one after the other."""
    count = len(methods)
    columns = {name: found[name].ravel() for name in ("share", "points", "degenerate")}
    columns |= {name: np.tile(values, count) for name, values in (("cell", np.arange(4)), ("class", classes), ("place", found["place"]), ("p", found["p"]))}  # fmt: skip
    clusters = {f"cluster_{i}": photograph for i, photograph in enumerate(example.clusters, start=1)}
    return pd.DataFrame({"image_id": example.image_id, "method": np.repeat(methods, 4), **columns, **clusters})

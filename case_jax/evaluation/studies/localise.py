"""Do maps lie on the object? Maps of a whole source against its boxes and pixel masks, in one table with baselines."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, unknown
from case_jax.evaluation.batches import Batch, Tile
from case_jax.evaluation.clusters import cluster_columns
from case_jax.evaluation.engine import Compiled, Found, Images, Program, Through
from case_jax.evaluation.maps import Question
from case_jax.evaluation.studies.localisation_scores import (
    BASELINES,
    Counts,
    ImageScores,
    columns_of,
    overall,
    require_truth,
    score_image,
)
from case_jax.evaluation.studies.localisation_steps import Crops, make_crop_step, make_map_step
from case_jax.evaluation.subject import Subject
from case_jax.metrics.localisation_curves import THRESHOLDS
from case_jax.results import RunFolder
from case_jax.source import Example, Located, Source, Truth
from case_jax.tap.link import require_probabilities
from case_jax.tap.view import TappedModel

Target = Literal["label", "predicted"]
TARGETS: tuple[Target, ...] = get_args(Target)
UNREADABLE, NO_TRUTH, NO_LABEL = "could not be read", "no truth is known", "no label"


class Localisation(NamedTuple):
    """What a run has found."""

    rows: pd.DataFrame
    """One row per image and method or baseline, see `Localise`."""
    overall: pd.DataFrame
    """One row per method or baseline: `images`, `pxap`, `max_box_acc`, `max_box_acc_v2`."""
    counts: dict[str, int]
    """How many images were used, left out, and why."""
    excluded: list[dict[str, Any]]
    """Images that were left out: index in the source, name, reason, and which `kind` of reason."""
    methods: tuple[str, ...]


def require_located(source: Source, truth: str | None) -> tuple[Located, str]:
    """The source as one that knows its truth, and the kind that is asked for.

    Raises:
        CaseJaxError: for a source without truth, or of other kinds.
    """
    known = [str(kind) for kind in getattr(source, "truths", ())]
    accepted = (
        "a source that says where its objects are: digit_scenes, sound_scenes, tfds:imagenet2012:validation prepared with --boxes, or one of your own "
        "with `truths` and `truth(index, kind)` (see case_jax.source.Located)"
    )
    require(known, "source", f"{source.name}, which knows neither boxes nor masks", accepted)
    if truth is not None and truth not in known:
        raise unknown("truth", truth, known)
    return cast(Located, source), truth or known[0]


@dataclass(frozen=True)
class Localise:
    """Where finished maps lie, against the source's truth, beside baselines that know no classifier.

    Rows hold `degenerate`, the box (`top`, `bottom`, `left`, `right`), `iou`, `f1`, `f1a`, `le`, `om` (see `box_scores`), `sm` with its
    terms `sm_log_area` and `sm_log_p` (see `saliency_metric`; of the class that the map is of), and `mean`, `sd`, `entropy`, `tv` (see
    `mask_statistics`). Degenerate maps have NaN; they are counted and enter nothing. After the methods come the baselines: the whole
    image, a centre box of half the area, the largest true box, and the object's pixels as a map. What belongs to a data set as a whole
    (PxAP, MaxBoxAcc) is kept as integer sums.
    """

    target: Target = "label"
    """Whether maps are of the image's label or of the likeliest class."""
    truth: str | None = None
    """Which of the source's kinds of truth; None takes the usual one."""
    thresholds: int = THRESHOLDS
    """Of MaxBoxAcc and MaxBoxAccV2, see `threshold_hits`; most of the host's time is proportional to them."""
    reference_box: bool = False
    """Make boxes as the masking paper's code does, see `box_of_map`."""

    name = "localise"
    unit = "images"
    scored = False
    tile = 16
    part = 64

    def check(self, subject: Subject, images: Images) -> None:
        """Raise for a source without truth or labels, a method named as a baseline, and numbers below 1."""
        require_located(images.source, self.truth)
        require_probabilities(subject.model.link, argument="model", asked="localise")
        if self.target not in TARGETS:
            raise unknown("target", self.target, TARGETS)
        named, name = subject.source.class_names is not None or self.target == "predicted", subject.source.name
        require(named, "target", f"'label' for {name}, which has no labels", "'predicted', or data with labels")
        twice = [name for name in subject.functions if name in BASELINES]
        accepted = f"other names than those of the baselines: {', '.join(BASELINES)}"
        require(not twice, "methods", ", ".join(twice), accepted)
        require(
            self.thresholds >= 1, "thresholds", self.thresholds, "a number of thresholds of at least 1, for example 100"
        )

    def program(self, question: Question, model: TappedModel, images: Images) -> Program:
        """Twice through the devices: maps to the host, which finds boxes there; their crops back through the classifier."""
        source, kind = require_located(images.source, self.truth)
        maps = parallel.over_devices(make_map_step(question, model, self.target))
        crops = parallel.over_devices(make_crop_step(question.pixels, model))
        game = _Game(self, source, kind, images.indices, (*question.methods, *BASELINES), len(images.first.clusters))

        def found(stream: Iterator[Tile], through: Through) -> Iterator[tuple[Tile, Found]]:
            held: dict[int, list[_Image]] = {}

            def boxed() -> Iterator[Tile]:
                for tile, shown in through(maps, model.params, stream):
                    held[tile.number], batch = game.boxes(tile, shown)
                    yield tile._replace(batch=batch)

            for tile, terms in through(crops, model.params, boxed()):
                yield tile, game.found(held.pop(tile.number), terms)

        def boxes(batch: Batch) -> tuple[Any, ...]:
            count = len(batch.image_ids)
            four = np.zeros((count, len(game.methods), 4), np.int32)
            return model.params, Crops(batch.images, four, np.zeros(count, np.int32))

        return Program([Compiled(maps, lambda batch: (model.params, batch)), Compiled(crops, boxes)], found)

    def settings(self, subject: Subject) -> dict[str, Any]:
        """All options, and the kind of truth that was taken."""
        kind = require_located(subject.source, self.truth)[1]
        return {"localise": dataclasses.asdict(self) | {"truth": kind, "baselines": list(BASELINES)}}


class _Image(NamedTuple):
    """An image of a tile: what is known of it and how it scored, or why it is left out."""

    slot: int
    example: Example
    facts: dict[str, Any]
    scores: ImageScores | None
    left_out: dict[str, Any] | None


class _Game(NamedTuple):
    """The host's part."""

    study: Localise
    source: Located
    kind: str
    indices: np.ndarray
    methods: tuple[str, ...]
    """Baselines among them."""
    ids: int
    """How many things an image shares with others."""

    def boxes(self, tile: Tile, shown: Mapping[str, np.ndarray]) -> tuple[list[_Image], Crops]:
        """Score one tile's maps, and what the classifier is to see of them."""
        slots = [slot for slot, example in enumerate(tile.examples) if example is not None]
        images = [self._score(tile, shown, slot) for slot in slots]  # threads would wait for each other
        boxes = np.zeros((len(tile.examples), len(self.methods), 4), np.int32)
        for image in images:
            if image.scores is not None:
                boxes[image.slot] = image.scores.boxes
        return images, Crops(tile.batch.images, boxes, shown["target"])

    def _score(self, tile: Tile, shown: Mapping[str, np.ndarray], slot: int) -> _Image:
        example, index = tile.examples[slot], int(self.indices[tile.number * len(tile.examples) + slot])
        assert example is not None, "chosen by the caller"
        facts = {"image_id": example.image_id, "name": example.name, "label": example.label}
        facts |= {name: shown[name][slot] for name in ("target", "top1", "p")}
        truth: Truth | None = None
        reason = NO_LABEL if self.study.target == "label" and example.label < 0 else None
        if reason is None and (truth := self.source.truth(index, self.kind)) is None:
            reason = NO_TRUTH
        if truth is None:
            left_out = {"index": index, "name": example.name, "reason": reason, "kind": reason}
            return _Image(slot, example, facts, None, left_out)
        require_truth(truth, example.image.shape[:2], example.name)
        scores = score_image(
            shown["maps"][slot],
            shown["degenerate"][slot],
            truth,
            correct=None if example.label < 0 else bool(facts["top1"] == example.label_for(facts["top1"])),
            finite=bool(np.isfinite(facts["p"])),
            thresholds=self.study.thresholds,
            reference_box=self.study.reference_box,
        )
        return _Image(slot, example, facts, scores, None)

    def found(self, images: list[_Image], terms: Mapping[str, np.ndarray]) -> Found:
        """One tile's rows and sums."""
        scored = [(image, image.scores) for image in images if image.scores is not None]
        columns = columns_of([image.facts for image, _ in scored], [scores for _, scores in scored], self.methods)
        shared = cluster_columns([image.example for image, _ in scored], self.ids)
        columns |= {name: np.repeat(ids, len(self.methods)) for name, ids in shared.items()}
        slots = [image.slot for image, _ in scored]
        for name, values in terms.items():
            columns[name] = np.where(columns["degenerate"], np.nan, values[slots].ravel()).astype(np.float32)
        counts = Counts.none(len(self.methods), self.study.thresholds)
        for _, scores in scored:
            counts = counts.plus(scores.counts)
        left_out = [image.left_out for image in images if image.left_out is not None]
        return Found(columns, left_out, counts._asdict())


def localisation(folder: RunFolder) -> Localisation:
    """What a run of `Localise` has found: rows, what belongs to the data set as a whole, and what was left out.

    Raises:
        CaseJaxError: when nothing could be scored; says why.
    """
    config, excluded = folder.config(), [{"kind": UNREADABLE, **entry} for entry in folder.excluded()]
    drawn = config["data"]["images"]
    kinds = Counter(entry["kind"] for entry in excluded)
    if len(excluded) == drawn:
        raise CaseJaxError(
            f"source: none of the {drawn} images of {config['data']['name']} could be scored: "
            + "; ".join(f"{kind}: {number}" for kind, number in kinds.items())
            + "."
        )
    methods = (*config["methods"], *config["localise"]["baselines"])
    rows = folder.rows()
    images = rows.drop_duplicates("image_id")
    of_methods = rows["degenerate"] & ~rows["method"].isin(BASELINES)
    counts = {
        "images drawn": drawn,
        "images scored": len(images),
        **{f"images left out: {kind}": kinds[kind] for kind in (UNREADABLE, NO_TRUTH, NO_LABEL)},
        "images with logits that are not finite (no score)": int((~np.isfinite(images["p"])).sum()),
        "images without a label (no OM)": int((images["label"] < 0).sum()),
        "degenerate maps, over all methods (no score)": int(of_methods.sum()),
    }
    return Localisation(rows, overall(Counts(**folder.sums()), methods), counts, excluded, methods)

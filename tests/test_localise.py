"""Localisation over a source: rows against scores made one by one, baselines, what is left out, and resuming."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from studies import localise

from case_jax import grad_cam, tag, tap_function, topk_logits
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import ContrastChoice
from case_jax.evaluation import Pixels
from case_jax.evaluation.studies import localise as module
from case_jax.evaluation.studies.localisation_scores import BASELINES, baselines, centre_box
from case_jax.imageops import crop_resized, finish_maps
from case_jax.metrics.localisation import box_of_map, box_scores
from case_jax.metrics.localisation_curves import pixel_average_precision, pixel_counts
from case_jax.records import SUMS
from case_jax.report.localise import page_of
from case_jax.results import RunFolder
from case_jax.source import Example, Truth, UnreadableImageError

SIDE, IMAGES, CLASSES = 16, 11, 3
PLAIN = Pixels((0.0,) * 3, (1.0,) * 3)
UNLABELLED, UNKNOWN, TORN, BLACK = 3, 5, 7, 9


class BrightSquares:
    """A bright square of one of three colours on grey; one image without label, without truth, torn, and all black each."""

    name, class_names, fingerprint = "squares", ("r", "g", "b"), "v1"
    truths = ("square", "frame")

    def __init__(self, *, crash_at=None, boxes_only=False):
        self.crash_at, self.boxes_only = crash_at, boxes_only

    def __len__(self):
        return IMAGES

    def corner(self, index):
        return np.random.default_rng(index).integers(0, 8, 2)

    def __getitem__(self, index):
        if index == self.crash_at:
            raise RuntimeError("power cut")
        if index == TORN:
            raise UnreadableImageError(f"square {index}", "torn")
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        if index != BLACK:
            top, left = self.corner(index)
            image[:] = 25
            image[top : top + 6, left : left + 8, index % CLASSES] = 255
        label = -1 if index == UNLABELLED else index % CLASSES
        return Example(100 + index, f"square {index}", image, label, clusters=(index // 2,))

    def truth(self, index, kind):
        assert kind in self.truths
        if index == UNKNOWN:
            return None
        top, left = self.corner(index)
        pixels = np.zeros((SIDE, SIDE), bool)
        pixels[top : top + 6, left : left + 8] = True
        boxes = np.array([[top, top + 6, left, left + 8], [0, 2, 0, 2]])
        if kind == "frame":
            boxes = np.array([[-4, 20, -4, 20]])
        return Truth(boxes, None if self.boxes_only else pixels)


class Unlocated(BrightSquares):
    truths = ()


def colour_logits(params, x):
    """Mean brightness of each colour above grey; class 2 is mistaken for class 1."""
    a = tag(jnp.maximum(x - 0.2, 0.0), "features")
    return (8 * a.mean((0, 1))) @ params


@pytest.fixture(scope="module")
def model():
    mistaken = jnp.array([[1.0, 0, 0], [0, 1.0, 0], [0, 1.5, 1.0]])
    return tap_function(colour_logits, mistaken, "features", jnp.zeros((SIDE, SIDE, 3)))


def bright(view, query):
    """Where any colour is bright: exactly the square."""
    return jnp.broadcast_to(jnp.maximum(view.image.max(-1) - 0.2, 0.0), (len(query.targets), SIDE, SIDE))


def fading(view, query):
    """Brighter to the right, and by class."""
    ramp = jnp.broadcast_to(jnp.arange(SIDE, dtype=jnp.float32), (SIDE, SIDE))
    return ramp + query.targets[:, None, None].astype(jnp.float32) + view.image[..., 0]


METHODS = {"bright": bright, "fading": fading, "grad_cam": grad_cam}


def run(model, folder, source=None, methods=METHODS, **options):
    contrast = ContrastChoice("topk_logits:1", topk_logits(1, CLASSES))
    options = {"pixels": PLAIN, "tile": 2, "thresholds": 10, **options}
    return localise(source or BrightSquares(), model, contrast, methods, folder, **options)


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    return run(model, tmp_path_factory.mktemp("whole") / "run")


def row(found, method, image):
    rows = found.rows[(found.rows["method"] == method) & (found.rows["image_id"] == 100 + image)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_there_is_a_row_per_image_and_method_and_the_rest_is_counted(found):
    images = set(range(IMAGES)) - {UNLABELLED, UNKNOWN, TORN}
    assert set(found.rows["image_id"]) == {100 + i for i in images}
    assert found.rows.groupby("image_id")["method"].apply(list).map(tuple).unique().tolist() == [(*METHODS, *BASELINES)]
    assert found.counts["images drawn"] == IMAGES
    assert found.counts["images scored"] == 8
    kinds = {entry["name"]: entry["kind"] for entry in found.excluded}
    assert kinds == {"square 3": "no label", "square 5": "no truth is known", "square 7": "could not be read"}
    assert all(found.counts[f"images left out: {kind}"] == 1 for kind in kinds.values())


def test_rows_name_what_images_share(found):
    rows = found.rows
    np.testing.assert_array_equal(rows["cluster_1"], (rows["image_id"] - 100) // 2)


def test_a_map_of_the_square_is_perfect(found):
    rows = found.rows[(found.rows["method"] == "bright") & (found.rows["image_id"] != 100 + BLACK)]
    assert (rows["le"] == 0).all()
    assert (rows["iou"] == 1).all()
    np.testing.assert_allclose(rows["f1"], 1, atol=1e-5)
    assert (rows["f1a"] < rows["f1"]).all()
    assert rows["om"].tolist() == [float(label == 2) for label in rows["label"]]  # blue is taken for green
    scores = found.overall.loc["bright"]
    assert scores[["pxap", "max_box_acc", "max_box_acc_v2"]].tolist() == [1.0, 1.0, 1.0]
    assert scores["images"] == 7


def test_degenerate_maps_have_no_score_and_are_counted(found):
    black = row(found, "bright", BLACK)
    assert black["degenerate"]
    assert black[["iou", "le", "om", "sm", "mean"]].isna().all()
    assert black[["top", "bottom", "left", "right"]].tolist() == [0, 0, 0, 0]
    assert not row(found, "fading", BLACK)["degenerate"]
    assert found.counts["degenerate maps, over all methods (no score)"] == 2  # also of Grad-CAM
    assert found.overall.loc["fading", "images"] == 8


def test_rows_are_scores_made_one_by_one(found, model):
    source, counts = BrightSquares(), 0
    for index in sorted(set(range(IMAGES)) - {UNLABELLED, UNKNOWN, TORN}):
        image = jnp.asarray(source[index].image / 255, jnp.float32)
        truth, at = source.truth(index, "square"), row(found, "fading", index)
        ramp = np.arange(SIDE) + index % CLASSES + np.asarray(image[..., 0])
        saliency = np.asarray(finish_maps(jnp.asarray(ramp[None], jnp.float32), (SIDE, SIDE))[0])
        box = box_of_map(saliency)
        logits = model.apply(model.params, image)
        expected = box_scores(saliency, box, truth.boxes, correct=bool(logits.argmax() == index % CLASSES))
        np.testing.assert_allclose([at[name] for name in expected._fields], expected, atol=1e-6)
        np.testing.assert_array_equal([at[side] for side in ("top", "bottom", "left", "right")], box)
        crop = np.asarray(model.apply(model.params, crop_resized(image, jnp.asarray(box), (SIDE, SIDE))))
        log_p = crop[index % CLASSES] - np.log(np.exp(crop).sum())
        share = (box[1] - box[0]) * (box[3] - box[2]) / SIDE**2
        assert at["sm"] == pytest.approx(np.log(max(share, 0.05)) - log_p, abs=1e-5)
        assert at["sm"] == pytest.approx(at["sm_log_area"] - at["sm_log_p"], abs=1e-6)
        assert at["mean"] == pytest.approx(saliency.mean(), abs=1e-6)
        counts = counts + pixel_counts(saliency, truth.pixels)
    assert found.overall.loc["fading", "pxap"] == pytest.approx(pixel_average_precision(counts), abs=1e-12)


def test_baselines_are_what_they_say(found):
    assert row(found, "whole_image", 0)[["top", "bottom", "left", "right"]].tolist() == [0, SIDE, 0, SIDE]
    assert row(found, "whole_image", 0)["sm_log_area"] == 0
    assert found.overall.loc["whole_image", "pxap"] == pytest.approx(48 / SIDE**2)  # the share of the pixels
    assert (found.rows.loc[found.rows["method"] == "truth_box", "le"] == 0).all()
    assert found.overall.loc["truth_pixels", "pxap"] == 1.0
    assert centre_box(224, 224).tolist() == [33, 191, 33, 191]  # as in the reference
    assert centre_box(10, 1).tolist() == [1, 9, 0, 1]
    cut = baselines(Truth(np.array([[-4, 20, -4, 20]])), (SIDE, SIDE), reference_box=False)
    assert cut[2].box.tolist() == [0, SIDE, 0, SIDE]  # of a box that leaves the image what is inside
    assert cut[3] is None


def test_maps_of_the_predicted_class_need_no_label(model, tmp_path):
    found = run(model, tmp_path / "run", target="predicted")
    assert 100 + UNLABELLED in set(found.rows["image_id"])
    assert np.isnan(row(found, "bright", UNLABELLED)["om"])
    assert (found.rows["target"] == found.rows["top1"]).all()
    assert row(found, "fading", 2)["target"] == 1
    assert found.counts["images without a label (no OM)"] == 1


def test_another_truth_and_one_without_pixels(model, tmp_path):
    found = run(model, tmp_path / "run", BrightSquares(boxes_only=True), truth="frame", limit=6)
    assert row(found, "whole_image", 0)["iou"] == pytest.approx(256 / 576)  # the box leaves the image
    assert found.overall["pxap"].isna().all()
    assert found.rows.loc[found.rows["method"] == "truth_pixels", "degenerate"].all()
    assert found.overall.loc["truth_pixels", "images"] == 0


def test_the_reference_s_boxes_on_request(model, tmp_path):
    found = run(model, tmp_path / "run", reference_box=True, methods={"bright": bright})
    rows = found.rows[(found.rows["method"] == "bright") & ~found.rows["degenerate"]]
    assert ((rows["bottom"] - rows["top"]) == 5).all()
    assert ((rows["right"] - rows["left"]) == 7).all()


@pytest.fixture(scope="module")
def one_by_one(model, tmp_path_factory):
    return run(model, tmp_path_factory.mktemp("single") / "run", tile=1)


def test_rows_do_not_depend_on_the_tile(found, one_by_one):
    pd.testing.assert_frame_equal(one_by_one.rows, found.rows, rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(one_by_one.overall, found.overall)
    assert one_by_one.counts == found.counts


def test_a_run_that_was_cut_off_resumes_to_the_same(one_by_one, model, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="power cut"):
        run(model, tmp_path / "run", BrightSquares(crash_at=IMAGES - 1), tile=1)
    kept = 4 * len(list((tmp_path / "run" / "parts").glob("part-*.parquet")))
    assert kept in (4, 8)
    seen = []
    monkeypatch.setattr(
        module, "score_image", lambda *a, score=module.score_image, **k: seen.append(1) or score(*a, **k)
    )
    again = run(model, tmp_path / "run", tile=1)
    assert len(seen) <= len(set(range(kept, IMAGES)) - {TORN})
    pd.testing.assert_frame_equal(again.rows, one_by_one.rows)
    pd.testing.assert_frame_equal(again.overall, one_by_one.overall)
    assert again.counts == one_by_one.counts
    seen.clear()
    assert run(model, tmp_path / "run", tile=1).counts == one_by_one.counts
    assert not seen


def test_counts_that_are_lost_or_damaged_are_named(model, tmp_path):
    run(model, tmp_path / "run", limit=2)
    part = tmp_path / "run" / "parts" / "part-000000.parquet"
    table = pq.read_table(part)
    facts = table.schema.metadata
    pq.write_table(table.replace_schema_metadata(facts | {SUMS: facts[SUMS][:-40]}), part)
    with pytest.raises(CaseJaxError, match=r"out: .*part-000000\.parquet is damaged"):
        run(model, tmp_path / "run", limit=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": Unlocated()}, ["source", "squares", "digit_scenes", "truths"]),
        ({"truth": "squares"}, ["truth: 'squares' is unknown", "square", "frame"]),
        ({"target": "labels"}, ["target: 'labels'", "label", "predicted"]),
        ({"methods": {}}, ["methods: got none"]),
        ({"methods": {"centre_box": bright}}, ["methods: got centre_box", "baselines"]),
        ({"methods": {"one": lambda view, query: view.image}}, ["method 'one'"]),
        ({"thresholds": 0}, ["thresholds: got 0"]),
        ({"tile": 0}, ["tile: got 0"]),
        ({"limit": 99}, ["limit: got 99"]),
        ({"limit": 0}, ["limit: got 0"]),
    ],
)
def test_bad_runs_are_refused(model, tmp_path, options, words):
    with pytest.raises(CaseJaxError) as caught:
        run(model, tmp_path / "run", **options)
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused(model, tmp_path):
    run(model, tmp_path / "run", limit=2)
    with pytest.raises(CaseJaxError, match=r"(?s)another configuration.*localise\.target"):
        run(model, tmp_path / "run", limit=2, target="predicted")


def test_a_truth_that_does_not_fit_is_named(model, tmp_path):
    source = BrightSquares()
    source.truth = lambda index, kind: Truth(np.array([[0, 4, 0, 4]]), np.zeros((4, 4), bool))
    with pytest.raises(CaseJaxError, match=r"truth of image 'square 0': .*4, 4"):
        run(model, tmp_path / "run", source)


def test_nothing_of_an_image_with_broken_logits_is_scored(model, tmp_path):
    broken = dataclasses.replace(model, params=jnp.full((CLASSES, CLASSES), jnp.nan))
    found = run(broken, tmp_path / "run", methods={"bright": bright})
    assert found.counts["images with logits that are not finite (no score)"] == 8
    assert found.rows["degenerate"].all()
    assert found.rows[["iou", "om", "sm"]].isna().all(axis=None)
    assert found.overall["images"].sum() == 0
    assert "–" in page_of(tmp_path / "run")[1].text()


def test_where_nothing_can_be_scored_the_reasons_are_given(model, tmp_path):
    source = BrightSquares()
    source.truth = lambda index, kind: None
    with pytest.raises(CaseJaxError, match=r"none of the 11 images.*no truth is known: 9"):
        run(model, tmp_path / "run", source)


@pytest.fixture
def command(shell):
    """`case-jax localise` with these arguments."""
    return lambda arguments: shell("localise", *arguments.split())


def test_the_command_writes_rows_and_summaries_and_resumes(command, tmp_path):
    words = "--limit 6 --tile 4 --contrast topk_logits:2 --methods grad_cam case --thresholds 10 --out run"
    status, out, err = command(words)
    assert status == 0
    assert "6 images of digit_scenes/test × 2 methods" in err
    for title in ("Grad-CAM", "CASE", "whole image", "true pixels", "images scored: 6"):
        assert title in out
    summary = pd.read_csv(tmp_path / "run" / "summary.csv").set_index("method")
    assert summary.loc["truth_box", "le"] == 0
    assert summary.loc["truth_pixels", "pxap"] == 1
    assert summary.loc["grad_cam", "le_low"] <= summary.loc["grad_cam", "le"] <= summary.loc["grad_cam", "le_high"]
    rows = RunFolder(tmp_path / "run").rows()
    assert len(rows) == 6 * 6
    assert rows.loc[rows["method"] == "case", "sm"].mean() == pytest.approx(summary.loc["case", "sm"], rel=1e-5)
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert facts["settings"]["truth"] == "union"
    before = (tmp_path / "run" / "summary.csv").read_bytes()
    assert command(words)[0] == 0
    assert (tmp_path / "run" / "summary.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--truth digit", ["truth: 'digit' is unknown", "union"]),
        ("--methods gradcam", ["'gradcam'", "grad_cam"]),
        ("--thresholds 0", ["thresholds: got 0"]),
        ("--data folder:nowhere", ["no folder"]),
        ("--data folder:photos --target predicted", ["source", "folder:photos", "neither boxes nor masks"]),
    ],
)
def test_bad_commands_are_refused(command, tmp_path, arguments, words):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    status, _, err = command(f"{arguments} --contrast topk_logits:2 --limit 4")
    assert status == 2
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_help_shows_an_example(command):
    status, out, _ = command("--help")
    assert status == 0
    assert "case-jax localise --methods grad_cam case centre_gaussian" in out

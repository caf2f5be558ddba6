import jax
import numpy as np
import pandas as pd
import pytest

from case_jax import case, grad_cam, top_class_maps
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.run import evaluate, plan
from case_jax.evaluation.step import Pixels
from case_jax.imageops import finish_maps, normalise_image
from case_jax.metrics import agreement, removed_probabilities
from case_jax.models import load_classifier, tap_classifier
from case_jax.results import RunFolder
from case_jax.source import UnreadableImageError
from case_jax.stats import summarise

METHODS = ("grad_cam", "case", "random")
PERCENTS = (10, 50)


@pytest.fixture(scope="module")
def pixels():
    facts = load_classifier().entry.preprocessing
    return Pixels(facts.mean, facts.std)


@pytest.fixture(scope="module")
def model(pixels):
    return tap_classifier(load_classifier(), normalise_image(DigitScenes("test", 1)[0].image, *pixels))


@pytest.fixture(scope="module")
def prepared(model, pixels):
    """A short evaluation, planned; keyword arguments replace its settings."""

    def build(source=None, **changes):
        contrast = choose_contrast("topk_logits:3", model.num_classes)
        settings = {"methods": METHODS, "fidelity_percents": PERCENTS, "tile": 16, "part": 16}
        return plan(source or DigitScenes("test", 37), model, contrast, pixels=pixels, **(settings | changes))

    return build


@pytest.fixture(scope="module")
def unbroken(prepared, tmp_path_factory):
    return evaluate(prepared(), RunFolder(tmp_path_factory.mktemp("runs") / "unbroken")).rows()


class Scenes:
    """Digit scenes that misbehave at chosen indices."""

    def __init__(self, size, *, unreadable=(), crash_at=None):
        self.scenes, self.unreadable, self.crash_at = DigitScenes("test", size), unreadable, crash_at
        self.name, self.class_names, self.fingerprint = (
            self.scenes.name,
            self.scenes.class_names,
            self.scenes.fingerprint,
        )

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        if index == self.crash_at:
            raise RuntimeError("power cut")
        if index in self.unreadable:
            raise UnreadableImageError(f"scene {index}", "truncated")
        return self.scenes[index]


def test_every_image_and_method_has_exactly_one_row(unbroken):
    assert len(unbroken) == 37 * len(METHODS)  # 37 = 2 · 16 + 5: the last batch is padded
    assert unbroken["image_id"].tolist() == np.repeat(np.arange(37), len(METHODS)).tolist()
    assert unbroken["method"].tolist() == list(METHODS) * 37


@pytest.mark.parametrize(("name", "function"), [("grad_cam", grad_cam), ("case", case)])
def test_rows_hold_what_the_functions_say(unbroken, model, pixels, name, function):
    image_id = 36
    contrast = choose_contrast("topk_logits:3", model.num_classes).sets
    image = normalise_image(DigitScenes("test", 37)[image_id].image, *pixels)
    maps = finish_maps(top_class_maps(function, model, model.params, image, contrast=contrast), (48, 48))
    row = unbroken[(unbroken.image_id == image_id) & (unbroken.method == name)].iloc[0]
    view = model.view(model.params, image)
    order = np.argsort(-np.asarray(view.logits))
    assert (row.top1, row.top2) == tuple(order[:2])
    assert row.p1 == pytest.approx(float(jax.nn.softmax(view.logits)[order[0]]), abs=1e-5)
    assert pytest.approx(float(agreement(*maps).F), abs=0.01) == row.F
    left = removed_probabilities(view, maps[0], order[0], percents=PERCENTS)
    np.testing.assert_allclose([row.p_removed_10, row.p_removed_50], left, atol=2e-3)


def test_an_interrupted_run_resumes_to_the_same_rows(prepared, unbroken, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(prepared(Scenes(37, crash_at=36)), folder)
    assert 0 < len(folder.done()) < 3
    pd.testing.assert_frame_equal(evaluate(prepared(), folder).rows(), unbroken, check_exact=True)


def test_a_finished_run_is_left_alone(prepared, tmp_path):
    folder = evaluate(prepared(), RunFolder(tmp_path / "run"))
    before = {p.name: p.stat().st_mtime_ns for p in folder.parts.iterdir()}
    evaluate(prepared(Scenes(37, crash_at=5)), folder)
    assert {p.name: p.stat().st_mtime_ns for p in folder.parts.iterdir()} == before


def test_part_size_does_not_change_the_rows(prepared, unbroken, tmp_path):
    rows = evaluate(prepared(part=48), RunFolder(tmp_path / "run")).rows()
    pd.testing.assert_frame_equal(rows, unbroken, check_exact=True)


@pytest.mark.parametrize("tile", [1, 7])
def test_batch_size_moves_scores_by_less_than_the_tolerance(prepared, unbroken, tmp_path, tile):
    rows = evaluate(prepared(tile=tile, part=tile), RunFolder(tmp_path / "run")).rows()
    assert (rows["top1"] == unbroken["top1"]).all()
    for column in ("F", "F_plus", "p_removed_50", "mass_own"):
        np.testing.assert_allclose(rows[column], unbroken[column], atol=1e-2)
    verdicts = [summarise(r, resamples=20).table["sensitive_0.5"].tolist() for r in (rows, unbroken)]
    assert verdicts[0] == verdicts[1]


def test_unreadable_images_are_named_and_the_others_keep_their_rows(prepared, unbroken, tmp_path):
    folder = evaluate(prepared(Scenes(37, unreadable=(0, 20))), RunFolder(tmp_path / "run"))
    assert [(e["index"], e["name"], e["reason"]) for e in folder.excluded()] == [
        (0, "scene 0", "truncated"),
        (20, "scene 20", "truncated"),
    ]
    expected = unbroken[~unbroken.image_id.isin((0, 20))].reset_index(drop=True)
    pd.testing.assert_frame_equal(folder.rows(), expected, check_exact=True)


def test_another_configuration_is_refused_with_the_difference(prepared, tmp_path):
    folder = evaluate(prepared(), RunFolder(tmp_path / "run"))
    with pytest.raises(CaseJaxError, match=r"metrics\.sensitivity\.percent: the folder has 5\.0, this run 10\.0"):
        evaluate(prepared(agreement_percent=10.0), folder)
    with pytest.raises(CaseJaxError, match=r"seed: the folder has 0, this run 1"):
        evaluate(prepared(seed=1), folder)
    with pytest.raises(CaseJaxError, match=r"data\.images: the folder has 37, this run 36"):
        evaluate(prepared(DigitScenes("test", 36)), folder)


def test_a_damaged_part_is_refused_by_name_and_rebuilt_after_deletion(prepared, unbroken, tmp_path):
    folder = evaluate(prepared(), RunFolder(tmp_path / "run"))
    part = folder.part(1)
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CaseJaxError, match=r"part-000001\.parquet is damaged.*delete it"):
        evaluate(prepared(), folder)
    part.unlink()
    pd.testing.assert_frame_equal(evaluate(prepared(), folder).rows(), unbroken, check_exact=True)


def test_two_writers_exclude_each_other(prepared, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(CaseJaxError, match="another process is writing"):
        evaluate(prepared(), RunFolder(tmp_path / "run"))


def test_a_folder_with_something_else_is_refused(prepared, tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(CaseJaxError, match=r"is no run folder: it has no config\.json, but thesis\.tex"):
        evaluate(prepared(), RunFolder(tmp_path))


def test_one_compilation_per_run_and_none_for_new_weights(prepared, model, tmp_path):
    traces = []

    def counted(view, query):
        traces.append(1)
        return grad_cam(view, query)

    planned = prepared(methods={"counted": counted})
    evaluate(planned, RunFolder(tmp_path / "first"))
    assert len(traces) == 1  # three steps, one trace

    from case_jax import parallel
    from case_jax.evaluation.stream import load_tile, template

    empty = template(planned.source, planned.indices, planned.tile)
    batch = parallel.shard(jax.tree.map(lambda a: a[None], load_tile(planned.source, planned.indices, 0, empty).batch))
    first = planned.step(parallel.replicate(model.params), batch)
    other = planned.step(parallel.replicate(jax.tree.map(lambda a: a * 1.5, model.params)), batch)
    assert len(traces) == 1
    assert not np.array_equal(first["p1"], other["p1"])


def test_confusions_are_counted_by_true_class(model, pixels):
    source = DigitScenes("confusion", 130)
    counted = count_confusions(source, model, pixels, tile=50)
    labels = [source[i].label for i in range(130)]
    assert counted.counts.sum(1).tolist() == np.bincount(labels, minlength=25).tolist()
    assert counted.counts.trace() / 130 > 0.8
    np.testing.assert_allclose(counted.mean_probabilities.sum(1)[counted.counts.sum(1) > 0], 1.0, atol=1e-5)


def test_selection_is_drawn_once_by_the_seed(prepared):
    first, again, other = (prepared(DigitScenes("test", 100), limit=10, seed=s).indices.tolist() for s in (0, 0, 1))
    assert first == again == sorted(first)
    assert first != other

import dataclasses
import os
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from studies import evaluation

from case_jax import ask, case, grad_cam, stopping, tag, tap_function, tap_nnx, topk_logits
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Pixels, run
from case_jax.evaluation.batches import Batch, load_tile, template
from case_jax.evaluation.clusters import cluster_columns
from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.maps import Question
from case_jax.evaluation.studies.evaluate_step import make_step, other_class
from case_jax.imageops import finish_maps, normalise_image
from case_jax.methods import METHODS as METHODS_BY_NAME
from case_jax.methods import top_class_maps
from case_jax.metric_column import MetricColumn
from case_jax.metrics import METRICS, Metric, agreement, removed_probabilities
from case_jax.models import load_classifier
from case_jax.report import write_report
from case_jax.results import RunFolder
from case_jax.source import UnreadableImageError
from case_jax.stats import summarise
from case_jax.tap import tag_head_input

METHODS = ("grad_cam", "case", "random")
PERCENTS = (10, 50)
SCORES = ("sensitivity", "fidelity", "evidence")
FAST = {"metrics": ["sensitivity"]}


@pytest.fixture(scope="module")
def pixels():
    facts = load_classifier().preprocessing
    return Pixels(facts.mean, facts.std)


@pytest.fixture(scope="module")
def model():
    """A small network of the scenes' classes: what is evaluated is not the network."""
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(0, 0.3, (7, 7, 3, 16)), jnp.float32),
        "head": jnp.asarray(rng.normal(0, 2, (16, 25)), jnp.float32),
    }

    def function(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        a = jax.lax.conv_general_dilated(x[None], params["kernel"], (6, 6), "SAME", dimension_numbers=numbers)
        return tag_head_input(tag(jax.nn.relu(a[0]), "features").mean((0, 1))) @ params["head"]

    return tap_function(function, params, "features", jnp.zeros((48, 48, 3)), head_kernel=lambda p: p["head"])


@pytest.fixture(scope="module")
def prepared(model, pixels):
    """A short evaluation, planned; keyword arguments replace its settings. Equal settings share a step, traced once."""
    planned = {}

    def build(source=None, **changes):
        source, key = source or DigitScenes("test", 37), repr(changes)
        if key not in planned or len(source) != 37:
            contrast = choose_contrast("topk_logits:3", model.num_classes)
            settings = {"methods": METHODS, "metrics": SCORES, "fidelity_percents": PERCENTS, "tile": 16, "part": 16}
            found = evaluation(source, model, contrast, pixels=pixels, **(settings | changes))
            if len(source) != 37:
                return found
            planned[key] = found
        job = planned[key]
        return job._replace(images=job.images._replace(source=source))

    return build


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    return run(prepared(), RunFolder(tmp_path_factory.mktemp("runs") / "unbroken"))


@pytest.fixture(scope="module")
def unbroken(whole):
    return whole.rows()


@pytest.fixture
def finished(whole, tmp_path):
    """A finished run that a test may spoil."""
    return RunFolder(shutil.copytree(whole.path, tmp_path / "run"))


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


def test_rows_name_what_images_share(unbroken, prepared):
    ids = [f"cluster_{i}" for i in (1, 2, 3)]
    expected = np.repeat([DigitScenes("test", 37)[i].clusters for i in range(37)], len(METHODS), axis=0)
    np.testing.assert_array_equal(unbroken[ids], expected)
    assert prepared().config["data"]["unit"] == "handwritten strokes"
    assert prepared(Scenes(5)).config["data"]["unit"] == "images"  # a source that names none


def test_every_image_has_as_many_ids_as_the_first():
    example = DigitScenes("test", 1)[0]
    assert {name: ids.tolist() for name, ids in cluster_columns([example], 3).items()} == {
        f"cluster_{place}": [stroke] for place, stroke in enumerate(example.clusters, start=1)
    }
    assert list(cluster_columns([], 2)) == ["cluster_1", "cluster_2"]
    assert cluster_columns([example._replace(clusters=())], 0) == {}
    with pytest.raises(CaseJaxError, match="2 like the first image"):
        cluster_columns([example], 2)


@pytest.mark.parametrize(("name", "function"), [("grad_cam", grad_cam), ("case", case)])
def test_rows_hold_what_the_functions_say(unbroken, model, pixels, name, function):
    image_id = 36
    contrast = choose_contrast("topk_logits:3", model.num_classes).sets
    image = normalise_image(DigitScenes("test", 37)[image_id].image, *pixels)
    row = unbroken[(unbroken.image_id == image_id) & (unbroken.method == name)].iloc[0]

    @jax.jit
    def expected(image):
        maps = finish_maps(top_class_maps(function, model, model.params, image, contrast=contrast), (48, 48))
        view = model.view(model.params, image)
        return (
            view.logits,
            agreement(*maps).F,
            removed_probabilities(view, maps[0], view.logits.argmax(), percents=PERCENTS),
        )

    logits, overlap, left = expected(image)
    order = np.argsort(-np.asarray(logits))
    assert (row.top1, row.top2) == tuple(order[:2])
    assert row.p1 == pytest.approx(float(jax.nn.softmax(logits)[order[0]]), abs=1e-5)
    assert pytest.approx(float(overlap), abs=0.01) == row.F
    np.testing.assert_allclose([row.p_removed_10, row.p_removed_50], left, atol=2e-3)


def test_an_interrupted_run_resumes_to_the_same_rows(prepared, unbroken, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="power cut"):
        run(prepared(Scenes(37, crash_at=36)), folder)
    assert 0 < len(folder.done()) < 3
    pd.testing.assert_frame_equal(run(prepared(), folder).rows(), unbroken, check_exact=True)


def test_a_finished_run_is_left_alone(prepared, finished):
    before = {p.name: p.stat().st_mtime_ns for p in finished.parts.iterdir()}
    run(prepared(Scenes(37, crash_at=5)), finished)
    assert {p.name: p.stat().st_mtime_ns for p in finished.parts.iterdir()} == before


def test_part_size_does_not_change_the_rows(prepared, unbroken, tmp_path):
    rows = run(prepared(part=48), RunFolder(tmp_path / "run")).rows()
    pd.testing.assert_frame_equal(rows, unbroken, check_exact=True)


@pytest.mark.parametrize("tile", [1, 7])
def test_batch_size_moves_scores_by_less_than_the_tolerance(prepared, unbroken, tmp_path, tile):
    rows = run(prepared(tile=tile, part=tile), RunFolder(tmp_path / "run")).rows()
    assert (rows["top1"] == unbroken["top1"]).all()
    for column in ("F", "F_plus", "p_removed_50", "mass_own"):
        np.testing.assert_allclose(rows[column], unbroken[column], atol=1e-2)
    verdicts = [summarise(r, resamples=20).table["sensitive_0.5"].tolist() for r in (rows, unbroken)]
    assert verdicts[0] == verdicts[1]


def test_unreadable_images_are_named_and_the_others_keep_their_rows(prepared, unbroken, tmp_path):
    folder = run(prepared(Scenes(37, unreadable=(0, 20))), RunFolder(tmp_path / "run"))
    assert [(e["index"], e["name"], e["reason"]) for e in folder.excluded()] == [
        (0, "scene 0", "truncated"),
        (20, "scene 20", "truncated"),
    ]
    expected = unbroken[~unbroken.image_id.isin((0, 20))].reset_index(drop=True)
    pd.testing.assert_frame_equal(folder.rows(), expected, check_exact=True)


def test_another_configuration_is_refused_with_the_difference(prepared, finished):
    with pytest.raises(CaseJaxError, match=r"metrics\.sensitivity\.percent: the folder has 5\.0, this run 10\.0"):
        run(prepared(agreement_percent=10.0), finished)
    with pytest.raises(CaseJaxError, match=r"seed: the folder has 0, this run 1"):
        run(prepared(seed=1), finished)
    with pytest.raises(CaseJaxError, match=r"data\.images: the folder has 37, this run 36"):
        run(prepared(DigitScenes("test", 36)), finished)


def test_a_damaged_part_is_refused_by_name_and_rebuilt_after_deletion(prepared, unbroken, finished):
    part = finished.part(1)
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CaseJaxError, match=r"part-000001\.parquet is damaged.*delete it"):
        run(prepared(), finished)
    part.unlink()
    pd.testing.assert_frame_equal(run(prepared(), finished).rows(), unbroken, check_exact=True)


class Signalled(Scenes):
    """Scenes of which one sends this process a signal while it is read."""

    def __init__(self, count, number, at):
        super().__init__(count)
        self.number, self.at = number, at

    def __getitem__(self, index):
        if index == self.at:
            os.kill(os.getpid(), self.number)
            time.sleep(0.2)  # so that the tiles behind wait until the signal is known
        return super().__getitem__(index)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_run_told_to_stop_keeps_the_batch_in_hand(prepared, unbroken, tmp_path, capsys, number, ends):
    folder, settings = RunFolder(tmp_path / "run"), {"tile": 4, "part": 40}
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
    at_first = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(ends):
            run(prepared(Signalled(37, number, 22), **settings), folder)
        assert heard == (["SIGTERM"] if number is signal.SIGTERM else [])
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, at_first)
    assert (
        f"stopped by {number.name}; all that was computed is kept, and the same command resumes"
        in capsys.readouterr().err
    )
    begun = folder.begun()
    assert list(begun) == [0]
    assert 1 <= begun[0].tiles < 10
    assert len(begun[0].rows) == begun[0].tiles * 4 * len(METHODS)
    rows = run(prepared(Scenes(37, crash_at=1), **settings), folder).rows()  # the first images are not read again
    pd.testing.assert_frame_equal(
        rows, run(prepared(**settings), RunFolder(tmp_path / "whole")).rows(), check_exact=True
    )
    assert not folder.begun()
    assert not list(folder.parts.glob("begun-*"))


def test_a_batch_that_takes_too_long_is_given_up_after_a_grace_period(prepared, tmp_path, monkeypatch, capsys):
    class Stuck(Signalled):
        def __getitem__(self, index):
            while index == self.at and not folder.part(0).exists():
                time.sleep(0.01)
            if index == self.at:
                time.sleep(1)  # until the batches before it are done, too
            example = super().__getitem__(index)
            if index == self.at:
                ended.wait(60)  # the main thread is in a wait that no handler ends
            return example

    ended, folder, exits = threading.Event(), RunFolder(tmp_path / "run"), []

    def leave(status):
        exits.append((status, {n: b.tiles for n, b in folder.begun().items()}))
        ended.set()

    monkeypatch.setattr(stopping, "GRACE", 0.3)
    monkeypatch.setattr(os, "_exit", leave)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(SystemExit):
            run(prepared(Stuck(37, signal.SIGTERM, 22), tile=4, part=12), folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    [(status, begun)] = exits
    assert status == 128 + signal.SIGTERM
    assert begun in ({}, {1: 1})
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_a_part_that_was_begun_and_is_whole_now_counts_once(prepared, unbroken, finished):
    (finished.parts / "begun-000001.parquet").write_bytes(finished.part(1).read_bytes())  # killed before it was removed
    assert not finished.begun()
    pd.testing.assert_frame_equal(run(prepared(), finished).rows(), unbroken, check_exact=True)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_a_flipped_bit_is_no_other_number(finished, share):
    whole = finished.rows()
    part = finished.part(1)
    damaged = bytearray(part.read_bytes())
    damaged[int(share * len(damaged))] ^= 1
    part.write_bytes(damaged)
    try:
        rows = finished.rows()
    except CaseJaxError:
        with pytest.raises(CaseJaxError, match=r"part-000001\.parquet is damaged"):
            finished.done()
    else:
        pd.testing.assert_frame_equal(rows, whole, check_exact=True)


def test_two_writers_exclude_each_other(prepared, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(CaseJaxError, match="another process is writing"):
        run(prepared(), RunFolder(tmp_path / "run"))


def test_a_folder_with_something_else_is_refused(prepared, tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(CaseJaxError, match=r"is no run folder: it has no config\.json, but thesis\.tex"):
        run(prepared(), RunFolder(tmp_path))


def test_one_compilation_per_run_and_none_for_new_weights(prepared, model, tmp_path):
    traces = []

    def counted(view, query):
        traces.append(1)
        return grad_cam(view, query)

    planned = prepared(methods={"counted": counted})
    run(planned, RunFolder(tmp_path / "first"))
    assert len(traces) == 1  # three steps, one trace

    from case_jax import parallel

    source, indices, _ = planned.images
    empty, step = template(source, indices, planned.tile), planned.program.compiled[0].function
    batch = parallel.shard(jax.tree.map(lambda a: a[None], load_tile(source, indices, 0, empty).batch))
    first = step(parallel.replicate((model.params, {})), batch)
    other = step(parallel.replicate((jax.tree.map(lambda a: a * 1.5, model.params), {})), batch)
    assert len(traces) == 1
    assert not np.array_equal(first["p1"], other["p1"])


def test_confusions_are_counted_by_true_class(tapped, pixels):
    source = DigitScenes("confusion", 130)
    counted = count_confusions(source, tapped, pixels, tile=50)
    labels = [source[i].label for i in range(130)]
    assert counted.counts.sum(1).tolist() == np.bincount(labels, minlength=25).tolist()
    assert counted.counts.trace() / 130 > 0.8
    np.testing.assert_allclose(counted.mean_probabilities.sum(1)[counted.counts.sum(1) > 0], 1.0, atol=1e-5)


def test_selection_is_drawn_once_by_the_seed(prepared):
    first, again, other = (
        prepared(DigitScenes("test", 100), limit=10, seed=s).images.indices.tolist() for s in (0, 0, 1)
    )
    assert first == again == sorted(first)
    assert first != other


def test_another_order_of_methods_is_another_run(prepared, tmp_path):
    folder = run(prepared(methods=("grad_cam", "case"), **FAST), RunFolder(tmp_path / "run"))
    with pytest.raises(CaseJaxError, match=r"order of methods: the folder has \['grad_cam', 'case'\]"):
        run(prepared(methods=("case", "grad_cam"), **FAST), folder)


def blurred(sigma):
    def own(view, query, width=sigma):
        return grad_cam(view, query) * width

    return own


def test_functions_of_ones_own_are_told_apart_by_their_options_and_source(prepared, tmp_path):
    folder = run(prepared(methods={"mine": blurred(2.0)}, **FAST), RunFolder(tmp_path / "run"))
    with pytest.raises(CaseJaxError, match=r"methods\.mine\.options\.width: the folder has 2\.0, this run 3\.0"):
        run(prepared(methods={"mine": blurred(3.0)}, **FAST), folder)
    with pytest.raises(CaseJaxError, match=r"methods\.mine\.source"):
        run(prepared(methods={"mine": lambda view, query: grad_cam(view, query)}, **FAST), folder)
    assert prepared(methods={"random": grad_cam}, **FAST).config["methods"]["random"]["control"] is False


def test_contrast_sets_counted_on_the_evaluated_images_are_refused(prepared, model, pixels):
    counted = count_confusions(DigitScenes("test", 100), model, pixels)
    choice = choose_contrast("confusion:1", model.num_classes, confusions=lambda: counted)
    with pytest.raises(CaseJaxError, match=r"contrast_data: got digit_scenes/test .*, which is the evaluation data"):
        evaluation(DigitScenes("test", 37), model, choice, pixels=pixels, methods=METHODS)


def test_degenerate_maps_have_no_scores(prepared, tmp_path):
    nothing = lambda view, query: 0 * grad_cam(view, query)  # noqa: E731
    rows = run(prepared(methods={"nothing": nothing}), RunFolder(tmp_path / "run")).rows()
    assert rows[["degenerate_1", "degenerate_2"]].all(axis=None)
    assert rows[["F", "F_plus", "p_removed_50", "mass_own", "top_own", "points_1", "points_2"]].isna().all(axis=None)


def test_images_with_broken_logits_are_left_out_of_every_score(prepared, model, tmp_path):
    def apply(params, image):
        return model.apply(params, image) * np.float32(1) / (image[0, 0, 0] != broken).astype("float32") ** 0.5

    source = DigitScenes("test", 37)
    pixel = source[3].image[0, 0, 0]
    broken = np.float32((np.float32(pixel) / 255 - np.float32(0.1)) / np.float32(0.2))
    import dataclasses

    planned = prepared()
    step_of = dataclasses.replace(model, apply=apply, head_kernel=None)
    contrast = choose_contrast("topk_logits:3", model.num_classes)
    asked = {"methods": METHODS, "metrics": SCORES, "tile": 16, "part": 16}
    planned = evaluation(source, step_of, contrast, pixels=planned.subject.pixels, **asked)
    rows = run(planned, RunFolder(tmp_path / "run")).rows()
    bad = rows[~np.isfinite(rows["p1"])]
    assert 0 < bad["image_id"].nunique() < 37
    assert bad[["degenerate_1", "degenerate_2"]].all(axis=None)
    summary = summarise(rows, resamples=20)
    assert np.isfinite(summary.table.loc["random", "drop_mean"])
    assert [n for text, n in summary.counts.items() if "not finite" in text] == [bad["image_id"].nunique()]


def test_a_method_of_pairs_is_asked_again_about_a_pair(prepared, tmp_path):
    """Maps exchanged keep or lose what the rival's mask does: asked about one class alone they would raise."""
    methods = {name: METHODS_BY_NAME[name].maps for name in ("finer_cam", "exchanged")}
    planned = prepared(methods=methods, metrics=["masked_accuracy"], options={"masked_accuracy": {"rounds": 1}})
    rows = run(planned, RunFolder(tmp_path / "run")).rows()
    plain, after = (
        rows.pivot(index="image_id", columns="method", values=f"mia_predicted_{i}").dropna() for i in (0, 1)
    )
    assert (plain == 1).all(axis=None)
    assert len(after) > 10
    assert (after["exchanged"] != after["finer_cam"]).any()


class Strange(Scenes):
    """Scenes of which one has been changed."""

    def __init__(self, **changes):
        super().__init__(20)
        self.changes = changes

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example._replace(**self.changes) if index == 7 else example


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": 25}, "label 25; accepted: a class from 0 to 24"),
        ({"image_id": 2**31}, "id 2147483648"),
        ({"image": np.zeros((40, 48, 3), np.uint8)}, r"shape \(40, 48, 3\)"),
        ({"evidence": None}, r"evidence of shape \(0, 48, 48\).*pad with NOBODY"),
    ],
)
def test_an_image_that_does_not_fit_is_named(prepared, tmp_path, changes, words):
    with pytest.raises(CaseJaxError, match=rf"image 'scene-000007': got {words}"):
        run(prepared(Strange(**changes)), RunFolder(tmp_path / "run"))


def test_a_session_line_torn_by_a_crash_does_no_harm(prepared, finished):
    from case_jax.report.loading import load_run

    log = finished.path / "sessions.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    run(prepared(), finished)
    assert len(load_run(finished.path).sessions) == 1  # the torn one is gone, the new one is whole


def test_a_module_with_dropout_is_evaluated(prepared, pixels, tmp_path):
    from flax import nnx

    from case_jax import tap_nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), strides=4, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 25, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(nnx.relu(self.conv(x)).mean((1, 2))))

    source = DigitScenes("test", 6)
    image = normalise_image(source[0].image, *pixels)
    net = tap_nnx(Net(nnx.Rngs(0)), "conv", image, linear_head="head")
    asked = {"methods": METHODS, "metrics": SCORES, "tile": 6, "part": 6}
    planned = evaluation(source, net, choose_contrast("all", 25), pixels=pixels, **asked)
    assert len(run(planned, RunFolder(tmp_path / "run")).rows()) == 18


# --- metrics of one's own ----------------------------------------------------------------------------------------------------


def brightness(scored, *, scale=1.0):
    """A metric of one's own: mean of the first map, and of the map of the random class."""
    return {"brightness": scale * scored.maps[0].mean(), "brightness_random": scored.maps[2].mean()}


def blank(scored):
    """The map of the altered image, in which nothing is left."""
    return {"blank": scored.explain(jnp.zeros_like(scored.view.image)).max()}


def told(scored):
    """A metric of one's own that needs the label and the method's masks."""
    return {"told": scored.label, "named": scored.recursed(scored.targets[0], 0)[0].argmax() == scored.label}


OWN = {
    "sensitivity": METRICS["sensitivity"],
    "brightness": Metric(
        brightness,
        "how bright is it?",
        (MetricColumn("brightness", "brightness", "mean of the map; low = sparse", better="low", percent=False),),
        random_class=True,
    ),
    "blank": Metric(blank, "what is left?", explains=True),
    "told": Metric(told, "is it what it is?", explains=True),
}


@pytest.fixture(scope="module")
def own(prepared, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("own") / "run")
    return run(prepared(metrics=OWN, options={"brightness": {"scale": 2.0}}), folder)


def test_a_metric_of_one_s_own_is_evaluated_with_its_options(own, model, pixels, unbroken):
    rows = own.rows()
    assert not rows.columns.str.startswith("p_removed").any()  # only the metrics that were asked for
    np.testing.assert_array_equal(rows["F"], unbroken["F"])
    np.testing.assert_array_equal(rows["told"], rows["label"])
    np.testing.assert_array_equal(rows["named"], rows["label"] == rows["top1"])
    scene = DigitScenes("test", 37)[5]
    image = normalise_image(scene.image, *pixels)
    view = model.view(model.params, image)
    row = rows[(rows["image_id"] == 5) & (rows["method"] == "grad_cam")].iloc[0]
    targets = jnp.asarray([row["top1"], row["random_class"]])
    maps = finish_maps(grad_cam(view, ask(view, targets)), image.shape[:2])
    assert row["brightness"] == pytest.approx(2 * float(maps[0].mean()), rel=1e-4)
    assert row["brightness_random"] == pytest.approx(float(maps[1].mean()), rel=1e-4)


def test_a_metric_may_ask_the_method_about_an_altered_image(own, model):
    rows = own.rows()
    empty = jnp.zeros(model.image_shape)
    for c in rows["top1"].unique():
        view = model.view(model.params, empty)
        expected = finish_maps(grad_cam(view, ask(view, jnp.asarray([c]))), empty.shape[:2]).max()
        found = rows.loc[(rows["top1"] == c) & (rows["method"] == "grad_cam"), "blank"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_random_class_is_any_but_the_likeliest(own):
    rows = own.rows().drop_duplicates("image_id")
    assert (rows["random_class"] != rows["top1"]).all()
    assert rows["random_class"].between(0, 24).all()
    assert rows["random_class"].nunique() > 12  # 37 draws from 24 classes hit 19 on average
    assert "random_class" not in evaluation_columns(["sensitivity"])


def evaluation_columns(metrics):
    step = make_step(
        Question({"grad_cam": grad_cam}, topk_logits(1, 2), Pixels((0.0,) * 3, (1.0,) * 3)),
        {n: METRICS[n] for n in metrics},
        {},
        tap_function(lambda p, x: tag(x, "a").mean((0, 1)) @ p, jnp.ones((3, 2)), "a", jnp.zeros((8, 8, 3))),
    )
    batch = Batch(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), np.zeros((1, 0, 8, 8), bool), np.zeros((1, 0), np.int32), np.zeros(1, np.int32))  # fmt: skip
    return jax.eval_shape(step, (jnp.ones((3, 2)), {}), batch)


def test_uniform_draw_of_the_other_class():
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = np.asarray(jax.vmap(lambda key: other_class(key, jnp.int32(2), 4))(keys))
    counts = np.bincount(drawn, minlength=4)
    assert counts[2] == 0
    assert (np.abs(counts[[0, 1, 3]] - 1000) < 130).all()  # five standard deviations


def test_what_a_metric_says_of_itself_is_summed_up_ranked_and_shown(own):
    page = write_report(own.path).read_text()
    assert "Further scores" in page
    assert "mean of the map; low = sparse" in page
    assert "Ranks" in page
    table = pd.read_csv(own.path / "summary.csv", index_col="method")
    assert table.loc["grad_cam", "brightness_mean"] == pytest.approx(
        own.rows().query("method == 'grad_cam'")["brightness"].mean(), rel=1e-5
    )
    assert table["mean_rank"].notna().sum() == 2  # the control is not ranked
    assert page.count('<table class="main">') == 5  # the first, all scores, the diagnostic, further scores, ranks


def test_unknown_options_of_metrics_are_refused(prepared):
    with pytest.raises(CaseJaxError, match="options: 'blur' is unknown"):
        prepared(options={"blur": {}})


def test_two_metrics_must_not_write_the_same_column(prepared, tmp_path):
    twice = OWN | {"again": OWN["brightness"]}
    with pytest.raises(CaseJaxError, match=r"metrics: got columns brightness, brightness_random from 'again'"):
        run(prepared(metrics=twice), RunFolder(tmp_path / "twice"))


def test_a_model_in_bfloat16_is_evaluated(classifier, pixels, tmp_path):
    """Probabilities are float32 whatever the model computes in."""
    module = nnx.clone(classifier.module)
    nnx.update(module, jax.tree.map(lambda p: p.astype(jnp.bfloat16), nnx.state(module)))
    half = tap_nnx(module, "blocks.2", jnp.zeros((48, 48, 3), jnp.bfloat16), linear_head="head")

    def apply(params, x):
        return half.apply(params, x.astype(jnp.bfloat16))

    model = dataclasses.replace(half, apply=apply)
    planned = evaluation(
        DigitScenes("test", 8),
        model,
        choose_contrast("topk_logits:3", model.num_classes),
        pixels=pixels,
        methods=["grad_cam", "case"],
        metrics=SCORES,
        fidelity_percents=PERCENTS,
        tile=8,
        part=8,
    )
    rows = run(planned, RunFolder(tmp_path / "half")).rows()
    assert len(rows) == 16
    assert {rows[c].dtype for c in ("p1", "p_removed_50", "F")} == {np.dtype(np.float32)}


def test_another_own_metric_is_another_run(prepared, tmp_path):
    def brightest(scored):
        return {"seen": scored.maps[0].max()}

    def darkest(scored):
        return {"seen": scored.maps[0].min()}

    first, second = (
        prepared(methods=["grad_cam"], metrics={"mine": Metric(f, "what is seen?")}) for f in (brightest, darkest)
    )
    run(first, RunFolder(tmp_path))
    with pytest.raises(CaseJaxError, match="own_metrics"):
        run(second, RunFolder(tmp_path))


def test_removals_given_as_an_option_must_hold_the_papers_too(prepared):
    with pytest.raises(CaseJaxError, match=r"fidelity_percents: .* holds 50"):
        prepared(options={"fidelity": {"percents": (10.0, 20.0)}})

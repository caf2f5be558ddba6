"""Scenes that do not favour contrast: parts taken out, by hand and of the shipped classifier; the experiment at a small size."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from case_jax import CaseJaxError
from case_jax.data import NOBODY, SHARED, DigitScenes
from case_jax.models import Classifier, load_classifier
from case_jax.models.entries import MODELS
from experiments import scenes
from experiments.deleted_parts import deletions, falls_of, logits_of, summed_up
from experiments.families import SHIPPED
from experiments.kept import Numbers
from experiments.networks import Where


def classifier_of(module):
    entry = MODELS[SHIPPED]
    return Classifier(SHIPPED, entry, module, "", {}, entry.default_preprocessing, "", entry.class_names)


class Brightness(nnx.Module):
    """Every logit is the sum of the image: all parts move all classes alike."""

    def __call__(self, x):
        return jnp.broadcast_to(x.sum((1, 2, 3))[:, None] / 1000, (len(x), 25))


@pytest.mark.parametrize(
    ("after", "speaks_for", "expected"),
    [
        # before: 5, 4, 1, 1; candidates 0 and 1; the others' mean fall comes from classes 2 and 3
        ([2, 4, 1, 1], 0, {"own": 3, "rivals": 0, "others": 0, "over_rivals": 3, "over_others": 3, "holds": True}),
        ([2, 0, 1, 1], 0, {"own": 3, "rivals": 4, "others": 0, "over_rivals": -1, "over_others": 3, "holds": False}),
        ([4, 4, -1, -1], 0, {"own": 1, "rivals": 0, "others": 2, "over_rivals": 1, "over_others": -1, "holds": False}),
        ([5, 3, 1, 2], 1, {"own": 1, "rivals": 0, "others": -0.5, "over_rivals": 1, "over_others": 1.5, "holds": True}),
        ([3, 2, 1, 0], SHARED, {"own": 2, "others": 0.5, "over_others": 1.5, "holds": True}),
        ([3, 4, 1, 0], SHARED, {"own": 1, "others": 0.5, "over_others": 0.5, "holds": False}),
        ([4.5, 4, 1, 1], NOBODY, {"own": 0.25, "others": 0, "over_others": 0.25, "holds": True}),
        ([3.5, 4, 1, 1], NOBODY, {"own": 0.75, "others": 0, "over_others": 0.75, "holds": False}),
    ],
)
def test_falls_by_hand(after, speaks_for, expected):
    found = falls_of(np.array([5.0, 4, 1, 1]), np.array(after, float), [0, 1], speaks_for)
    assert {name: found[name] for name in expected} == expected
    assert np.isnan(found["rivals"]) == (speaks_for < 0)


def test_falls_where_there_is_one_candidate():
    found = falls_of(np.array([5.0, 4, 1]), np.array([2.0, 3, 0]), [0], 0)
    assert (found["own"], found["others"], found["holds"]) == (3, 1, True)
    assert np.isnan(found["over_rivals"])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["body", "bright marker", "dim marker"]),
        ({"dim_marker": False, "distractors": 1}, ["body", "bright marker", "distractor"]),
        ({"body_decides": True}, ["bright body", "marker", "dim body"]),
    ],
)
def test_a_classifier_that_sees_brightness_alone_fails_the_test(options, parts):
    """Each part moves all classes by as much, and none speaks for a class; what speaks for nobody leaves the likeliest class."""
    rows = deletions(classifier_of(Brightness()), DigitScenes("test", 4, **options))
    assert rows["part"].tolist() == parts * 4
    assert rows["image_id"].tolist() == np.repeat(range(4), 3).tolist()
    assert (rows["own"] > 0).all()
    np.testing.assert_allclose(rows["over_others"], 0, atol=1e-12)
    assert rows.loc[rows["holds"], "part"].unique().tolist() == [p for p in parts if p == "distractor"]


def test_the_usual_scenes_are_what_they_are_said_to_be_to_the_shipped_classifier():
    rows = deletions(load_classifier(), DigitScenes("test", 60))
    table = summed_up(rows).set_index("part")
    assert table["scenes"].tolist() == [60] * 3
    assert table["speaks_for"].to_dict() == {
        "body": "all candidates", "bright marker": "its own class", "dim marker": "its own class"
    }  # fmt: skip
    assert (table["holds"] > 0.85).all()
    assert (table["over_others_low"] > 0).all()
    assert (table.loc[["bright marker", "dim marker"], "over_rivals_low"] > 0).all()
    assert (table["own_low"] <= table["own"]).all()


@pytest.mark.parametrize("count", [1, 99, 100, 101])
def test_logits_of_any_number_of_images(count):
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(count)]
    found = logits_of(classifier_of(Brightness()), images)
    assert found.shape == (count, 25)
    assert (np.diff(found[:, 0]) > 0).all()


def test_gains_are_paired_by_scene_and_leave_degenerate_maps_out():
    rows = pd.DataFrame(
        {
            "network": "usual",
            "image_id": [0, 0, 1, 1, 2, 2, 3, 3],
            "method": [scenes.PLAIN, scenes.CONTRAST] * 4,
            "degenerate_1": [False] * 7 + [True],
            "mass_own": [0.1, 0.4, 0.2, 0.4, 0.3, 0.4, 0.9, 0.0],
            "cluster_1": [0, 0, 1, 1, 2, 2, 3, 3],
        }
    )
    alone, together = (scenes.gain_of(rows.assign(cluster_2=ids), "mass_own") for ids in (-1, [9, 9, 9, 9, 8, 8, 9, 9]))
    assert alone.value == together.value == pytest.approx(0.2)  # of 0.3, 0.2 and 0.1
    half = 4.3027 * np.sqrt(0.02 / 6)  # Student's t of 2 degrees of freedom
    assert (alone.low, alone.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-4)
    assert together.high - together.low > alone.high - alone.low
    assert scenes.gain_of(rows.assign(mass_own=np.nan, network="usual"), "mass_own") is None


@pytest.mark.parametrize("options", scenes.VARIANTS.values(), ids=scenes.VARIANTS)
def test_every_kind_of_scenes_can_be_made(options):
    assert DigitScenes("train", 1, **options)[0].evidence is not None


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"variants": ("textur",)}, {}, "variants: 'textur' is unknown. Did you mean 'texture'"),
        ({}, {"data": "digit_scenes:train"}, "data: got digit_scenes:train; accepted: none here"),
        ({}, {"networks": ("VGG",)}, "networks: got"),
        ({}, {"limit": 0}, "limit: got 0"),
    ],
)
def test_what_the_experiment_does_not_take(changes, where, message):
    with pytest.raises(CaseJaxError, match=message):
        dataclasses.replace(scenes.Config(Where(**where)), **changes).check()


def test_what_is_concluded_of_two_kinds_by_hand():
    """Own mass: on the one kind contrast is ahead by 0.3 in each scene, on the other by 0 in the mean."""
    rows = [
        {"network": kind, "image_id": i, "method": method, "label": 1, "top1": i % 2, "degenerate_1": False, "degenerate_2": False,
         "F": 0.1 * i, "mass_own": 0.2 + more, "cluster_1": i}
        for kind, gains in (("usual", [0.3, 0.3, 0.3, 0.3]), ("96 px", [0.1, -0.1, 0.1, -0.1]))
        for i, gain in enumerate(gains)
        for method, more in ((scenes.PLAIN, 0.0), (scenes.CONTRAST, gain))
    ]  # fmt: skip
    falls = {"own": 2.0, "rivals": np.nan, "others": 0.0, "over_rivals": np.nan, "over_others": 2.0}
    parts = [
        {
            "network": kind,
            "image_id": i,
            "part": "body",
            "speaks_for": "all candidates",
            "holds": i < 3,
            "cluster_1": i,
            **falls,
        }
        for kind in ("usual", "96 px")
        for i in range(4)
    ]
    rows[0]["cluster_2"] = 7  # as where one kind has more parts than another
    found = scenes.concluded(Numbers({"rows": pd.DataFrame(rows), "parts": pd.DataFrame(parts)}, {}), scenes.Config())
    assert [finding.verdict for finding in found.findings] == ["undecided", "in part"]
    assert [(one.label, one.value) for one in found.findings[0].comparisons] == [
        ("body, usual", 0.75),
        ("body, 96 px", 0.75),
    ]
    assert [(one.label, round(one.value, 6)) for one in found.findings[1].comparisons] == [("usual", 0.3), ("96 px", 0)]
    assert found.tables["networks"].numbers["accuracy"].tolist() == [0.5, 0.5]
    assert found.tables["networks"].numbers["options"].tolist() == ["–", "side=96"]
    F = found.tables["F"].shown
    assert list(F.columns) == ["method", "usual", "96 px"]
    assert F.loc[0, "usual"].startswith("15% [")


@pytest.mark.slow
def test_the_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    where = Where(quick=True, processes=1, runs=tmp_path / "runs")
    scenes.main(scenes.Config(where, ("body decides", "96 px"), out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "F.csv")
    assert table["scenes"].unique().tolist() == ["body decides", "96 px"]
    assert len(table) == 2 * table["method"].nunique()
    parts = pd.read_csv(tmp_path / "out" / "parts.csv")
    assert parts["part"].tolist() == ["bright body", "marker", "dim body", "body", "bright marker", "dim marker"]
    assert (parts["scenes"] == 40).all()

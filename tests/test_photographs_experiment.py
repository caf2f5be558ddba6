"""The experiment on photographs: its views and numbers by hand, and the whole of it at a small size."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from case_jax import CaseJaxError, tag, tap_function
from case_jax.data import Photos
from case_jax.evaluation import Pixels
from case_jax.stats import summarise
from experiments import photographs
from experiments.claim import Estimate, Finding
from experiments.kept import FINDINGS
from experiments.photographs_beside import NOT_ASKED, side_by_side
from experiments.photographs_estimates import as_photographs, by_photograph
from experiments.photographs_rows import BESIDE, _cell_scores
from experiments.photographs_views import VIEWS, TenCrops

HOW = {"resize": 40, "crop": 32, "interpolation": "bilinear"}


@pytest.fixture(scope="module")
def photos():
    return Photos(None, **HOW)


def test_views_are_crops_of_the_resized_photograph_and_their_mirror_images(photos):
    views = TenCrops(photos, **HOW)
    assert len(views) == 10 * len(photos)
    for number in range(len(photos)):
        mine = [views[10 * number + v] for v in range(10)]
        np.testing.assert_array_equal(mine[0].image, photos[number].image)
        assert {(one.image_id // 10, one.clusters, one.label) for one in mine} == {
            (number, (number,), photos[number].label)
        }
        places: dict = {}
        for (place, mirrored), one in zip(VIEWS, mine, strict=True):
            places.setdefault(place, {})[mirrored] = one.image
        assert len(places) == 5
        for both in places.values():
            np.testing.assert_array_equal(both[True][:, ::-1], both[False])


def test_fewer_views_are_the_first_ones_with_the_same_ids(photos):
    few, all_ = TenCrops(photos, **HOW, views=2), TenCrops(photos, **HOW)
    assert [few[i].image_id for i in range(4)] == [0, 1, 10, 11]
    np.testing.assert_array_equal(few[3].image, all_[11].image)
    assert few.fingerprint != all_.fingerprint
    with pytest.raises(CaseJaxError, match="views: got 11"):
        TenCrops(photos, **HOW, views=11)
    with pytest.raises(IndexError, match="view 20 of 20"):
        few[20]


def test_views_of_one_photograph_are_one_measure():
    """However many views a photograph has, the interval is Student's of the photographs' means."""
    means = np.array([0.2, 0.5, 1.4])
    ids = [10 * p + v for p in range(3) for v in range(4)]
    views = np.repeat(means, 4) + np.tile([-0.1, 0.1, 0.3, -0.3], 3)
    found = by_photograph("x", pd.Series(views, index=ids), margin=0.1)
    half = stats.sem(means) * stats.t.ppf(0.975, 2)
    assert (found.n, found.unit, found.df, found.margin) == (3, "photographs", 2, 0.1)
    assert found[1:4] == pytest.approx((means.mean(), means.mean() - half, means.mean() + half))
    assert by_photograph("x", pd.Series([1.0, np.nan], index=[0, 10])).n == 1


def test_photographs_are_the_units_of_the_sign_test():
    """Ten photographs of four views each, all below: the exact sign test, whose p is one half to the tenth."""
    ids = [10 * p + v for p in range(10) for v in range(4)]
    F = np.tile([0.1, 0.2, 0.3, 0.9], 10)  # of each photograph one view is above
    views = {"image_id": ids, "method": "x", "F": F, "F_plus": F, "zeros_in_top": False}
    rows = pd.DataFrame(views | {"degenerate_1": False, "degenerate_2": False})
    flat = rows["image_id"] // 10 == 9
    rows.loc[flat, ["F", "F_plus"]], rows.loc[flat, "degenerate_1"] = np.nan, True
    table = summarise(as_photographs(rows)).table.loc["x"]
    assert (table["images"], table["degenerate"], table["n_F"]) == (10, 1, 9)
    assert table["F_median"] == pytest.approx(0.25)
    assert table["p_0.5"] == 0.5**9


def test_what_lies_in_the_own_cell_by_hand():
    """Four classes of which each is to be in its own quarter of a map; the contrast sets are the likeliest others, or those of the other cells."""
    model = tap_function(
        lambda w, image: w * tag(image[::2, ::2], "map").mean(), jnp.arange(12.0), "map", jnp.ones((8, 8, 3))
    )
    own = np.zeros((4, 4, 4), np.float32)
    for cell, (row, column) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3)]):
        own[cell, row, column] = 1
    wrong = own[::-1] + own / 3  # a quarter in its own cell, the peak opposite
    asked = {}

    def given(maps, name):
        def method(view, query):
            asked[name] = query.contrast.shape
            return jnp.asarray(maps)

        return method

    maps = {"own": own, "wrong": wrong, f"none{BESIDE}": np.zeros_like(own)}
    methods = {name: given(value, name) for name, value in maps.items()}
    image, classes = jnp.full((8, 8, 3), 200, jnp.uint8), jnp.array([11, 3, 10, 0])
    pixels = Pixels((0.5,) * 3, (0.5,) * 3)
    found = jax.jit(partial(_cell_scores, model, pixels, methods))(model.params, image, classes, jnp.int32(0))
    np.testing.assert_allclose(found["share"], [[1] * 4, [0.25] * 4, [np.nan] * 4], atol=1e-6)
    np.testing.assert_array_equal(found["points"], [[1] * 4, [0] * 4, [np.nan] * 4])
    np.testing.assert_array_equal(found["degenerate"], [[False] * 4, [False] * 4, [True] * 4])
    assert found["place"].tolist() == [0, 8, 1, 11]
    assert asked == {"own": (4, 10), "wrong": (4, 10), f"none{BESIDE}": (4, 3)}


def test_verdicts_side_by_side(tmp_path):
    def keep(folder, claim, verdict):
        (tmp_path / folder).mkdir()
        record = {"claim": claim, "verdict": verdict, "said": "Holds in 2 of 2"}
        (tmp_path / folder / FINDINGS).write_text(json.dumps({"findings": [record]}))

    unasked = next(iter(NOT_ASKED))
    keep("specificity", "A", "reproduced")
    keep("seeds", unasked, "not reproduced")
    keep("photographs", "B", "reproduced")  # its own answer of a former run is none of digit scenes
    here = [Finding(c, "here", [Estimate("x", 1, -1, 3, 10, "photographs")], "universal") for c in "AB"]
    table = side_by_side(here, tmp_path)
    assert table["claim"].tolist() == ["A", unasked]
    assert table["on digit scenes"].tolist() == ["reproduced", "not reproduced"]
    assert table["on photographs"].tolist() == ["undecided", "not testable offline"]


@pytest.mark.slow
def test_photographs(tmp_path, monkeypatch):
    """One network, two photographs; concluded again from what is kept, it says the same."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    config = photographs.Config(quick=True, runs=tmp_path / "runs", out=tmp_path / "out")
    photographs.main(config)
    said = (tmp_path / "out" / FINDINGS).read_bytes()
    pairs = pd.read_csv(tmp_path / "out" / "pairs.csv").set_index("method")["specificity"]
    assert pairs["centre Gaussian"] == 0
    assert pairs["Finer-CAM, k = 5"] != 0
    medians = pd.read_csv(tmp_path / "out" / "medians.csv").set_index("method")["F_median"]
    assert (medians["Eigen-CAM"] == 1).all()
    assert (medians["Finer-CAM, k = 1"] < 0.05).all()
    photographs.main(dataclasses.replace(config, again=True))
    assert (tmp_path / "out" / FINDINGS).read_bytes() == said

"""Heat maps of few and of many classes."""

import io

import numpy as np
import pytest
from PIL import Image

from case_jax.report.heat_map import CELLS, Groups, averaged, heat_map, superclass_map
from case_jax.report.pairs import _drawn

RNG = np.random.default_rng(0)


def drawn(figure):
    axes = figure.axes[0]
    return np.ma.filled(axes.images[0].get_array(), np.nan), [
        t.get_text() for t in axes.get_yticklabels() if t.get_text()
    ]


def test_few_classes_are_all_named_and_the_diagonal_is_left_out():
    agreement = RNG.random((5, 5))
    cells, names = drawn(heat_map("Grad-CAM", agreement, list("abcde")))
    assert names == list("abcde")
    assert np.isnan(np.diagonal(cells)).all()
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_array_equal(cells[off], agreement[off])


def test_groups_bring_classes_together():
    agreement = RNG.random((4, 4))
    order = np.array([2, 0, 3, 1])
    cells, names = drawn(heat_map("m", agreement, list("abcd"), Groups(order, ("x", "y"), np.array([2, 2]))))
    assert names == list("cadb")
    assert cells[0, 1] == agreement[2, 0]
    assert cells[2, 0] == agreement[3, 2]


def test_of_a_thousand_classes_only_groups_are_named_and_neighbours_are_averaged():
    count = 1000
    agreement = RNG.random((count, count))
    sizes = np.array([600, 390, 10])
    figure = heat_map("m", agreement, [str(c) for c in range(count)], Groups(np.arange(count), ("x", "y", "z"), sizes))
    cells, names = drawn(figure)
    assert cells.shape == (CELLS, CELLS)
    assert names == ["x", "y"]  # z is narrower than its name
    np.testing.assert_allclose(cells[3, 5], agreement[6:8, 10:12].mean())
    assert "2 × 2 a cell" in figure.axes[0].get_xlabel()
    assert len(figure.axes[0].lines) == 4
    few, _ = drawn(heat_map("m", agreement, [str(c) for c in range(count)]))
    np.testing.assert_array_equal(few, cells)


def test_averages_are_over_what_is_known():
    matrix = np.array([[1, np.nan, np.nan], [3, np.nan, np.nan], [5, 7, 9.0]])
    np.testing.assert_array_equal(averaged(matrix, 2), [[2, np.nan], [6, 9]])
    assert averaged(matrix, 1) is matrix


@pytest.mark.parametrize("unknown", [False, True])
def test_a_figure_per_method(unknown):
    agreement = np.full((2, 3, 3), np.nan) if unknown else RNG.random((2, 3, 3))
    titles = {"case": "CASE", "grad_cam": "Grad-CAM"}
    drawn = _drawn("agreement", titles, (heat_map("CASE", a, ["$a", "b", "c"]) for a in agreement))
    drawn += _drawn("superclasses", titles, (superclass_map("CASE", a, ["x", "y", "z"]) for a in agreement))
    names = ["agreement-case", "agreement-grad_cam", "superclasses-case", "superclasses-grad_cam"]
    assert [drawing.name for drawing in drawn] == names
    for drawing in drawn:
        with Image.open(io.BytesIO(drawing.png)) as picture:
            assert np.asarray(picture.convert("L")).std() > 5

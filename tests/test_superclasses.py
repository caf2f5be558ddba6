"""Agreement within and between super-classes, against sums by hand."""

import numpy as np
import pytest

from case_jax import CaseJaxError
from case_jax.evaluation.studies.pair_agreements import Agreements
from case_jax.evaluation.studies.superclasses import blocks, read_hierarchy, superclass_table

NAMES = ("crane", "tench", "hen", "goldfish", "ostrich")
CSV = "class,superclass\ncrane,bird\ntench,fish\nhen,bird\ngoldfish,fish\nostrich,bird\n"


def written(folder, text):
    file = folder / "hierarchy.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def hierarchy(tmp_path):
    return read_hierarchy(written(tmp_path, CSV), NAMES)


def a_sweep(seed=0, unseen=()):
    rng = np.random.default_rng(seed)
    images, overlap = rng.integers(1, 9, (2, 5, 5)), rng.integers(0, 50, (2, 5, 5))
    images, overlap = (np.triu(a) + np.triu(a, 1).swapaxes(1, 2) for a in (images, overlap))
    for a, b in unseen:
        images[:, [a, b], [b, a]] = overlap[:, [a, b], [b, a]] = 0
    return Agreements(("one", "two"), overlap, images, 10, np.zeros(2, int), [], 9)


def by_hand(found, method, first, second):
    """Mean over pairs and images, a pair once."""
    pairs = {tuple(sorted((a, b))) for a in first for b in second if a != b}
    seen = sum(found.images[method][pair] for pair in pairs)
    return (sum(found.overlap[method][pair] for pair in pairs) / seen / 10 if seen else np.nan), seen


BIRDS, FISH = (0, 2, 4), (1, 3)


def test_super_classes_come_in_the_order_of_the_file(hierarchy):
    assert hierarchy.names == ("bird", "fish")
    assert hierarchy.of_class.tolist() == [0, 1, 0, 1, 0]
    assert hierarchy.order().tolist() == [0, 2, 4, 1, 3]
    assert hierarchy.sizes().tolist() == [3, 2]


@pytest.mark.parametrize("unseen", [(), ((0, 1), (1, 3))])
def test_a_block_is_the_mean_of_its_pairs_weighted_by_images(hierarchy, unseen):
    found = a_sweep(unseen=unseen)
    cells = blocks(found, hierarchy)
    for method in range(2):
        for i, first in enumerate((BIRDS, FISH)):
            for j, second in enumerate((BIRDS, FISH)):
                mean, seen = by_hand(found, method, first, second)
                np.testing.assert_allclose(cells.agreement[method, i, j], mean)
                assert cells.images[method, i, j] == seen


def test_the_table_tells_within_from_between_and_names_the_nearest(tmp_path):
    three = CSV.replace("ostrich,bird", "ostrich,ratite")
    found = a_sweep()
    table = superclass_table(found, read_hierarchy(written(tmp_path, three), NAMES)).set_index(["method", "superclass"])
    groups = {"bird": (0, 2), "fish": (1, 3), "ratite": (4,)}
    for number, method in enumerate(found.methods):
        for name, classes in groups.items():
            row = table.loc[(method, name)]
            others = [c for c in range(5) if c not in classes]
            np.testing.assert_allclose(row["between"], by_hand(found, number, classes, others)[0])
            np.testing.assert_allclose(row["within"], by_hand(found, number, classes, classes)[0])
            nearest = max((by_hand(found, number, classes, groups[o])[0], o) for o in groups if o != name)
            assert (row["nearest"], row["classes"]) == (nearest[1], len(classes))
            np.testing.assert_allclose(row["nearest_agreement"], nearest[0])
        every = table.loc[(method, "(all)")]
        inside = [p for classes in groups.values() for p in [(a, b) for a in classes for b in classes if a < b]]
        seen = sum(found.images[number][p] for p in inside)
        np.testing.assert_allclose(every["within"], sum(found.overlap[number][p] for p in inside) / seen / 10)
        assert every["pairs_within"] == seen
        assert every["pairs_within"] + every["pairs_between"] == np.triu(found.images[number], 1).sum()
    assert np.isnan(table.loc[("one", "ratite"), "within"])  # of one class


def test_further_columns_and_a_byte_order_mark_are_no_matter(tmp_path):
    text = "\ufeffwnid,superclass,class\n" + "".join(
        f"n{i},{line.partition(',')[2]},{line.partition(',')[0]}\n" for i, line in enumerate(CSV.split()[1:])
    )
    assert read_hierarchy(written(tmp_path, text), NAMES).names == ("bird", "fish")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CSV.replace("hen,bird\n", ""), r"classes missing in .*, 1 in all: 'hen'; accepted: .* 5 rows"),
        (CSV + "pike,fish\n", r"classes unknown to the classifier, listed in .*, 1 in all: 'pike'"),
        (CSV + "hen,fish\n", r"classes listed more than once in .*, 1 in all: 'hen'"),
        ("name,superclass\nhen,bird\n", r"with the columns name, superclass; accepted: a header"),
        ("", r"with the columns none; accepted: a header"),
        (CSV.replace("hen,bird", "hen,"), r"empty cell in line \[4\]"),
        (CSV.replace("tench,fish", "tench"), r"empty cell in line \[3\]"),
        (CSV.replace("fish\n", "bird\n"), r"1 super-class in .*'bird'; accepted: at least 2"),
    ],
)
def test_a_hierarchy_that_does_not_fit_is_refused(tmp_path, text, words):
    with pytest.raises(CaseJaxError, match=f"hierarchy: got .*{words}"):
        read_hierarchy(written(tmp_path, text), NAMES)


def test_ten_of_many_classes_are_named(tmp_path):
    names = tuple(f"class {n}" for n in range(30))
    with pytest.raises(CaseJaxError, match=r"classes missing in .*, 30 in all: .*'class 9', …;") as caught:
        read_hierarchy(written(tmp_path, "class,superclass\n"), names)
    assert "class 10" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(CaseJaxError, match=r"hierarchy: cannot read .*none\.csv"):
        read_hierarchy(tmp_path / "none.csv", NAMES)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CaseJaxError, match="hierarchy: cannot read"):
        read_hierarchy(tmp_path / "binary.csv", NAMES)

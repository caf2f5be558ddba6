"""Sweeps: sums of overlaps against maps whose order is known, whatever the tile, the memory, the share or the interruption."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies import count_pairs

from case_jax import METHODS, CaseJaxError, parallel, tag, tap_function
from case_jax.contrast.choice import choose_contrast
from case_jax.evaluation.batches import Batch
from case_jax.evaluation.maps import Pixels, Question
from case_jax.evaluation.studies import pair_agreements, pair_counts
from case_jax.evaluation.studies import pairs as pairs_module
from case_jax.evaluation.studies.pair_agreements import Agreements, confused_pairs
from case_jax.evaluation.studies.pair_counts import empty_counts, make_counting_step, pairs_in
from case_jax.evaluation.studies.pair_sums import PairSums, file_of, read_sums, write_sums
from case_jax.parallel.grid import ALONE, Grid
from case_jax.results import RunFolder
from case_jax.source import Example, UnreadableImageError
from case_jax.tap import tag_head_input

CLASSES, SIDE, IMAGES = 6, 8, 11
PERCENT, TOP_PIXELS = 20.0, 12
PIXELS = Pixels((0.0,) * 3, (1 / 255,) * 3)  # normalised pixels are the pixels
BASE = np.random.default_rng(0).integers(0, 4, (CLASSES, SIDE, SIDE))
ENOUGH = 2**20


class Squares:
    """Images of a few grey levels: maps added to them are full of ties."""

    name, class_names, fingerprint = "squares", None, "v1"

    def __init__(self, *, unreadable=(), crash_at=None):
        self.unreadable, self.crash_at, self.read = unreadable, crash_at, 0
        self.images = np.random.default_rng(1).integers(0, 4, (IMAGES, SIDE, SIDE, 3)).astype(np.uint8)

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        self.read += 1
        if index == self.crash_at:
            raise RuntimeError("power cut")
        if index in self.unreadable:
            raise UnreadableImageError(f"square {index}", "torn")
        return Example(index, f"square {index}", self.images[index], -1)


def known(view, query):
    """The class's own pattern plus the image; even classes have no map where the first pixel is 0."""
    seen = jnp.round(view.image[..., 0])
    maps = jnp.asarray(BASE, jnp.float32)[query.targets] + seen
    return jnp.where(((query.targets % 2 == 0) & (seen[0, 0] == 0))[:, None, None], 0.0, maps)


def coarse(view, query):
    """At half the resolution."""
    return known(view, query)[:, ::2, ::2]


@pytest.fixture(scope="module")
def model():
    """Six classes with logits that differ from image to image."""
    params = jnp.asarray(np.random.default_rng(2).normal(size=(3, CLASSES)), jnp.float32)

    def function(params, x):
        return tag_head_input(tag(x, "a").mean((0, 1))) @ params

    return tap_function(function, params, "a", jnp.zeros((SIDE, SIDE, 3)), head_kernel=lambda p: p)


CONTRAST = choose_contrast("topk_logits:2", CLASSES)


@pytest.fixture
def run(model):
    def go(source=None, methods=None, **settings):
        given = {"agreement_percent": PERCENT, "tile": 4, "memory": ENOUGH} | settings
        return count_pairs(source or Squares(), model, CONTRAST, methods or {"known": known}, pixels=PIXELS, **given)

    return go


def expected(model, top, left_out=()):
    """The same by NumPy: stable sorts, one image and pair at a time."""
    overlap, images, degenerate = np.zeros((CLASSES, CLASSES), int), np.zeros((CLASSES, CLASSES), int), 0
    for index, image in enumerate(Squares().images):
        if index in left_out:
            continue
        likeliest = np.argsort(-np.asarray(model.apply(model.params, image.astype(np.float32))), kind="stable")[:top]
        tops = {}
        for c in likeliest:
            if c % 2 == 0 and image[0, 0, 0] == 0:
                degenerate += 1
                continue
            tops[c] = set(np.argsort(-(BASE[c] + image[..., 0]).ravel(), kind="stable")[:TOP_PIXELS].tolist())
        for a in tops:
            for b in tops:
                overlap[a, b] += len(tops[a] & tops[b])
                images[a, b] += 1
    return overlap, images, degenerate


def agrees(found, model, left_out=()):
    """All pairs, complete."""
    overlap, images, degenerate = expected(model, CLASSES, left_out)
    np.testing.assert_array_equal(found.overlap[0], overlap)
    np.testing.assert_array_equal(found.images[0], images)
    assert (found.degenerate.tolist(), found.counted) == ([degenerate], IMAGES - len(left_out))
    assert [entry["index"] for entry in found.excluded] == list(left_out)


@pytest.mark.parametrize("top", [2, 3, CLASSES])
@pytest.mark.parametrize("memory", [ENOUGH, 2 * 4 * SIDE * SIDE * 16])
def test_sums_are_those_of_sorted_pixels(run, model, top, memory):
    found = run(top=top, memory=memory)
    overlap, images, degenerate = expected(model, top)
    np.testing.assert_array_equal(found.overlap[0], overlap)
    np.testing.assert_array_equal(found.images[0], images)
    assert (found.pixels, found.counted, found.degenerate.tolist()) == (TOP_PIXELS, IMAGES, [degenerate])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found.agreement[0], overlap / images / TOP_PIXELS)
    assert degenerate > 0


def test_images_that_cannot_be_read_are_counted_and_leave_no_trace(run, model):
    found = run(Squares(unreadable=(0, 6)))
    agrees(found, model, left_out=(0, 6))
    assert [entry["name"] for entry in found.excluded] == ["square 0", "square 6"]


def test_methods_of_one_resolution_and_of_others_are_kept_apart(run, model):
    """Maps of one shape go through one program; the sums stay those of their method."""
    found = run(methods={"known": known, "coarse": coarse, "again": known})
    agrees(found._replace(overlap=found.overlap[:1], images=found.images[:1], degenerate=found.degenerate[:1]), model)
    np.testing.assert_array_equal(found.overlap[2], found.overlap[0])
    assert (found.overlap[1] != found.overlap[0]).any()


@pytest.mark.parametrize("tile", [1, 16])
def test_the_tile_does_not_change_the_sums(run, model, tile):
    agrees(run(tile=tile), model)


REAL = ("case", "saliency", "random", "centre_gaussian")


def on_the_toy(toy, source_images, names=REAL, **settings):
    class Noise(Squares):
        def __getitem__(self, index):
            return Example(index, str(index), source_images[index], -1)

    methods = {name: METHODS[name].maps for name in names}
    contrast, pixels = choose_contrast("topk_logits:2", toy.num_classes), Pixels((0.5,) * 3, (0.25,) * 3)
    return count_pairs(Noise(), toy, contrast, methods, pixels=pixels, agreement_percent=10, tile=4, **settings)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(3).integers(0, 256, (IMAGES, 12, 12, 3), np.uint8)


def test_methods_give_the_same_maps_in_chunks(toy, noise):
    """Asked about one class at a time; but for the last bits of matrix products: a pixel in 100,000 may differ."""
    whole, chunked = (on_the_toy(toy, noise, memory=memory) for memory in (ENOUGH, 2 * 4 * 144 * 16))
    np.testing.assert_array_equal(chunked.images, whole.images)
    assert np.abs(chunked.overlap - whole.overlap).sum() <= 1e-5 * whole.overlap.sum()
    exact = [REAL.index(name) for name in ("random", "centre_gaussian")]  # keys go with the class, not with its place
    np.testing.assert_array_equal(chunked.overlap[exact], whole.overlap[exact])


def test_weights_are_looked_up_or_tabulated_with_the_same_sums(toy, noise):
    """A model whose classes are pulled back a few at a time: a table for all pairs, single rows for two classes of each image."""
    pulled = dataclasses.replace(toy, head_kernel=None, chunk=2)
    for top in (2, None):
        found, reference = (on_the_toy(m, noise, ("case",), top=top, memory=ENOUGH) for m in (pulled, toy))
        assert np.abs(found.overlap - reference.overlap).sum() <= 1e-5 * reference.overlap.sum()


def test_memory_stays_within_the_setting_and_the_packed_masks():
    tile, side, classes = 4, 64, 50
    wide = tap_function(
        lambda p, x: tag_head_input(tag(x, "a").mean((0, 1))) @ p,
        jnp.ones((3, classes)),
        "a",
        jnp.zeros((side, side, 3)),
        head_kernel=lambda p: p,
    )

    def of_size(n):
        across = jnp.arange(n, dtype=jnp.float32)
        return lambda view, query: (query.targets[:, None].astype(jnp.float32) + across)[:, :, None] * across

    memory, packed = 2 * tile * side**2 * 16, tile * classes * side**2 // 8
    size = {"shape": (side, side), "tile": tile, "methods": 2, "gradients": 64}
    pairs = pairs_in(memory, top=classes, pixels=200, **size)
    assert (pairs.at_once, pairs.asked) == (4, 1)
    protocol = Question(
        {"coarse": of_size(8), "fine": of_size(side)}, choose_contrast("topk_logits:1", classes).sets, PIXELS
    )
    counts = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), empty_counts(2, classes, 1))
    ids = np.arange(tile, dtype=np.int32)
    nowhere = np.zeros((tile, 0, side, side), bool), np.zeros((tile, 0), np.int32)
    batch = Batch(np.zeros((tile, side, side, 3), np.uint8), ids, *nowhere, ids)
    step = jax.jit(make_counting_step(protocol, wide, pairs), static_argnames="share")
    compiled = step.lower(counts, wide.params, batch, share=ALONE).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= memory + 2 * packed  # of two methods
    assert memory + 2 * packed < tile * classes * side**2 * 4 / 4  # a quarter of the maps of one method


# --- folders ---------------------------------------------------------------------------------------------------------------------


def test_a_sweep_that_dies_resumes_to_the_same_integers(run, model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="power cut"):
        run(Squares(crash_at=9, unreadable=(0,)), folder=folder, save_seconds=0, tile=2)
    begun = read_sums(folder, (1, CLASSES))[0]
    assert 0 < len(begun.tiles) < 6
    assert begun.counted == 2 * len(begun.tiles) - 1
    rest = Squares(unreadable=(0,))
    agrees(run(rest, folder=folder, tile=2), model, left_out=(0,))
    assert (
        rest.read <= IMAGES - begun.counted + 3
    )  # what was counted is not read again; the first image shows the shape


def test_a_finished_sweep_is_left_alone(run, model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(folder=folder)
    before = file_of(folder, 0).stat().st_mtime_ns
    agrees(run(Squares(crash_at=5), folder=folder), model)
    assert file_of(folder, 0).stat().st_mtime_ns == before


def test_another_number_of_processes_takes_what_is_left(run, model, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="power cut"):
        run(Squares(crash_at=10), folder=folder, tile=2)
    with monkeypatch.context() as alone:
        alone.setattr(parallel, "process", lambda: (1, 3))
        part = run(Squares(unreadable=(1,)), folder=folder, tile=2)
    assert part.counted == 4  # tiles 1 and 4 of six
    agrees(run(Squares(unreadable=(1,)), folder=folder, tile=2), model, left_out=(1,))
    assert len(read_sums(folder, (1, CLASSES))) == 2


def test_processes_share_a_folder(run, monkeypatch):
    monkeypatch.setattr(parallel, "process", lambda: (0, 2))
    with pytest.raises(CaseJaxError, match=r"folder: got None; accepted: a folder, where processes share a run"):
        run()


def test_another_sweep_is_refused_with_the_difference(run, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(folder=folder)
    with pytest.raises(CaseJaxError, match=r"pairs\.top: the folder has 6, this run 3"):
        run(folder=folder, top=3)
    with pytest.raises(CaseJaxError, match=r"tile: the folder has 4, this run 2"):
        run(folder=folder, tile=2)
    with pytest.raises(CaseJaxError, match=r"data\.images: the folder has 11, this run 10"):
        run(folder=folder, limit=10)


def test_damaged_and_doubled_sums_are_refused_by_name(run, model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(folder=folder)
    write_sums(folder, 3, read_sums(folder, (1, CLASSES))[0])
    with pytest.raises(CaseJaxError, match="two files of sums hold the same 3 tiles"):
        run(folder=folder)
    file = file_of(folder, 3)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CaseJaxError, match=r"sums-000003\.npz is damaged.*delete it"):
        run(folder=folder)
    file.unlink()
    agrees(run(folder=folder), model)


def test_a_function_that_is_refused_leaves_no_folder(run, tmp_path):
    with pytest.raises(CaseJaxError, match=r"method 'flat': got an output of shape"):
        run(methods={"flat": lambda view, query: known(view, query)[0]}, folder=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- integers --------------------------------------------------------------------------------------------------------------------


def test_devices_are_emptied_before_their_integers_could_overflow(run, model, monkeypatch):
    fetched = []
    emptied = Grid.zeros
    monkeypatch.setattr(Grid, "zeros", lambda self, state: fetched.append(1) or emptied(self, state))
    monkeypatch.setattr(pairs_module, "LARGEST", 4 * TOP_PIXELS)  # one step of four images
    agrees(run(), model)
    assert len(fetched) == 2 + 3  # traced, begun, and after each of three steps


def test_a_tile_whose_sums_could_overflow_is_refused(run, monkeypatch):
    monkeypatch.setattr(pairs_module, "LARGEST", 3 * TOP_PIXELS)
    with pytest.raises(CaseJaxError, match="tile: got 4; accepted: at most 3 images"):
        run()


def test_host_sums_go_beyond_32_bits(tmp_path):
    sums = PairSums.none(1, 2)
    full = np.full((1, 2, 2), 2**31 - 1, np.int32)
    for _ in range(3):
        sums.add_device(0, pair_counts.Counts(full, full, np.array([7], np.int32)))
    assert (sums.overlap == 3 * (2**31 - 1)).all()
    folder = RunFolder(tmp_path)
    folder.parts.mkdir()
    write_sums(folder, 0, sums)
    assert (read_sums(folder, (1, 2))[0].overlap == 3 * (2**31 - 1)).all()


def test_rows_of_several_columns_meet_and_those_beyond_the_classes_are_dropped():
    sums = PairSums.none(1, 5)  # three columns of two rows each
    for column in range(3):
        rows = np.full((1, 2, 5), column + 1, np.int32)
        sums.add_device(column, pair_counts.Counts(rows, rows, np.zeros(1, np.int32)))
    assert sums.overlap[0, :, 0].tolist() == [1, 1, 2, 2, 3]


def test_one_trace_for_all_steps(run):
    traces = []

    def counted(view, query):
        traces.append(1)
        return known(view, query)

    run(methods={"counted": counted}, tile=1)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top": 1}, r"top: got 1; accepted: a number of classes from 2 to 6"),
        (
            {"memory": 1000},
            r"memory: got 1000; accepted: at least 8192 bytes, for a map of 8×8 pixels of each of 4 images",
        ),
        ({"class_shards": 3}, r"class_shards: got 3; accepted: a number that divides that of the local devices, 1"),
        ({"class_shards": 0}, "class_shards: got 0"),
        ({"methods": {}}, "methods: got none"),
        ({"limit": 12}, "limit: got 12"),
    ],
)
def test_bad_settings_are_refused(model, settings, words):
    given = {"methods": {"known": known}, "tile": 4, "agreement_percent": PERCENT} | settings
    methods = given.pop("methods")

    def never():
        raise AssertionError("contrast sets are found last")

    with pytest.raises(CaseJaxError, match=words):
        count_pairs(Squares(), model, never, methods, pixels=PIXELS, **given)


# --- pairs -----------------------------------------------------------------------------------------------------------------------


def test_confused_pairs_are_ordered_by_agreement_images_and_class(monkeypatch):
    images = np.array([[9, 4, 4, 8], [4, 9, 8, 4], [4, 8, 9, 0], [8, 4, 0, 9]])
    agreement = np.array([[1, 0.5, 0.25, 0.5], [0.5, 1, 0.5, 0.5], [0.25, 0.5, 1, 0], [0.5, 0.5, 0, 1]])
    overlap = (images * agreement * 8).astype(int)
    found = Agreements(("m",), overlap[None], images[None], 8, np.zeros(1), [], 9)
    names = ("a", "b", "c", "d")
    expected = [("a", "d", 8), ("b", "c", 8), ("a", "b", 4), ("b", "d", 4), ("a", "c", 4)]
    for block in (1, 8, 1 << 22):  # rows at a time
        monkeypatch.setattr(pair_agreements, "BLOCK", block)
        pairs = confused_pairs(found, names)
        assert list(zip(pairs["class_a"], pairs["class_b"], pairs["images"], strict=True)) == expected
        assert pairs["agreement"].tolist() == [0.5, 0.5, 0.5, 0.5, 0.25]
        assert len(confused_pairs(found, names, most=2)) == 2

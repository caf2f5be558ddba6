import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from studies import evaluation

from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import choose_contrast
from case_jax.data import CachedCrops, DigitScenes
from case_jax.data.crop_rows import RowShape, pack, unpack
from case_jax.evaluation import Pixels, run
from case_jax.results import RunFolder
from case_jax.source import NOBODY, Evidence, Example, UnreadableImageError


class Pictures:
    """Random images, some of them unreadable, that counts how often it is asked."""

    def __init__(self, size=12, *, regions=None, unreadable=(3, 7), fingerprint="a", prefix="picture"):
        self.size, self.regions, self.unreadable, self.prefix = size, regions, unreadable, prefix
        self.name, self.class_names, self.fingerprint = "pictures", ("cat", "dog"), fingerprint
        self.asked = []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        name = f"{self.prefix} {index}·\udcff"
        if index in self.unreadable:
            raise UnreadableImageError(name, f"truncated at {index}")
        rng = np.random.default_rng(index)
        evidence = None
        if self.regions is not None:
            classes = np.array([index % 2, NOBODY, -1][: self.regions], np.int32)
            evidence = Evidence(rng.integers(0, 2, (self.regions, 9, 11)).astype(bool), classes)
        return Example(
            1000 - index,
            name,
            rng.integers(0, 256, (9, 11, 3), np.uint8),
            index % 3 - 1,
            evidence,
            clusters=(index // 2, -1),
        )


def read(source, index):
    """An example, or the name and reason of an unreadable image."""
    try:
        return source[index]
    except UnreadableImageError as error:
        return error.name, error.reason


def assert_same(found, expected):
    assert type(found) is type(expected)
    if not isinstance(expected, Example):
        assert found == expected
        return
    assert (found.image_id, found.name, found.label) == (expected.image_id, expected.name, expected.label)
    assert found.clusters == expected.clusters
    assert found.image.dtype == np.uint8
    np.testing.assert_array_equal(found.image, expected.image)
    assert (found.evidence is None) == (expected.evidence is None)
    if expected.evidence is not None:
        for ours, theirs in zip(found.evidence, expected.evidence, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("regions", [None, 1, 3])
def test_it_gives_what_the_source_gives_and_asks_once(tmp_path, regions):
    source = Pictures(regions=regions)
    cached = CachedCrops(source, tmp_path)
    assert (cached.name, cached.class_names, cached.fingerprint) == ("pictures", ("cat", "dog"), "a")
    assert len(cached) == 12
    expected = [read(Pictures(regions=regions), i) for i in range(12)]
    for i in range(12):
        assert_same(read(cached, i), expected[i])
    again = Pictures(regions=regions)
    reopened = CachedCrops(again, tmp_path)
    for i in range(12):
        assert_same(read(cached, i), expected[i])
        assert_same(read(reopened, i), expected[i])
    assert sorted(source.asked) == [0, *range(12)]  # image 0 for its shape, before
    assert again.asked == []


def test_what_it_gives_may_be_written_into(tmp_path):
    cached = CachedCrops(Pictures(), tmp_path)
    cached[0].image[:] = 0
    cached[0].image[:] = 0
    assert_same(cached[0], Pictures()[0])


def test_only_what_is_read_takes_space(tmp_path):
    cached = CachedCrops(Pictures(size=10**6), tmp_path)
    cached[999_999]
    pixels = cached.folder / "pixels.u8"
    assert pixels.stat().st_size == 10**6 * 9 * 11 * 3
    assert pixels.stat().st_blocks * 512 < 10**5


@pytest.mark.parametrize("file", ["pixels.u8", "records.bin"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_damaged_row_is_read_from_the_source_again(tmp_path, file, place):
    source = Pictures(regions=1)
    cached = CachedCrops(source, tmp_path)
    for i in range(12):
        read(cached, i)
    path = cached.folder / file
    row = path.stat().st_size // 12
    with path.open("r+b") as opened:
        opened.seek(5 * row + int(place * row))
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))
    source.asked.clear()
    for _ in range(2):
        for i in range(12):
            assert_same(read(cached, i), read(Pictures(regions=1), i))
    assert source.asked == [5]


def test_a_row_that_is_torn_anywhere_counts_as_absent():
    """Of a kill or a crash: any beginning of the record and of the pixels, over zeros or over another row's bytes."""
    source, shape = Pictures(regions=1), RowShape(9, 11, 1)
    record, pixels = pack(source[4], shape)
    other, others_pixels = pack(source[5], shape)
    for cut in range(len(record)):
        for before in (bytes(len(record)), other):
            torn = record[:cut] + before[cut:]
            if torn not in (record, before):
                assert unpack(torn, np.frombuffer(pixels, np.uint8).reshape(9, 11, 3), shape) is None
    for cut in range(len(pixels)):
        torn = pixels[:cut] + others_pixels[cut:]
        if torn != pixels:
            assert unpack(record, np.frombuffer(torn, np.uint8).reshape(9, 11, 3), shape) is None
    assert_same(unpack(record, np.frombuffer(pixels, np.uint8).reshape(9, 11, 3), shape), source[4])


def test_threads_and_two_openers_fill_one_file(tmp_path):
    sources = [Pictures(size=40, regions=1) for _ in range(2)]
    caches = [CachedCrops(source, tmp_path) for source in sources]
    expected = [read(Pictures(size=40, regions=1), i) for i in range(40)]
    order = np.random.default_rng(0).integers(0, 40, 800).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: read(caches[job[0] % 2], job[1]), enumerate(order)))
    for example, index in zip(found, order, strict=True):
        assert_same(example, expected[index])
    for source in sources:
        source.asked.clear()
    for i in range(40):
        assert_same(read(caches[0], i), expected[i])
    assert sources[0].asked == []


FILL = """
import sys
from case_jax.data import CachedCrops, DigitScenes
cached = CachedCrops(DigitScenes("test", 300), sys.argv[1])
for i in range(300):
    cached[i]
"""


@pytest.mark.slow
def test_two_processes_fill_the_same_rows_and_one_is_killed(tmp_path):
    workers = [subprocess.Popen([sys.executable, "-c", FILL, tmp_path]) for _ in range(2)]
    while not list(tmp_path.glob("*/header.json")):
        assert workers[0].poll() is None or workers[1].poll() is None
    workers[0].kill()
    assert workers[1].wait(120) == 0
    workers[0].wait(120)

    class Silent(DigitScenes):
        def __getitem__(self, index):
            raise AssertionError("everything is in the file")

    cached, scenes = CachedCrops(Silent("test", 300), tmp_path), DigitScenes("test", 300)
    for i in range(0, 300, 7):
        assert_same(cached[i], scenes[i])


def test_another_fingerprint_or_number_of_images_is_another_cache(tmp_path):
    folders = {CachedCrops(source, tmp_path).folder for source in (Pictures(), Pictures(fingerprint="b"), Pictures(11))}
    assert len(folders) == 3


def test_a_full_disk_is_an_error_that_says_so(tmp_path, monkeypatch):
    cached = CachedCrops(Pictures(), tmp_path)
    write = os.pwrite

    def full(file, data, position):
        if position > 3000:  # rows 0 and 1 fit
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2 + 1], position)  # a nearly full one writes less than it was given

    monkeypatch.setattr(os, "pwrite", full)
    for i in (0, 1):
        assert_same(cached[i], Pictures()[i])
    with pytest.raises(CaseJaxError, match=r"crops: .*: the disk is full\. All 12 images need .*--crops"):
        cached[5]
    monkeypatch.undo()
    for i in (0, 1, 5):
        assert_same(CachedCrops(Pictures(), tmp_path)[i], Pictures()[i])


def test_what_has_no_place_in_a_row_is_given_all_the_same(tmp_path):
    source = Pictures(prefix="long" * 300)
    cached = CachedCrops(source, tmp_path)
    for i in (4, 4, 3):
        assert_same(read(cached, i), read(Pictures(prefix="long" * 300), i))
    assert source.asked == [0, 4, 4, 3]


@pytest.mark.parametrize("index", [-1, 12])
def test_there_are_no_other_rows(tmp_path, index):
    with pytest.raises(IndexError):
        CachedCrops(Pictures(), tmp_path)[index]


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(
        CaseJaxError, match=r"none of the 2 images of pictures could be read; the first: .*truncated at 0"
    ):
        CachedCrops(Pictures(2, unreadable=(0, 1)), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CaseJaxError, match="crops: cannot write to"):
        CachedCrops(Pictures(), tmp_path / "file")
    cached = CachedCrops(Pictures(), tmp_path)
    (cached.folder / "header.json").write_text("{")
    with pytest.raises(CaseJaxError, match=r"crops: .*header\.json is damaged .*delete its folder"):
        CachedCrops(Pictures(), tmp_path)

    class Floats(Pictures):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(image=np.zeros((9, 11, 3)))

    with pytest.raises(CaseJaxError, match=r"source 'pictures'.*float64; accepted: uint8"):
        CachedCrops(Floats(fingerprint="floats"), tmp_path)


def test_a_run_may_be_resumed_with_a_cache_or_without(classifier, tapped, tmp_path):
    facts = classifier.preprocessing

    def planned(source):
        contrast = choose_contrast("topk_logits:3", tapped.num_classes)
        pixels = Pixels(facts.mean, facts.std)
        return evaluation(source, tapped, contrast, pixels=pixels, methods=("grad_cam",), metrics=("sensitivity", "evidence"), tile=4, part=4)  # fmt: skip

    unbroken = run(planned(DigitScenes("test", 8)), RunFolder(tmp_path / "run"))
    rows = unbroken.rows()
    cached = planned(CachedCrops(DigitScenes("test", 8), tmp_path / "crops"))
    unbroken.part(1).unlink()  # as if the run had been killed before its second half
    pd.testing.assert_frame_equal(run(cached, unbroken).rows(), rows, check_exact=True)
    for name in ("filled", "from the file alone"):
        folder = RunFolder(tmp_path / name)
        pd.testing.assert_frame_equal(run(cached, folder).rows(), rows, check_exact=True)

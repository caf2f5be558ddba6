"""What `explain` makes of the images that it is given, before a classifier is loaded and behind that."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from case_jax import CaseJaxError
from case_jax.cli.images import opened, seen
from case_jax.data import crop_encoded
from case_jax.data.decoding import LEFT_TURNED, ON_WHITE, ORIENTATION, TURNED
from case_jax.data.photographs import PHOTOGRAPHS, photograph_files
from case_jax.models import Preprocessing

FACTS = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, resize=32, crop=28, interpolation="bicubic")
HOW = {"resize": 32, "crop": 28, "interpolation": "bicubic"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(name, mode="RGB", size=(90, 60), **how):
    shape = (size[1], size[0], len(mode))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(name, **how)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_an_image_is_cut_as_a_data_set_cuts_it(folder, exif):
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    save("lying.png", exif=turned)
    save("drawing.png", "RGBA")
    for name, change in (("lying.png", TURNED if exif == "apply" else LEFT_TURNED), ("drawing.png", ON_WHITE)):
        (found,) = seen(opened([name], exif), FACTS)
        wanted = crop_encoded((folder / name).read_bytes(), name, exif=exif, **HOW)
        np.testing.assert_array_equal(found.example.image, wanted.pixels)
        assert (found.example.changes, found.box) == ((change,), wanted.box)
        assert found.whole.size == ((60, 90) if change == TURNED else (90, 60))


def test_photographs_of_packages_are_called_by_name():
    whole = dict(zip((photo.name for photo in PHOTOGRAPHS), photograph_files(), strict=True))["coffee"]
    (found,) = seen(opened(["photos:coffee"], "apply"), FACTS)
    np.testing.assert_array_equal(found.example.image, crop_encoded(whole.read_bytes(), "coffee", **HOW).pixels)
    assert found.example.name == "coffee"


def test_one_pixel_is_an_image(folder):
    Image.new("RGB", (1, 1), (10, 20, 30)).save("dot.png")
    (found,) = seen(opened(["dot.png"], "apply"), FACTS)
    assert found.example.image.shape == (28, 28, 3)
    assert (found.example.image == [10, 20, 30]).all()


@pytest.mark.filterwarnings("error")
def test_a_hundred_megapixels_are_an_image(folder):
    Image.new("1", (10_000, 10_000), 1).save("large.png")
    (found,) = seen(opened(["large.png"], "apply"), FACTS)
    assert (found.example.image == 255).all()
    assert found.box == pytest.approx((625, 9375, 625, 9375))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, r"images: bad\.png cannot be read \(FileNotFoundError: No such file"),
        (lambda: Path("bad.png").write_text("words"), r"bad\.png cannot be read \(not an image that PIL can read\)"),
        (lambda: Image.new("1", (20_000, 20_000)).save("bad.png"), r"bad\.png cannot be read \(DecompressionBombError"),
    ],
    ids=["missing", "of another kind", "of 400 megapixels"],
)
def test_what_cannot_be_read_is_refused_before_a_classifier_is_loaded(folder, make, words):
    make()
    with pytest.raises(CaseJaxError, match=words):
        opened(["bad.png"], "apply")


def test_an_image_too_long_to_resize_is_refused(folder):
    Image.new("1", (100_000, 1)).save("line.png")
    with pytest.raises(CaseJaxError, match=r"line\.png cannot be read \(100000×1 pixels would be resized"):
        seen(opened(["line.png"], "apply"), FACTS)

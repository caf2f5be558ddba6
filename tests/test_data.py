import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile

from case_jax._checks import CaseJaxError
from case_jax.data import ImageFolder, TfdsImages, open_source, preprocess
from case_jax.data.preprocess import random_view
from case_jax.source import UnreadableImageError

NAMES = ("cat", "dog")


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def gradient(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8))


def test_preprocessing_is_resize_and_central_crop():
    image = gradient(60, 90)
    pixels = preprocess(encoded(image), "x", resize=30, crop=24)
    expected = np.asarray(image.resize((45, 30), Image.Resampling.BILINEAR))
    # offsets as torchvision's: int(round((45 − 24) / 2)) = 10, int(round((30 − 24) / 2)) = 3
    np.testing.assert_array_equal(pixels, expected[3:27, 10:34])


def test_the_longer_side_is_rounded_down_as_torchvision_does():
    # 256 · 500 / 375 = 341.33
    pixels = preprocess(encoded(gradient(375, 500)), "x", resize=256, crop=256)
    expected = np.asarray(gradient(375, 500).resize((341, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, expected[:, 42:298])


def formula(height, width, mode):
    """The images whose crops are stored; without decoders that lose anything."""
    r, c = np.mgrid[0:height, 0:width]
    channels = [r * r * 7 + c * 13, r * c * 3 + c, r * 29 + c * c * 5, r * 2 + c * 3]
    pixels = (np.stack(channels, -1) % 256).astype(np.uint8)
    if mode in ("L", "P"):
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
        if mode == "P":
            image.putpalette([(i * k) % 256 for i in range(256) for k in (3, 5, 7)])
        return image
    kept = pixels[..., : len(mode)]
    return Image.frombytes(mode, (width, height), kept.tobytes())


def test_crops_are_torchvisions_bit_for_bit(golden):
    stored = golden("preprocessing")
    assert len(stored) == 32
    for case, expected in stored.items():
        shape, resize, crop, mode, interpolation = case.split("/")
        image = encoded(formula(*map(int, shape.split("x")), mode), "TIFF" if mode == "CMYK" else "PNG")
        pixels = preprocess(image, case, resize=int(resize), crop=int(crop), interpolation=interpolation)
        np.testing.assert_array_equal(pixels[::2, ::2] if crop == "224" else pixels, expected, case)


@pytest.mark.parametrize(("height", "width"), [(20_000, 1), (1, 20_000)])
def test_an_image_that_would_be_resized_to_gigabytes_is_unreadable(height, width):
    image = encoded(Image.new("RGB", (width, height)))
    with pytest.raises(UnreadableImageError, match=rf"strip: {width}×{height} pixels would be resized to .* too much"):
        preprocess(image, "strip", resize=256, crop=224)
    assert preprocess(image, "strip", resize=32, crop=28).shape == (28, 28, 3)


def noise(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_bicubic_resizing_is_pils():
    image = noise(60, 90)
    pixels = preprocess(encoded(image), "x", resize=30, crop=24, interpolation="bicubic")
    expected = np.asarray(image.resize((45, 30), Image.Resampling.BICUBIC))[3:27, 10:34]
    np.testing.assert_array_equal(pixels, expected)
    assert (pixels != preprocess(encoded(image), "x", resize=30, crop=24)).any()


def test_random_views_are_rectangles_of_the_image():
    """Of an image whose red is the column and whose green the row: 8% to 100% of it, half of them mirrored, the ratio of sides within 3:4 and 4:3."""
    rows, columns = np.mgrid[0:200, 0:250].astype(np.uint8)
    image = encoded(Image.fromarray(np.stack([columns, rows, rows], -1)))
    views = np.stack([random_view(image, "x", crop=32, rng=np.random.default_rng(i)) for i in range(200)]).astype(float)
    assert views.shape == (200, 32, 32, 3)
    width, height = np.abs(views[:, 16, -1, 0] - views[:, 16, 0, 0]), views[:, -1, 16, 1] - views[:, 0, 16, 1]
    assert (height > 0).all()
    assert 70 < (views[:, 16, -1, 0] > views[:, 16, 0, 0]).sum() < 130
    shares = width * height / (200 * 250) * (32 / 31) ** 2
    assert 0.06 < shares.min() < 0.2
    assert 0.8 < shares.max() <= 1.02
    ratios = width / height
    assert ratios.min() > 0.7
    assert ratios.max() < 1.4
    again = random_view(image, "x", crop=32, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(again, views[7])


def test_where_no_rectangle_fits_the_largest_central_one_is_taken():
    strip = np.zeros((10, 400, 3), np.uint8)
    strip[:, 193:206] = 200  # 13 × 10 pixels, the widest of 4:3
    for seed in range(30):
        view = random_view(encoded(Image.fromarray(strip)), "x", crop=12, rng=np.random.default_rng(seed))
        if (view == 200).all():
            return
    raise AssertionError("never the central one")


def test_a_folder_shows_random_views_and_names_its_own_classes(folder):
    source = ImageFolder(folder, None, resize=12, crop=12)
    assert source.class_names == ("cat", "dog")
    example = source.random_view(1, np.random.default_rng(0))
    assert (example.name, example.label, example.image.shape) == ("dog/a.JPG", 1, (12, 12, 3))
    raw = (folder / "dog" / "a.JPG").read_bytes()
    np.testing.assert_array_equal(example.image, random_view(raw, "x", crop=12, rng=np.random.default_rng(0)))
    (folder / "dog" / "a.JPG").write_bytes(raw[:50])
    with pytest.raises(UnreadableImageError, match=r"dog/a\.JPG"):
        source.random_view(1, np.random.default_rng(0))


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(CaseJaxError, match=r"interpolation: 'cubic' is unknown\. Did you mean 'bicubic'\?"):
        preprocess(encoded(gradient(8, 8)), "x", resize=8, crop=8, interpolation="cubic")


def test_a_folder_hands_the_interpolation_on_and_its_fingerprint_knows_it(folder):
    noise(20, 20).save(folder / "cat" / "a.png")
    bilinear, bicubic = (
        open_source(f"folder:{folder}", NAMES, resize=12, crop=12, interpolation=i) for i in ("bilinear", "bicubic")
    )
    raw = (folder / "cat" / "a.png").read_bytes()
    expected = preprocess(raw, "x", resize=12, crop=12, interpolation="bicubic")
    np.testing.assert_array_equal(bicubic[0].image, expected)
    assert (bilinear[0].image != expected).any()
    assert bilinear.fingerprint != bicubic.fingerprint


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG")]
)
def test_every_kind_of_image_becomes_rgb(mode, kind):
    pixels = preprocess(encoded(gradient(40, 50).convert(mode), kind), "x", resize=32, crop=32)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "data", [b"", b"no image", encoded(gradient(80, 80), "JPEG")[:900], encoded(gradient(80, 80))[:100]]
)
def test_broken_bytes_name_the_image(data):
    with pytest.raises(UnreadableImageError, match="picture 7"):
        preprocess(data, "picture 7", resize=32, crop=32)


def test_padding_truncated_images_in_silence_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(CaseJaxError, match="LOAD_TRUNCATED_IMAGES"):
        preprocess(encoded(gradient(8, 8)), "x", resize=8, crop=8)


@pytest.fixture
def folder(tmp_path):
    for name in ("dog/b.png", "cat/a.png", "dog/a.JPG", "cat/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gradient(20, 20).save(tmp_path / name, "PNG")
    return tmp_path


def test_folder_ids_follow_the_sorted_paths_and_labels_the_class_names(folder):
    source = ImageFolder(folder, NAMES, resize=16, crop=16)
    assert [(e.image_id, e.name, e.label) for e in map(source.__getitem__, range(3))] == [
        (0, "cat/a.png", 0),
        (1, "dog/a.JPG", 1),
        (2, "dog/b.png", 1),
    ]
    assert len(source) == 3


def test_folders_that_are_no_class_names_are_numbered_when_there_are_as_many(folder):
    source = ImageFolder(folder, ("n02", "n01"), resize=16, crop=16)
    assert [source[i].label for i in range(3)] == [0, 1, 1]


def test_a_flat_folder_has_no_labels(tmp_path):
    gradient(20, 20).save(tmp_path / "a.png")
    source = ImageFolder(tmp_path, NAMES, resize=16, crop=16)
    assert source[0].label == -1
    assert source.class_names is None


def test_the_fingerprint_follows_the_files(folder):
    before = ImageFolder(folder, NAMES, resize=16, crop=16).fingerprint
    shutil.copy(folder / "cat" / "a.png", folder / "cat" / "z.png")
    assert ImageFolder(folder, NAMES, resize=16, crop=16).fingerprint != before


PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"]), "file_name": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"validation": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            buffer = io.BytesIO()
            Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(buffer, "PNG")
            buffer.seek(0)
            yield i, {"image": buffer, "label": i % 2, "file_name": f"{i}.png"}

Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set in the real format; made by another process, so that its builder is not known here."""
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", PREPARE, str(folder)], check=True, capture_output=True)
    return folder


def test_a_prepared_data_set_is_read_without_tensorflow(prepared):
    source = TfdsImages("tiny", "validation", resize=16, crop=16, data_dir=str(prepared))
    assert source.class_names == NAMES
    examples = [source[i] for i in range(len(source))]
    assert sorted(e.name for e in examples) == [f"{i}.png" for i in range(6)]
    for example in examples:
        number = int(example.name[0])
        assert example.label == number % 2
        assert (example.image == 40 * number).all()
    assert "tensorflow" not in sys.modules


def test_the_shell_finds_it_by_its_environment_variable(prepared, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(prepared))
    assert len(open_source("tfds:tiny:1.0.0:validation", NAMES, resize=16, crop=16)) == 6


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("tfds:imagenet2012:validation", ["'imagenet2012' is not prepared: nothing at", "TFDS_DATA_DIR"]),
        ("tfds:imagenet", ["no split", "tfds:NAME:SPLIT"]),
        ("tfds:nothing_such:test", ["knows no 'nothing_such'"]),
        ("tfds:tiny:valid", ["split", "Did you mean 'validation'"]),
    ],
)
def test_what_is_not_there_explains_itself(prepared, monkeypatch, data, words):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(prepared))
    with pytest.raises(CaseJaxError) as caught:
        open_source(data, NAMES, resize=16, crop=16)
    for word in words:
        assert word in str(caught.value)


def test_sixteen_bits_are_scaled_and_numbers_without_a_range_refused():
    grey = np.asarray(gradient(40, 50).convert("L"))
    eight = preprocess(encoded(Image.fromarray(grey)), "x", resize=32, crop=32)
    sixteen = preprocess(encoded(Image.fromarray(grey.astype(np.uint16) * 257)), "x", resize=32, crop=32)
    np.testing.assert_array_equal(sixteen, eight)
    with pytest.raises(UnreadableImageError, match=r"picture: .*no known range"):
        preprocess(encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), "picture", resize=32, crop=32)


def test_a_changed_file_of_the_same_size_changes_the_fingerprint(folder):
    before = ImageFolder(folder, NAMES, resize=16, crop=16).fingerprint
    file = folder / "cat" / "a.png"
    changed = bytearray(file.read_bytes())
    changed[-20] ^= 1
    file.write_bytes(changed)
    assert ImageFolder(folder, NAMES, resize=16, crop=16).fingerprint != before


def test_hidden_files_are_no_images(folder):
    (folder / ".thumbnails").mkdir()
    shutil.copy(folder / "cat" / "a.png", folder / ".thumbnails" / "a.png")
    shutil.copy(folder / "cat" / "a.png", folder / "cat" / "._a.png")
    assert len(ImageFolder(folder, NAMES, resize=16, crop=16)) == 3


def test_names_that_are_no_unicode_are_read(tmp_path):
    import os

    gradient(20, 20).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    source = ImageFolder(tmp_path, NAMES, resize=16, crop=16)
    assert (len(source.fingerprint), source[0].name.encode()) == (16, rb"\udcff.png")

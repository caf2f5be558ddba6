"""Photographs, drawings and scans as a person sees them: what is turned, scaled, laid on white or refused, and that a run counts it."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from studies import count_pairs, evaluation

import case_jax as cj
from case_jax.data import CachedCrops, ImageFolder, crop_encoded, crop_opened, decoding, preprocess
from case_jax.evaluation import Pixels, run
from case_jax.evaluation.kept_gallery import save_gallery
from case_jax.front.evaluating import _opened
from case_jax.imageops import picture
from case_jax.results import RunFolder
from case_jax.source import Example, UnreadableImageError

SIZE = {"resize": 64, "crop": 64}


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photograph():
    """48 × 64 pixels that no turning leaves as they are."""
    rows, columns = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([rows * 5, columns * 4, np.full_like(rows, 30)], -1).astype(np.uint8))


def turned(image, orientation, kind="PNG"):
    """The photograph as a camera stores it with this EXIF orientation, without losing a bit."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    return encoded(image.transpose(back[orientation]), kind, exif=exif)


# --- orientation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photograph_is_seen_upright_or_as_torchvision_sees_it(photograph, orientation):
    upright = preprocess(encoded(photograph), "x", **SIZE)
    raw = turned(photograph, orientation)
    seen = crop_encoded(raw, "x", **SIZE, exif="apply")
    np.testing.assert_array_equal(seen.pixels, upright)
    assert (seen.changes, seen.photograph.size) == ((decoding.TURNED,), (64, 48))
    ignored = crop_encoded(raw, "x", **SIZE)
    assert ignored.changes == (decoding.LEFT_TURNED,)
    np.testing.assert_array_equal(ignored.pixels, preprocess(raw, "x", **SIZE))
    assert (ignored.pixels != upright).any()


def test_a_damaged_or_meaningless_orientation_is_none(photograph):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 77
    assert crop_encoded(encoded(photograph, exif=exif), "x", **SIZE, exif="apply").changes == ()
    broken = encoded(photograph, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert crop_encoded(broken, "x", **SIZE, exif="apply").changes == ()


def test_read_sees_what_a_viewer_shows_and_folders_what_torchvision_does(photograph, tmp_path):
    model = cj.load("digit_resnet")
    raw = turned(photograph, 6, "PNG")
    (tmp_path / "a.png").write_bytes(raw)
    upright = model.read(photograph)
    np.testing.assert_array_equal(model.read(tmp_path / "a.png"), upright)  # and without a warning
    np.testing.assert_array_equal(model.read(Image.open(io.BytesIO(raw))), upright)
    assert (model.read(tmp_path / "a.png", exif="ignore") != upright).any()
    plain, seen = (ImageFolder(tmp_path, None, **SIZE, exif=exif) for exif in ("ignore", "apply"))
    assert plain.fingerprint != seen.fingerprint
    assert (plain[0].image != seen[0].image).any()
    np.testing.assert_array_equal(plain[0].image, preprocess(raw, "a", **SIZE))
    with pytest.raises(cj.CaseJaxError, match=r"exif: 'aply' is unknown. Did you mean 'apply'"):
        ImageFolder(tmp_path, None, **SIZE, exif="aply")
    with pytest.raises(cj.CaseJaxError, match="exif: 'turn' is unknown"):
        model.read(tmp_path / "a.png", exif="turn")


# --- depth ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (np.arange(4096), 12),
        (np.arange(4096) // 4, 10),
        (np.arange(4096) * 4, 14),
        (np.arange(4096) % 256, 8),
        (np.arange(4096) * 16, None),
        (np.arange(4096) % 60 * 257, None),  # a dark image of 8 bits that was widened
    ],
)
def test_sixteen_bits_are_scaled_by_those_in_use(values, bits):
    values = values.reshape(64, 64).astype(np.uint16)
    found = crop_encoded(encoded(Image.fromarray(values)), "x", **SIZE)
    np.testing.assert_array_equal(found.pixels[..., 1], values >> ((bits or 16) - 8))
    said = () if bits is None else (f"16-bit values of which {bits} bits are in use, scaled by these",)
    assert found.changes == said


def png_of_sixteen_bit_colours(values):
    """PIL writes none."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_sixteen_bit_colours_are_read_where_they_use_the_range_and_refused_where_bits_are_lost():
    values = np.random.default_rng(0).integers(0, 1 << 16, (64, 64, 3))
    np.testing.assert_array_equal(crop_encoded(png_of_sixteen_bit_colours(values), "x", **SIZE).pixels, values >> 8)
    with pytest.raises(UnreadableImageError, match=r"scan: .*16-bit colours of which at most 12 bits are in use"):
        crop_encoded(png_of_sixteen_bit_colours(values >> 4), "scan", **SIZE)


@pytest.mark.parametrize("values", [np.ones((64, 64), np.float32), np.ones((64, 64), np.int32)])
def test_numbers_without_a_range_are_refused(values):
    with pytest.raises(UnreadableImageError, match=r"scan: .*no known range; save the image with 8 or 16 bits"):
        crop_encoded(encoded(Image.fromarray(values), "TIFF"), "scan", **SIZE)


# --- transparency, frames, inks -------------------------------------------------------------------------------------------


def drawing(mode):
    """A black stroke on ground that is transparent, and black where the colour is looked at."""
    alpha = np.zeros((64, 64), np.uint8)
    alpha[20:30], alpha[40:50] = 255, 128
    image = Image.fromarray(np.dstack([np.zeros((64, 64, 3), np.uint8), alpha]))
    if mode == "P":
        image = Image.fromarray(np.where(alpha == 255, 1, 0).astype(np.uint8))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.info["transparency"] = 0
        return image, np.where(alpha == 255, 0, 255)
    return image.convert(mode), np.where(alpha == 255, 0, np.where(alpha == 128, 127, 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    image, expected = drawing(mode)
    options = {"transparency": 0} if mode == "P" else {}
    found = crop_encoded(encoded(image, **options), "x", **SIZE)
    np.testing.assert_array_equal(found.pixels, np.repeat(expected[..., None], 3, -1))
    assert found.changes == (decoding.ON_WHITE,)
    assert not preprocess(encoded(image, **options), "x", **SIZE).any()  # torchvision: a black picture
    opaque = Image.fromarray(np.full((64, 64, 4), 255, np.uint8))
    assert crop_opened(opaque, "x", **SIZE).changes == ()


def test_of_sixteen_bit_grey_the_transparent_value_is_white():
    values = (np.arange(4096) * 16).reshape(64, 64).astype(np.uint16)
    found = crop_encoded(encoded(Image.fromarray(values), transparency=0), "x", **SIZE)
    assert found.pixels[0, 0].tolist() == [255] * 3
    np.testing.assert_array_equal(found.pixels[1:, :, 0], values[1:] >> 8)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_frames_the_first_is_taken(kind):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    found = crop_encoded(raw, "x", **SIZE)
    assert found.changes == (decoding.FIRST,)
    assert found.pixels[0, 0].tolist() == [255, 0, 0]


def test_inks_are_converted_and_counted(photograph):
    image = photograph.convert("CMYK")
    found = crop_encoded(encoded(image, "TIFF"), "x", **SIZE)
    assert found.changes == (decoding.INKS,)
    np.testing.assert_array_equal(found.pixels, preprocess(encoded(image, "TIFF"), "x", **SIZE))


def test_read_warns_of_what_it_decided():
    model = cj.load("digit_resnet")
    with pytest.warns(UserWarning, match="image: the image has transparent pixels, shown over white"):
        white = model.read(drawing("RGBA")[0])
    with pytest.warns(UserWarning, match="12 bits are in use"):
        scan = model.read(Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint16)))
    assert white.max() > 0
    assert scan.max() > 0


# --- counted in a run, with any number of channels ------------------------------------------------------------------------


def tap(channels, classes=4):
    """A small classifier of 16 × 16 images with that many channels."""
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(3, 3, channels, 6)), jnp.float32),
        "head": jnp.asarray(rng.normal(size=(6, classes)), jnp.float32),
    }

    def function(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        a = jax.lax.conv_general_dilated(x[None], params["kernel"], (4, 4), "SAME", dimension_numbers=numbers)
        return cj.tag(jax.nn.relu(a[0]), "features").mean((0, 1)) @ params["head"]

    return cj.tap_function(function, params, "features", jnp.zeros((16, 16, channels)))


class Cubes:
    """Images of many channels."""

    class_names, name = None, "cubes"

    def __init__(self, channels):
        self.channels, self.fingerprint = channels, f"cubes {channels}"

    def __len__(self):
        return 4

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, self.channels), np.uint8)
        return Example(index, f"cube {index}", pixels, -1)


@pytest.mark.parametrize(("channels", "shown"), [(1, None), (11, None), (11, (9, 3, 0)), (11, (5,))])
def test_pictures_show_chosen_channels(channels, shown):
    image = Cubes(channels)[0].image
    found = picture(image, shown)
    assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
    if shown is None:
        expected = np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    else:
        expected = image[..., list(shown) * (3 // len(shown))]
    np.testing.assert_array_equal(found, expected)


def test_channels_that_do_not_exist_are_refused():
    for shown in ((0, 1), (0, 1, 11), (-1,)):
        with pytest.raises(cj.CaseJaxError, match=r"shown: got .* each from 0 to 10"):
            picture(np.zeros((4, 4, 11)), shown)
    with pytest.raises(cj.CaseJaxError, match=r"shown: got \(0, 1, 11\)"):
        cj.evaluate(Cubes(11), tap(11), pixels=([0.5] * 11, [0.2] * 11), shown=(0, 1, 11))


@pytest.mark.parametrize("channels", [1, 11])
def test_images_of_any_number_of_channels_are_evaluated(channels, tmp_path):
    model, source, pixels = tap(channels), Cubes(channels), Pixels((0.5,) * channels, (0.25,) * channels)
    methods = ("grad_cam", "sobel")
    found = {}
    for name, given in (("plain", source), ("cached", CachedCrops(source, tmp_path / "crops"))):
        few = {"methods": methods, "metrics": ("sensitivity", "fidelity"), "fill": "zero-pixel"}
        job = evaluation(given, model, "topk_logits:2", pixels=pixels, tile=4, part=4, **few)
        found[name] = run(job, RunFolder(tmp_path / name), progress=False)
        if name == "plain":
            save_gallery(job, found[name], count=2, shown=(0,))
    rows = found["plain"].rows()
    assert len(rows) == 4 * len(methods)
    logits = model.apply(model.params, (source[2].image / np.float32(255) - 0.5) / 0.25)
    assert set(rows.loc[rows["image_id"] == 2, "top1"]) == {int(logits.argmax())}
    assert rows.equals(found["cached"].rows())
    with np.load(tmp_path / "plain" / "gallery.npz") as gallery:
        assert gallery["images"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    ("channels", "pixels", "words"),
    [
        (11, Pixels((0.5,) * 3, (0.2,) * 3), r"pixels: got .* for each of the classifier's channels, 11"),
        (3, Pixels((0.5,), (0.2,)), r"for each of the classifier's channels, 3"),  # was broadcast in silence
        (3, Pixels((0.5,) * 3, (0.2,)), r"for each of the classifier's channels, 3"),
    ],
)
def test_pixels_say_how_many_channels(channels, pixels, words):
    with pytest.raises(cj.CaseJaxError, match=words):
        evaluation(Cubes(channels), tap(channels), "topk_logits:2", pixels=pixels, methods=("sobel",))


def test_images_of_another_number_of_channels_than_the_classifier_are_refused():
    with pytest.raises(cj.CaseJaxError, match="pixels: got 3 means and 3 deviations for images of 11 channels"):
        evaluation(Cubes(11), tap(3), "topk_logits:2", pixels=Pixels((0.5,) * 3, (0.2,) * 3), methods=("sobel",))
    with pytest.raises(cj.CaseJaxError, match=r"data: got folder:x for a classifier of 11 channels"):
        cj.evaluate("folder:x", tap(11), pixels=([0.5] * 11, [0.2] * 11))


def test_a_run_counts_what_was_decided_and_what_was_refused(photograph, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        (data / f"{number}.png").write_bytes(turned(photograph, 6))
    drawing("LA")[0].save(data / "drawing.png")
    Image.fromarray(np.ones((64, 64), np.float32)).save(data / "float.tif")
    photograph.save(data / "plain.png")
    folder = cj.evaluate(
        f"folder:{data}", tap(1), methods=["sobel"], metrics=["sensitivity"], pixels=((0.5,), (0.2,)),
        contrast="topk_logits:2", out=tmp_path / "run", tile=2, part=4, progress=False,
    )  # fmt: skip
    assert folder.changed() == {decoding.LEFT_TURNED: 2, decoding.ON_WHITE: 1}
    assert [entry["name"] for entry in folder.excluded()] == ["float.tif"]
    assert "no known range" in folder.excluded()[0]["reason"]
    said = (folder.path / "summary.md").read_text()
    assert "- images with an EXIF orientation, ignored as torchvision does: 2" in said
    assert "- images with transparent pixels, shown over white: 1" in said
    assert "- images that could not be read: 1" in said
    assert "transparent pixels, shown over white" in (folder.path / "report.html").read_text()
    seen = _opened(f"folder:{data}", tap(1), limit=None, seed=0, exif="apply")
    assert seen[0].changes == (decoding.TURNED,)
    assert seen[0].image.shape == (16, 16, 1)
    pairs = count_pairs(seen, tap(1), "topk_logits:2", ("sobel",), pixels=Pixels((0.5,), (0.2,)), tile=4)
    assert pairs.changed == {decoding.TURNED: 2, decoding.ON_WHITE: 1}
    assert len(pairs.excluded) == 1
    cached = CachedCrops(ImageFolder(data, None, **SIZE), tmp_path / "crops")
    for _ in range(2):  # decoded, then read back
        assert [cached[i].changes for i in (0, 2, 4)] == [(decoding.LEFT_TURNED,), (decoding.ON_WHITE,), ()]

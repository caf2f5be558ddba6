"""Sound scenes: deterministic, disjoint, and true about where each part sounds; the classifier that comes with them; folders of WAV files."""

import struct
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, explain, load
from case_jax.audio import log_magnitude, magnitude, stft
from case_jax.audio.wav import Wav, fitted, read_wav, write_wav
from case_jax.data import SHARED, SoundFolder, SoundScenes, UnreadableImageError, open_sounds, open_source
from case_jax.data.sound_scenes import CLASS_NAMES, HEARD, SAMPLES, SOUND, class_of
from case_jax.imageops import normalise_image
from case_jax.models import load_classifier, with_new_head
from case_jax.models.sound_cnn import bands_and_layout

SCENES = SoundScenes("test", 40)


@pytest.fixture(scope="module")
def scenes():
    return [SCENES.scene(i) for i in range(40)]


def test_a_scene_is_its_split_its_seed_and_its_number(scenes):
    again, longer = SoundScenes("test", 40)[7], SoundScenes("test", 400)[7]
    for other in (again, longer):
        np.testing.assert_array_equal(other.image, scenes[7].image)
    for source in (SoundScenes("train", 40), SoundScenes("test", 40, seed=1)):
        assert source.fingerprint != SCENES.fingerprint
        assert np.abs(source[7].image - scenes[7].image).max() > 1
    np.testing.assert_array_equal(SCENES.labels_of(np.arange(40)), [s.label for s in scenes])
    assert {len(s.masks) for s in scenes} == {len(SCENES.regions)}


def test_the_image_is_the_spectrogram_of_the_sound(scenes):
    example = SCENES[3]
    assert example.image.shape == (126, 129, 1)
    assert example.image.dtype == np.float32
    np.testing.assert_allclose(example.image[..., 0], log_magnitude(SCENES.sound(3), SOUND), atol=1e-5)
    np.testing.assert_array_equal(example.image, SCENES.image(3))


def test_parts_do_not_overlap_and_their_boxes_are_tight(scenes):
    for i, scene in enumerate(scenes):
        regions = SCENES[i].evidence.regions if i < 10 else None
        assert not (scene.masks.sum(0) > 1).any()
        if regions is not None:
            assert not (regions.sum(0) > 1).any()
            assert (regions | ~scene.masks).all()
        for mask, (first, last, low, high) in zip(scene.masks, scene.boxes, strict=True):
            assert mask[first:last, low:high].sum() == mask.sum()
            assert mask[[first, last - 1]].any(1).all()
            assert mask[:, [low, high - 1]].any(0).all()


def test_a_mask_is_where_the_parts_own_energy_is(scenes):
    """Without noise and without the others, what is left of a scene is the part."""
    scene = scenes[5]
    others = [
        np.asarray(stft(scene.clean, SOUND)) - np.asarray(stft(_without(5, region), SOUND)) for region in range(3)
    ]
    for own, mask in zip(others, scene.masks, strict=True):
        strength = magnitude(own)
        sure = np.abs(strength / strength.max() - HEARD) > 1e-3
        np.testing.assert_array_equal((strength > HEARD * strength.max())[sure], mask[sure])


def _without(index, region):
    drawn = SCENES._drawn(index)
    return np.sum([part for r, part in enumerate(drawn.parts) if r != region], axis=0)


def test_classes_share_the_body_and_the_loud_marker_is_louder(scenes):
    for scene in scenes:
        body, loud, soft = scene.classes
        assert body == SHARED
        assert loud == scene.label != soft
        assert CLASS_NAMES[loud].split("·")[0] == CLASS_NAMES[soft].split("·")[0]
        assert dict(zip(np.flatnonzero(scene.target), scene.target[scene.target > 0], strict=True)) == pytest.approx(
            {loud: 0.7, soft: 0.3}
        )
        energy = [(np.expm1(scene.image[..., 0][mask]) ** 2).sum() for mask in scene.masks]
        assert energy[1] > 2 * energy[2]
    assert class_of(4, 4) == len(CLASS_NAMES) - 1


def test_without_a_part_all_else_is_as_it_was(scenes):
    changed = np.abs(SCENES.without(5, 1) - scenes[5].image)[..., 0]
    assert changed[scenes[5].masks[1]].mean() > 1
    assert changed[scenes[5].masks[0] | scenes[5].masks[2]].mean() < 0.02
    truth = SCENES.truth(5, "union")
    np.testing.assert_array_equal(truth.pixels, scenes[5].masks[0] | scenes[5].masks[1])
    with pytest.raises(CaseJaxError, match="body, loud marker"):
        SCENES.without(5, 3)
    with pytest.raises(CaseJaxError, match="marker"):
        SCENES.truth(5, "pitch")


def test_floats_are_taken_as_they_are_and_integers_as_pixels():
    image = np.array([[[0.0], [255.0]]])
    np.testing.assert_allclose(normalise_image(image.astype(np.uint8), (0.0,), (1.0,)), image / 255)
    np.testing.assert_allclose(normalise_image(image.astype(np.float32), (0.0,), (1.0,)), image)


def test_mel_bands_are_laid_out_in_line_with_the_spectrogram():
    """A single tone is heard in the column that the enlarged map of that column lies over."""
    bank, layout = bands_and_layout(SOUND, 40, 64)
    np.testing.assert_allclose(layout.sum(0), 1, atol=1e-6)
    columns = (bank @ layout).argmax(1)
    bins = np.arange(8, SOUND.bins - 4)
    width = 2.5 + bins / 30  # bands widen with frequency
    assert (np.abs((columns[bins] + 0.5) * SOUND.bins / 64 - 0.5 - bins) < width).all()


@pytest.fixture(scope="module")
def model():
    return load("sound_cnn")


def test_the_shipped_classifier_hears_scenes(model):
    images = jnp.asarray(np.stack([s.image for s in [SCENES.scene(i) for i in range(40)]]))
    logits = jax.jit(jax.vmap(lambda x: model.apply(model.params, x)))(images)
    order = np.argsort(-np.asarray(logits), axis=1)
    classes = np.array([SCENES.scene(i).classes for i in range(40)])
    assert (order[:, 0] == classes[:, 1]).mean() > 0.85
    assert (order[:, 1] == classes[:, 2]).mean() > 0.8
    maps = explain(model, images[0], "finer_cam", targets=order[0, :2].tolist(), contrast="topk_logits:1")
    assert maps.shape == (2, 126, 129)
    assert all(maps[c][SCENES[0].evidence.regions[1 + c]].mean() > 4 * maps[c].mean() for c in range(2))


def test_confusions_are_counted_on_the_data_of_a_network_only_for_their_classes():
    shipped = load_classifier("sound_cnn")
    assert shipped.contrast_data == "sound_scenes:confusion"
    assert with_new_head(shipped, ("bird", "dog"), seed=0).contrast_data is None


def test_sounds_and_images_are_not_mixed_up(model, tmp_path):
    with pytest.raises(CaseJaxError, match=r"model\.hear"):
        model.read("photo.png")
    with pytest.raises(CaseJaxError, match="sound_cnn"):
        load("digit_resnet").hear("x.wav")
    with pytest.raises(CaseJaxError, match="--model sound_cnn"):
        open_source("sound_scenes", None, resize=48, crop=48)
    with pytest.raises(CaseJaxError, match="classifier of sounds"):
        open_sounds("photos", None, stft=SOUND, samples=SAMPLES)
    with pytest.raises(CaseJaxError, match="sound_scenes:test"):
        open_sounds("sound_scenes:tests", None, stft=SOUND, samples=SAMPLES)
    with pytest.raises(CaseJaxError, match="8000 samples"):
        open_sounds("sound_scenes", None, stft=SOUND, samples=4000)
    sound = SCENES.sound(0)
    (tmp_path / "x.wav").write_bytes(write_wav(sound / 2, SOUND.rate))  # it peaks above 1
    np.testing.assert_allclose(model.hear(tmp_path / "x.wav"), model.hear(sound / 2), atol=2e-3)
    np.testing.assert_allclose(model.hear(sound), SCENES.image(0), atol=1e-6)
    with pytest.raises(CaseJaxError, match="8000 floating-point samples"):
        model.hear(sound[1:])
    with pytest.raises(CaseJaxError, match="cannot be read"):
        model.hear(tmp_path / "none.wav")


def write(path, numbers, width, rate=8000, channels=1):
    path.parent.mkdir(exist_ok=True, parents=True)
    with wave.open(str(path), "wb") as wav:
        wav.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        wav.writeframes(numbers)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_files_of_every_width(width, tmp_path):
    values = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])
    whole = np.round(values * 2 ** (8 * width - 1)).astype(np.int64) + (128 if width == 1 else 0)
    write(tmp_path / "x.wav", b"".join(int(v).to_bytes(width, "little", signed=width > 1) for v in whole), width)
    found = read_wav(tmp_path / "x.wav")
    np.testing.assert_array_equal(found.samples[:, 0], values)
    assert found.rate == 8000


def wav_bytes(form, data):
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


GUID = bytes.fromhex("000000001000800000AA00389B71")


def test_wav_files_of_floats_and_of_the_extensible_kind():
    values = np.array([-1.5, -0.5, 0.25, 0.5])
    for bits in (32, 64):
        form = struct.pack("<HHIIHH", 3, 2, 8000, 0, 0, bits)
        found = read_wav(wav_bytes(form, values.astype(f"<f{bits // 8}").tobytes()))
        np.testing.assert_array_equal(found.samples, values.reshape(2, 2))
    form = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 44100, 0, 0, 24, 22, 24, 4, 1) + GUID
    found = read_wav(wav_bytes(form, b"".join(int(v * 2**23).to_bytes(3, "little", signed=True) for v in values[1:])))
    np.testing.assert_array_equal(found.samples[:, 0], values[1:])
    assert found.rate == 44100


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"not a sound", "no WAV file"),
        (wav_bytes(struct.pack("<HHIIHH", 6, 1, 8000, 0, 0, 8), b"\0\0"), "8 bits of kind 6.*accepted"),
        (wav_bytes(struct.pack("<HHIIHH", 1, 0, 8000, 0, 0, 16), b"\0\0"), "0 channels"),
        (wav_bytes(struct.pack("<HHIIHH", 1, 1, 8000, 0, 0, 16), b""), "no samples"),
        (wav_bytes(struct.pack("<HHIIHH", 1, 2, 8000, 0, 0, 16), b"\0\0"), "cut short: 2 bytes"),
        (write_wav(np.zeros(8), 8000)[:-2], "cut short: 14 bytes of samples, of 16"),
        (wav_bytes(struct.pack("<HHIIHH", 3, 1, 8000, 0, 0, 32), np.float32([np.nan]).tobytes()), "not finite"),
        (wav_bytes(b"", b""), "missing"),
    ],
)
def test_what_is_no_sound_says_why(raw, words):
    with pytest.raises(ValueError, match=words):
        read_wav(raw)


def test_wav_files_come_back(tmp_path):
    sound = 0.9 * np.sin(np.arange(100.0))
    np.testing.assert_allclose(read_wav(write_wav(sound, 8000)).samples[:, 0], sound, atol=2**-16)
    assert read_wav(write_wav(np.array([3.0, -3.0]), 8000)).samples[:, 0].tolist() == [1 - 2**-15, -1.0]


def test_sounds_of_another_kind_are_changed_and_that_is_said():
    second = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    sound, changes = fitted(Wav(np.stack([second, second], 1), 44100), 8000, 8000)
    assert [c.split(",")[0] for c in changes] == ["2 channels", "44"]
    inside = slice(200, -200)
    np.testing.assert_allclose(sound[inside], np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)[inside], atol=1e-2)
    ramp = np.arange(10.0)[:, None]
    cut, changes = fitted(Wav(ramp, 8000), 8000, 4)
    assert cut.tolist() == [3, 4, 5, 6]
    assert "middle" in changes[0]
    longer, changes = fitted(Wav(ramp, 8000), 8000, 12)
    assert longer.tolist() == [*range(10), 0, 0]
    assert "silence" in changes[0]


def test_a_folder_of_wav_files(tmp_path):
    for place, (folder, index) in enumerate([("chord·up", 0), ("fall·warble", 1)]):
        path = tmp_path / folder / f"{place}.wav"
        path.parent.mkdir()
        path.write_bytes(write_wav(SCENES.sound(index) / 2, SOUND.rate))
    write(tmp_path / "fall·warble" / "short.wav", b"\0\0\0\0" * 100, 2, rate=4000, channels=2)
    (tmp_path / "fall·warble" / "torn.wav").write_bytes(b"RIFF")
    source = open_sounds(f"folder:{tmp_path}", CLASS_NAMES, stft=SOUND, samples=SAMPLES)
    assert isinstance(source, SoundFolder)
    assert len(source) == 4
    assert source.labels_of(np.arange(4)).tolist() == [0, 14, 14, 14]
    np.testing.assert_allclose(source[0].image[..., 0], log_magnitude(SCENES.sound(0) / 2, SOUND), atol=2e-3)
    assert len(source[2].changes) == 3
    assert source.sound(2).shape == (SAMPLES,)
    with pytest.raises(UnreadableImageError, match="torn"):
        source[3]
    with pytest.raises(CaseJaxError, match=r"no images in .* end in \.wav; .*--model of sounds"):
        open_source(f"folder:{tmp_path}", None, resize=48, crop=48)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseJaxError, match="no sounds"):
        SoundFolder(tmp_path / "empty", None, stft=SOUND, samples=SAMPLES)

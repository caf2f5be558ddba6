"""Sounds in pages and pictures: axes, orientation, and what is heard when a player is pressed."""

import base64
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from browser import seen_in_a_browser

import case_jax as cj
from case_jax.audio import Stft, log_magnitude, masked_sound, spectrogram
from case_jax.audio.wav import read_wav
from case_jax.cli.explain import ExplainedModel, explain
from case_jax.data import SoundScenes
from case_jax.data.sound_scenes import SOUND
from case_jax.imageops import as_pixels
from case_jax.report.listening import players_of
from case_jax.report.spectrogram import lying, ticks, upright

SCENES = SoundScenes("test", 8)


def played(uri):
    kind, data = uri.split(",", 1)
    assert kind == "data:audio/wav;base64"
    return read_wav(base64.b64decode(data))


def test_spectrograms_stand_with_time_to_the_right_and_frequency_upwards():
    image = np.arange(6).reshape(2, 3)  # two frames of three bins
    np.testing.assert_array_equal(upright(image), [[2, 5], [1, 4], [0, 3]])
    np.testing.assert_array_equal(lying(upright(image)), image)
    across, down = ticks(SOUND, (129, 126))
    assert across == {0: "0 s", 62.5: "0.5 s", 125: "1 s"}
    assert down == {128: "0 Hz", 64: "2000 Hz", 0: "4000 Hz"}


def test_floats_are_shown_between_their_own_extremes():
    shown = as_pixels(np.array([[[[1.0], [2.0]]], [[[5.0], [5.0]]]], np.float32))
    assert shown.ravel().tolist() == [0, 255, 0, 0]


def test_a_player_plays_what_the_map_keeps():
    """The WAV's own spectrum: the loud marker is there in its masked-in sound, and silent in the other; all are turned down alike."""
    scene = SCENES.scene(7)
    mask = SCENES[7].evidence.regions[1].astype(float)
    [(words, kept, left)] = (page := players_of("s", scene.sound, {"own": mask}, SOUND)).masked
    level = 1 / max(1, np.abs(scene.sound).max())
    assert words == "own"
    for clip, sound in [(page.whole, scene.sound), (kept, masked_sound(scene.sound.astype(float), mask, SOUND))]:
        found = played(clip.uri)
        assert found.rate == SOUND.rate
        np.testing.assert_allclose(found.samples[:, 0], level * sound, atol=2**-15)
    inside, rest = (log_magnitude(played(clip.uri).samples[:, 0], SOUND) for clip in (kept, left))
    marker, body = scene.masks[1], scene.masks[0]
    assert inside[marker].mean() > 3 * rest[marker].mean()
    assert rest[body].mean() > 10 * inside[body].mean()


def test_explain_draws_and_plays_a_scene(tmp_path, capsys):
    model = ExplainedModel(contrast="topk_logits:1")
    explain(("sound_scenes:7",), model, methods=("finer_cam",), top=2, out=tmp_path)
    picture, page = map(str, sorted(tmp_path.iterdir(), reverse=True))
    assert capsys.readouterr().out.split() == [picture, page]
    uris = re.findall(r'src="(data:audio[^"]*)"', (tmp_path / "explain-sound-000007.html").read_text())
    assert len(uris) == 5
    assert "media-src data:" in (tmp_path / "explain-sound-000007.html").read_text()
    first, second = SCENES.scene(7).masks[1:]
    heard = log_magnitude(played(uris[1]).samples[:, 0], SOUND)  # masked in by the likeliest class's map
    assert heard[first].mean() > 3 * heard[second].mean()


def test_a_sound_beside_images_or_of_another_kind_is_refused(shell):
    for words, expected in [
        ("explain song.mp3", ["images: got song.mp3", "a WAV file", "ffmpeg"]),
        ("explain sound_scenes:7 photo.png", ["among images"]),
        ("explain sound_scenes:7 --original", ["original", "images alone"]),
        ("explain sound_scenes:7 --explore --model digit_resnet", ["model: got digit_resnet", "sound_cnn"]),
        ("evaluate --data sound_scenes --limit 4 --crops crops", ["crops: got them for sound_scenes/test", "leave"]),
        ("grid-pointing --data sound_scenes --limit 4", ["data: got sound_scenes/test, of sounds", "localise"]),
    ]:
        status, _, err = shell(*words.split())
        assert status == 2
        assert all(word in err for word in expected), err


def test_show_draws_a_spectrogram_upright_with_seconds_and_hertz():
    how = Stft(80, 8, 8, 4)
    image = np.arange(20.0, dtype=np.float32).reshape(4, 5, 1)
    saliency = np.linspace(0, 1, 20).reshape(4, 5)
    first, second = cj.show(image, saliency, stft=how).axes
    np.testing.assert_allclose(first.images[0].get_array()[..., 0], upright(image[..., 0]) / 19)
    np.testing.assert_array_equal(second.images[1].get_array(), upright(saliency))
    assert [text.get_text() for text in first.get_xticklabels()] == ["0 s", "0.075 s", "0.15 s"]
    assert [text.get_text() for text in first.get_yticklabels()] == ["0 Hz", "20 Hz", "40 Hz"]
    with pytest.raises(cj.CaseJaxError, match=r"image: got shape \(4, 6, 1\) for n_fft 8; accepted: a spectrogram"):
        cj.show(np.zeros((4, 6, 1)), saliency, stft=how)


def test_a_loaded_classifier_of_sounds_knows_that_it_sees_spectrograms():
    model = cj.load("sound_cnn")
    image = model.hear(SCENES.sound(7))
    first, _ = cj.show(image, np.eye(126, 129), model=model, targets=0).axes
    shown = first.images[0].get_array()[..., 0]
    np.testing.assert_allclose(shown, upright(as_pixels(np.asarray(image))[..., 0]) / 255, atol=3e-3)
    assert first.get_yticklabels()[-1].get_text() == "4000 Hz"
    assert jnp.isfinite(
        model.apply(model.params, jax.random.normal(jax.random.key(0), image.shape))
    ).all()  # noise is below 0


HEARD = """
    change({target: 1, chosen: true, rivals: [0]});
    const heard = (mask) => [...maskedSound(data.sound, mask)];
    const map = maps["finer-cam"];
    const buttons = [...document.querySelectorAll("[data-heard]")].map((b) => [b.dataset.heard, b.dataset.part ?? "", b.disabled]);
    const words = [...document.querySelectorAll(".picture span")].map((e) => e.textContent);
    return {map: [...map], kept: heard(map), left: heard(map.map((value) => 1 - value)), buttons, words, order: data.classes};
"""


def test_an_explored_sound_is_upright_and_heard_through_its_maps(tmp_path):
    how = Stft(800, 16, 12, 4)
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.5, 100).astype(np.float32)
    image = jnp.asarray(spectrogram(sound, how))
    params = (
        jnp.asarray(rng.normal(0, 1, (4, 4, 1, 6)), jnp.float32),
        jnp.asarray(rng.normal(0, 1, (6, 3)), jnp.float32),
    )

    def function(params, x):
        a = jax.lax.conv_general_dilated(x[None], params[0], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return cj.tag(jax.nn.relu(a[0]), "features").mean((0, 1)) @ params[1]

    model = cj.tap_function(function, params, "features", image, link="softmax")
    page = cj.explore(model, image, out=tmp_path / "page.html", stft=how, sound=sound)
    found = seen_in_a_browser(page, HEARD, tmp_path)
    first, second = found["order"][:2]
    expected = np.asarray(cj.explain(model, image, "finer_cam", targets=second, contrast=cj.contrast.against(first, 3)))
    np.testing.assert_allclose(np.reshape(found["map"], (9, 26)), upright(expected), atol=1e-3)
    mask = lying(np.reshape(found["map"], (9, 26)))
    for name, part in (("kept", mask), ("left", 1 - mask)):
        np.testing.assert_allclose(found[name], masked_sound(sound.astype(float), part, how), atol=1e-5)
    assert [button[:2] for button in found["buttons"]][:3] == [["", ""], ["grad-cam", "marked"], ["grad-cam", "rest"]]
    assert found["words"] == ["0.062 s", "0.12 s", "200 Hz", "400 Hz"]
    with pytest.raises(cj.CaseJaxError, match="sound: got shape"):
        cj.explore(model, image, out=tmp_path / "page.html", stft=how, sound=sound[:50])


def test_pairs_of_sounds_agree_as_their_maps_do(shell):
    """The sweep's mean over pairs of the likeliest classes, and `agreement` of maps made one by one."""
    few = ("--limit", 3, "--top", 2, "--methods", "grad_cam", "--contrast", "topk_logits:1")
    status, out, err = shell("pairs", "--data", "sound_scenes", *few, "--out", "run")
    assert status == 0, err
    assert "Report: run/report.html" in out
    table, scenes, model = pd.read_csv("run/pairs.csv"), SoundScenes("test", 3), cj.load("sound_cnn")
    assert table["images"].sum() == 3
    expected = []
    for index in range(3):
        image = model.hear(scenes.sound(index))
        likeliest = np.argsort(-np.asarray(model.apply(model.params, image)))[:2]
        expected.append(float(cj.agreement(*cj.explain(model, image, "grad_cam", targets=likeliest)).F))
    np.testing.assert_allclose((table["agreement"] * table["images"]).sum() / 3, np.mean(expected), atol=1e-6)

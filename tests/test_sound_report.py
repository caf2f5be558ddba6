"""Sounds in pages and pictures: axes, orientation, and what is heard when a player is pressed."""

import base64
import re

import numpy as np

from case_jax.audio import log_magnitude, masked_sound
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

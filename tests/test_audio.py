"""Sound: the transform and its inverse, mel bands, masks that are heard, against closed forms and other packages' numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError
from case_jax.audio import Stft, inverse_stft, log_magnitude, magnitude, masked_sound, mel_filterbank, stft

GOLDENS = np.load(Path(__file__).parent / "goldens" / "audio.npz")
SMALL, LMAC = Stft(8000, 256, 200, 80), Stft(16000, 1024, 372, 186)
NOISE = np.random.default_rng(0).standard_normal(1003)


@pytest.mark.parametrize("how", [SMALL, LMAC, Stft(8000, 256, 256, 64), Stft(8000, 64, 63, 31)])
def test_the_inverse_gives_the_signal_back(how):
    spectrum = stft(NOISE, how)
    assert spectrum.shape == (how.frames(1003), how.bins)
    np.testing.assert_allclose(inverse_stft(spectrum, how, length=1003), NOISE, atol=1e-12)
    single = jnp.asarray(NOISE, jnp.float32)
    back = jax.jit(lambda x: inverse_stft(stft(x, how), how, length=1003))(single)
    np.testing.assert_allclose(back, single, atol=1e-6)


def test_the_transform_as_its_sum():
    how = Stft(8000, 16, 12, 5)
    window = np.r_[0, 0, 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(12) / 12), 0, 0]
    signal = NOISE[:33]
    for t, k in [(0, 0), (1, 3), (6, 8)]:
        heard = [(n, 5 * t + n - 8) for n in range(16)]
        by_hand = sum(window[n] * signal[m] * np.exp(-2j * np.pi * k * n / 16) for n, m in heard if 0 <= m < 33)
        np.testing.assert_allclose(stft(signal, how)[t, k], by_hand, atol=1e-12)


@pytest.mark.parametrize("name", ["small", "lmac"])
def test_as_torch_and_speechbrain(name):
    how = Stft(*GOLDENS[f"{name}/how"].tolist())
    signal, mask = GOLDENS["signal"], GOLDENS[f"{name}/mask"]
    spectrum = stft(signal, how)
    np.testing.assert_allclose(spectrum, GOLDENS[f"{name}/stft"], atol=2e-5)
    np.testing.assert_allclose(
        inverse_stft(spectrum * mask, how, length=len(signal)), GOLDENS[f"{name}/heard"], atol=1e-5
    )
    filters = GOLDENS[f"{name}/filters"]
    np.testing.assert_allclose(mel_filterbank(filters.shape[1], how), filters, atol=2e-5)
    bands = np.log1p(magnitude(spectrum) @ mel_filterbank(filters.shape[1], how))
    np.testing.assert_allclose(bands, GOLDENS[f"{name}/bands"], atol=2e-5)


def test_mel_filters_are_triangles_whose_left_side_stands_on_both():
    how, filters = Stft(16000, 1 << 16, 1 << 16, 1 << 15), 80
    bank = mel_filterbank(filters, how).astype(float)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), filters + 2) / 2595) - 1)
    apart, left = 8000 / (how.bins - 1), np.diff(edges)[:-1]
    np.testing.assert_allclose(bank.sum(0) * apart, left, rtol=1e-3)  # the area of a triangle of height 1
    frequencies = np.linspace(0, 8000, how.bins)
    np.testing.assert_allclose(frequencies[bank.argmax(0)], edges[1:-1], atol=apart)
    assert bank.min() == 0
    assert bank.max() <= 1


def test_masks_of_one_and_zero_and_in_between():
    signal = NOISE[:640]
    every = np.ones((SMALL.frames(640), SMALL.bins))
    np.testing.assert_allclose(masked_sound(signal, every, SMALL), signal, atol=1e-12)
    assert not masked_sound(signal, 0 * every, SMALL).any()
    half = masked_sound(signal, 0.5 * every, SMALL)
    spectrum = stft(signal, SMALL)
    weaker = np.sqrt(1 + np.abs(spectrum)) - 1  # P becomes (1 + P)^M − 1
    expected = inverse_stft(spectrum / np.abs(spectrum) * weaker, SMALL, length=640)
    np.testing.assert_allclose(half, expected, atol=1e-6)


def test_traced_batched_and_differentiable_at_silence():
    signals = jnp.asarray(np.stack([NOISE[:400], np.zeros(400)]), jnp.float32)
    mask = jnp.zeros((SMALL.frames(400), SMALL.bins), jnp.float32)
    bank = mel_filterbank(20, SMALL)
    together = jax.vmap(lambda x: log_magnitude(x, SMALL))(signals)
    np.testing.assert_allclose(together[0], log_magnitude(NOISE[:400], SMALL), atol=1e-5)
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(together[1], 0, atol=2e-7)

    def shown(mask, signal):
        return jnp.log1p(jnp.expm1(mask * log_magnitude(signal, SMALL)) @ bank).sum()

    for gradient in jax.jit(jax.vmap(jax.grad(shown, (0, 1)), (None, 0)))(mask, signals):
        assert np.isfinite(gradient).all()


def test_bad_parameters_are_named():
    with pytest.raises(CaseJaxError, match="hop of at most half a window"):
        stft(NOISE, Stft(8000, 256, 100, 64))
    with pytest.raises(CaseJaxError, match=r"signal: got dtype int16; .*floating-point"):
        stft(np.zeros(800, np.int16), SMALL)
    with pytest.raises(CaseJaxError, match="one signal"):
        stft(NOISE[None], SMALL)
    with pytest.raises(CaseJaxError, match="129"):
        inverse_stft(stft(NOISE, SMALL)[:, 1:], SMALL, length=9)
    with pytest.raises(CaseJaxError, match="mask"):
        masked_sound(NOISE, np.ones((3, 3)), SMALL)
    with pytest.raises(CaseJaxError, match="between two bins"):
        mel_filterbank(100, SMALL)

"""What L-MAC measures of masks: closed forms for the whole spectrogram and for one bin, and its public average drop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, tag, tap_function
from case_jax.audio import Stft, log_magnitude, mel_filterbank
from case_jax.metrics import entropy_complexity, faithfulness, gini, masked_confidence
from case_jax.metrics.masked_confidence import double_softmax_drop

SHAPE = (5, 7)


@pytest.fixture(scope="module")
def view():
    """Of two classes, of which the first has the logit 3 · mean(x) − 1."""

    def apply(params, x):
        tone = tag(x, "tone").mean()
        return jnp.stack([3 * tone - 1, 0 * tone])

    image = jnp.ones((*SHAPE, 1))
    model = tap_function(apply, {}, "tone", image)
    return model.view(model.params, image)


def p(tone):
    return 1 / (1 + np.exp(1 - 3 * tone))


def test_the_whole_spectrogram_keeps_all_and_leaves_silence(view):
    ones = jnp.ones(SHAPE)
    found = faithfulness(view, ones, 0, space="normalised")
    np.testing.assert_allclose(found, (p(1) - p(0), 1), rtol=1e-6)
    assert masked_confidence(view, ones, 0, space="normalised") == (0, 0, 0, 1)
    np.testing.assert_allclose((gini(ones), entropy_complexity(ones)), (0, np.log(35)), atol=1e-6)


def test_one_bin_is_the_sparsest_mask(view):
    one = jnp.zeros(SHAPE).at[2, 3].set(1.0)
    np.testing.assert_allclose((gini(one), entropy_complexity(one)), (1 - 1 / 35, 0), atol=1e-5)
    found = faithfulness(view, one, 0, space="normalised")
    np.testing.assert_allclose(found, (p(1) - p(34 / 35), 0), atol=1e-6)


def test_hidden_pixels_may_be_black(view):
    half = jnp.full(SHAPE, 0.5)
    found = faithfulness(view, half, 0, black=jnp.array([-1.0]))
    np.testing.assert_allclose(found, (p(1) - p(0), 0), rtol=1e-6)  # 1 · ½ − 1 · ½
    with pytest.raises(CaseJaxError, match=r"space.*pixels"):
        faithfulness(view, half, 0, space="bins")
    with pytest.raises(CaseJaxError, match="black"):
        faithfulness(view, half, 0)


def test_the_public_average_drop_is_of_a_softmax_of_probabilities(view):
    """Of two classes it is 1 − σ(2m − 1) / σ(2o − 1); of many 1 − exp(−(o − m)), whatever o is."""
    half = jnp.full(SHAPE, 0.5)
    found = masked_confidence(view, half, 0, space="normalised", form="reference-double-softmax")
    plain = masked_confidence(view, half, 0, space="normalised")
    s, t = (1 / (1 + np.exp(1 - 2 * p(tone))) for tone in (1, 0.5))
    np.testing.assert_allclose(found.drop, (s - t) / s, rtol=1e-5)
    np.testing.assert_allclose(plain.drop, (p(1) - p(0.5)) / p(1), rtol=1e-5)
    assert found[1:] == plain[1:]
    before, after = (jnp.full(1000, (1 - o) / 999).at[0].set(o) for o in (0.1, 0.0))
    np.testing.assert_allclose(double_softmax_drop(before, after, 0), 1 - np.exp(-0.1), atol=1e-3)
    certain, gone = (jnp.zeros(1000).at[c].set(1.0) for c in (0, 1))
    np.testing.assert_allclose(double_softmax_drop(certain, gone, 0), 1 - np.exp(-1), atol=1e-3)
    with pytest.raises(CaseJaxError, match="reference-double-softmax"):
        masked_confidence(view, half, 0, space="normalised", form="reference")


def test_gradients_are_finite_in_silence():
    """Of what a classifier is given, with respect to the mask at 0 and to a sound without any sound."""
    how = Stft(rate=8000, n_fft=64, window=64, hop=32)
    bank = mel_filterbank(8, how)

    def heard(mask, signal):
        return jnp.log1p(jnp.expm1(mask * log_magnitude(signal, how)) @ bank).sum()

    silence = jnp.zeros(320)
    mask = jnp.zeros((how.frames(320), how.bins))
    for place in (mask, mask + 1):
        for gradient in jax.grad(heard, (0, 1))(place, silence):
            assert jnp.isfinite(gradient).all()

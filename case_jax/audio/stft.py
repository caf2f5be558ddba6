"""The short-time Fourier transform, its inverse, and the sound that a mask on the spectrogram leaves."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Complex, Float

from case_jax._checks import require

FLOOR = 1e-14
"""Below the root of the magnitude, so that its gradient is finite at silence."""


class Stft(NamedTuple):
    """How a sound is cut into frames; all but the rate in samples."""

    rate: int
    """Samples per second."""
    n_fft: int
    window: int
    """Length of the Hamming window, which stands in the middle of a frame of `n_fft` samples, zeros on both sides."""
    hop: int
    """From one frame to the next."""

    @property
    def bins(self) -> int:
        """How many frequencies, 0 and half the rate among them."""
        return self.n_fft // 2 + 1

    def frames(self, length: int) -> int:
        """How many frames a signal of so many samples has."""
        return 1 + length // self.hop

    def check(self) -> "Stft":
        """The parameters themselves.

        Raises:
            CaseJaxError: unless n_fft is even and every sample lies under some window.
        """
        proper = self.n_fft % 2 == 0 and 0 < 2 * self.hop <= self.window <= self.n_fft and self.rate > 0
        require(proper, "stft", self, "an even n_fft, a window no longer than it, a hop of at most half a window")
        return self


def hamming(length: int) -> Float[np.ndarray, " n"]:
    """The periodic Hamming window, `0.54 − 0.46 cos(2πn / length)`, which is never 0."""
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(length) / length)


def stft(signal: Float[Array | np.ndarray, " L"], how: Stft) -> Complex[Array | np.ndarray, "T F"]:
    """`Z[t, k] = Σ_n w[n] x[t · hop + n − n_fft/2] e^{−2πikn / n_fft}`: frames about every `hop`-th sample, the signal 0 outside.

    Args:
        signal: one sound. Longer than a half frame or not, it has `how.frames(L)` frames.
        how: window, hop and frame, which decide the shape (T, F) = (1 + ⌊L / hop⌋, 1 + n_fft / 2).

    Returns:
        The complex spectrogram, as `torch.stft` with a periodic Hamming window, `center=True` and `pad_mode="constant"` has it (transposed).

    Raises:
        CaseJaxError: for parameters that do not cover the signal; several signals; whole numbers.
    """
    how.check()
    require(signal.ndim == 1, "signal", f"shape {signal.shape}", "one signal (samples,); several by jax.vmap")
    floating = np.issubdtype(signal.dtype, np.floating)
    require(floating, "signal", f"dtype {signal.dtype}", "floating-point samples; of 16-bit ones signal / 2**15")
    xp: Any = signal.__array_namespace__()
    padded = xp.pad(signal, how.n_fft // 2)
    places = how.hop * np.arange(how.frames(len(signal)))[:, None] + np.arange(how.n_fft)
    return xp.fft.rfft(padded[places] * xp.asarray(_framed(how), dtype=signal.dtype), axis=-1)


def inverse_stft(
    spectrum: Complex[Array | np.ndarray, "T F"], how: Stft, *, length: int
) -> Float[Array | np.ndarray, " L"]:
    """`x[n] = Σ_t w[n − t·hop] z_t[n − t·hop] / Σ_t w²[n − t·hop]`, z_t the inverse transform of frame t: the least-squares inverse.

    Args:
        spectrum: of `length` samples, changed or not.
        how: as in `stft`.
        length: of the signal wanted; samples that no frame covers are 0.

    Returns:
        The signal; `inverse_stft(stft(x), length=len(x))` is x up to rounding. As `torch.istft`.

    Raises:
        CaseJaxError: for another number of frequencies.

    Griffin and Lim, Signal estimation from modified short-time Fourier transform (1984).
    """
    how.check()
    accepted = f"(frames, {how.bins}) of one sound; several by jax.vmap"
    require(spectrum.ndim == 2 and spectrum.shape[-1] == how.bins, "spectrum", f"shape {spectrum.shape}", accepted)
    xp: Any = spectrum.__array_namespace__()
    frames = xp.fft.irfft(spectrum, n=how.n_fft, axis=-1)
    window = _framed(how)
    weights = _overlapped(np.broadcast_to(window**2, frames.shape), how.hop)
    divided = np.where(weights > 0, 1 / np.maximum(weights, FLOOR), 0.0)
    signal = _overlapped(frames * xp.asarray(window, dtype=frames.dtype), how.hop) * xp.asarray(
        divided, dtype=frames.dtype
    )
    middle = signal[how.n_fft // 2 :][:length]
    return xp.pad(middle, (0, length - len(middle)))


def magnitude(spectrum: Complex[Array | np.ndarray, "T F"]) -> Float[Array | np.ndarray, "T F"]:
    """`P = √(re² + im² + 1e-14)`, differentiable at silence."""
    xp: Any = spectrum.__array_namespace__()
    return xp.sqrt(xp.real(spectrum) ** 2 + xp.imag(spectrum) ** 2 + FLOOR)


def log_magnitude(signal: Float[Array | np.ndarray, " L"], how: Stft) -> Float[Array | np.ndarray, "T F"]:
    """`X = log(1 + P)` of a signal's magnitudes: what a sound classifier is given and masks multiply; 0 is silence (up to 1e-7)."""
    xp: Any = signal.__array_namespace__()
    return xp.log1p(magnitude(stft(signal, how)))


def spectrogram(signal: Float[np.ndarray, " L"], how: Stft) -> Float[np.ndarray, "T F 1"]:
    """A sound as classifiers are given it: `log_magnitude` as a float32 image of one channel."""
    return np.asarray(log_magnitude(signal, how), np.float32)[..., None]


def masked_sound(
    signal: Float[Array | np.ndarray, " L"], mask: Float[Array | np.ndarray, "T F"], how: Stft
) -> Float[Array | np.ndarray, " L"]:
    """The sound that is heard through a mask: the inverse transform of `expm1(M ⊙ X) e^{iφ}`, with φ the signal's own phase.

    The mask multiplies logarithms, so `P` becomes `(1 + P)^M − 1`: M = 1 gives the signal back, M = 0 silence.

    Args:
        signal: one sound.
        mask: in [0, 1] for each frame and frequency; `1 − mask` for the sound masked out.
        how: as in `stft`.

    Raises:
        CaseJaxError: for a mask of another shape.

    Paissan, Ravanelli, Subakan, Listenable Maps for Audio Classifiers (ICML 2024).
    """
    spectrum = stft(signal, how)
    accepted = f"{spectrum.shape}, one value for each frame and frequency"
    require(mask.shape == spectrum.shape, "mask", f"shape {mask.shape}", accepted)
    xp: Any = spectrum.__array_namespace__()
    strength = magnitude(spectrum)
    kept = xp.expm1(xp.asarray(mask, dtype=strength.dtype) * xp.log1p(strength))
    return inverse_stft(spectrum * (kept / strength), how, length=len(signal))


def _framed(how: Stft) -> Float[np.ndarray, " n"]:
    """The window in the middle of a frame."""
    before = (how.n_fft - how.window) // 2
    return np.pad(hamming(how.window), (before, how.n_fft - how.window - before))


def _overlapped(frames: Float[Array | np.ndarray, "T n"], hop: int) -> Float[Array | np.ndarray, " L"]:
    """The sum of frames that start `hop` apart; frames are cut into pieces of a hop, and equally late pieces lie one after another."""
    xp: Any = frames.__array_namespace__()
    count, pieces = frames.shape[0], -(-frames.shape[1] // hop)
    cut = xp.pad(frames, ((0, 0), (0, pieces * hop - frames.shape[1]))).reshape(count, pieces, hop)
    late = xp.stack([xp.pad(cut[:, i], ((i, pieces - 1 - i), (0, 0))) for i in range(pieces)])
    return late.sum(0).reshape(-1)

"""Mel bands: frequencies grouped as they are heard."""

from typing import Any

import numpy as np
from jaxtyping import Float

from case_jax._checks import require
from case_jax.audio.stft import Stft


def mel(hertz: Float[np.ndarray, "..."] | float) -> Any:
    """A frequency in mel: `2595 log10(1 + f / 700)`."""
    return 2595 * np.log10(1 + hertz / 700)


def mel_filterbank(filters: int, how: Stft) -> Float[np.ndarray, "F n"]:
    """Triangular filters, equally spaced in mel from 0 to half the rate: `mel bands = magnitudes @ filterbank`.

    `B[f, i] = max(0, 1 − |f − f_i| / (f_i − f_{i−1}))`, with f_0 … f_{n+1} equally spaced in mel. The
    band to the left of a centre is used on both sides, and no filter is divided by its area: as SpeechBrain's `Filterbank`.

    Args:
        filters: their number n.
        how: which frequencies the F bins are.

    Returns:
        float32, each column 0 to 1.

    Raises:
        CaseJaxError: for so many filters that one of them lies between two bins and would always be 0.
    """
    require(filters >= 1, "filters", filters, "a number of at least 1")
    nyquist = how.rate / 2
    edges = 700 * (10 ** (np.linspace(0, mel(nyquist), filters + 2) / 2595) - 1)
    centres, bands = edges[1:-1], np.diff(edges)[:-1]
    frequencies = np.linspace(0, nyquist, how.bins)
    bank = np.maximum(0.0, 1 - np.abs(frequencies[:, None] - centres) / bands)
    accepted = f"fewer filters, or a longer n_fft: neighbouring bins are {nyquist / (how.bins - 1):.1f} Hz apart"
    require(
        bank.any(0).all(), "filters", f"{filters}, of which {int((~bank.any(0)).sum())} lie between two bins", accepted
    )
    return bank.astype(np.float32)

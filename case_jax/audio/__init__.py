"""Sound as arrays: spectrograms and back, mel bands, WAV files.

Every function takes NumPy's arrays and JAX's alike and answers in kind, so that data are read without a device, and networks and losses
are traced through the same lines. One signal at a time; batches come by `jax.vmap`.
"""

from case_jax.audio.mel import mel_filterbank
from case_jax.audio.stft import (
    Stft,
    inverse_stft,
    log_magnitude,
    magnitude,
    masked_sound,
    spectrogram,
    stft,
)

__all__ = [
    "Stft",
    "inverse_stft",
    "log_magnitude",
    "magnitude",
    "masked_sound",
    "mel_filterbank",
    "spectrogram",
    "stft",
]

"""WAV files of whole numbers (PCM), read and written with the standard library."""

import io
import math
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WIDTHS = (1, 2, 3, 4)
"""Bytes of a sample that are read: 8 to 32 bits."""


class Wav(NamedTuple):
    """A sound as its file has it."""

    samples: Float[np.ndarray, "L channels"]
    """In [−1, 1)."""
    rate: int
    """Samples per second."""


def read_wav(file: Path | bytes) -> Wav:
    """The samples of a WAV file of 8-bit (unsigned), 16-, 24- or 32-bit whole numbers, as shares of their range.

    Args:
        file: a path, or the file's bytes.

    Raises:
        OSError: when the file cannot be opened.
        ValueError: when it is no WAV file, cut short, or of another kind of numbers; says which.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else io.BytesIO(file.read_bytes())
    try:
        with wave.open(opened, "rb") as wav:
            width, channels, rate, frames = wav.getsampwidth(), wav.getnchannels(), wav.getframerate(), wav.getnframes()
            raw = wav.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"no WAV file of whole numbers (PCM): {error}") from None
    if width not in WIDTHS or len(raw) != frames * width * channels:
        raise ValueError(f"{len(raw)} bytes for {frames} samples of {8 * width} bits")
    if width == 1:
        numbers = np.frombuffer(raw, np.uint8).astype(np.float64) - 128
    elif width == 3:
        bytes_ = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        wide = np.concatenate([np.zeros_like(bytes_[:, :1]), bytes_], axis=1)
        numbers = wide.reshape(-1).view("<i4") / 256.0
    else:
        numbers = np.frombuffer(raw, f"<i{width}").astype(np.float64)
    return Wav(numbers.reshape(-1, channels) / 2 ** (8 * width - 1), rate)


def write_wav(sound: Float[np.ndarray, " L"], rate: int) -> bytes:
    """A sound in [−1, 1] as a WAV file of 16 bits; what lies outside is clipped."""
    numbers = np.clip(np.rint(np.asarray(sound, np.float64) * 2**15), -(2**15), 2**15 - 1).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        wav.writeframes(numbers.tobytes())
    return buffer.getvalue()


def fitted(found: Wav, rate: int, samples: int) -> tuple[Float[np.ndarray, " L"], tuple[str, ...]]:
    """A sound as a classifier wants it, and in words what was done to it: channels averaged, resampled, cut or followed by silence.

    Args:
        found: the sound.
        rate: wanted; another one is changed by a polyphase filter (`scipy.signal.resample_poly`).
        samples: wanted; of a longer sound the middle is taken, a shorter one is followed by silence.
    """
    changes: list[str] = []
    sound = found.samples.mean(1)
    if found.samples.shape[1] > 1:
        changes.append(f"{found.samples.shape[1]} channels, of which the mean is heard")
    if found.rate != rate:
        from scipy.signal import resample_poly

        common = math.gcd(found.rate, rate)
        sound = resample_poly(sound, rate // common, found.rate // common)
        changes.append(f"{found.rate:,} samples a second, made {rate:,}")
    if len(sound) > samples:
        first = (len(sound) - samples) // 2
        sound = sound[first : first + samples]
        changes.append(f"more than {samples / rate:g} s, of which the middle is heard")
    elif len(sound) < samples:
        sound = np.pad(sound, (0, samples - len(sound)))
        changes.append(f"less than {samples / rate:g} s, followed by silence")
    return sound.astype(np.float32), tuple(changes)

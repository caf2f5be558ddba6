"""WAV files read, of whole numbers (PCM) and of floating-point numbers, and written as 16-bit ones."""

import io
import math
import struct
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WHOLE, FLOATING, EXTENSIBLE = 1, 3, 0xFFFE
"""Codes of a file's kind of numbers; the last says that the kind stands further on, as in most files of 24 bits."""
KINDS = {(WHOLE, 8), (WHOLE, 16), (WHOLE, 24), (WHOLE, 32), (FLOATING, 32), (FLOATING, 64)}
"""Kinds and bits that are read."""
ACCEPTED = "a WAV file of whole numbers (8, 16, 24 or 32 bits) or floating-point ones (32 or 64)"


class Wav(NamedTuple):
    """A sound as its file has it."""

    samples: Float[np.ndarray, "L channels"]
    """In [−1, 1); floating-point files may go beyond."""
    rate: int
    """Samples per second."""


def read_wav(file: Path | bytes) -> Wav:
    """The samples of a WAV file: 8-bit (unsigned), 16-, 24- or 32-bit whole numbers as shares of their range, 32- or 64-bit floats as they are.

    Args:
        file: a path, or the file's bytes.

    Raises:
        OSError: when the file cannot be opened.
        ValueError: when it is no WAV file, cut short, of another kind of numbers, without samples, or with some that are not finite; says which.
    """
    chunks = _chunks(file if isinstance(file, bytes) else file.read_bytes())
    form, raw = chunks.get(b"fmt ", b""), chunks.get(b"data")
    if len(form) < 16 or raw is None:
        raise ValueError(f"its format or its samples are missing; accepted: {ACCEPTED}")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if kind == EXTENSIBLE and len(form) >= 26:
        (kind,) = struct.unpack_from("<H", form, 24)
    if (kind, bits) not in KINDS or channels < 1 or rate < 1:
        found = f"{bits} bits of kind {kind}, {channels} channels, {rate} samples a second"
        raise ValueError(f"{found}; accepted: {ACCEPTED}")
    if len(raw) % (channels * bits // 8):
        raise ValueError(f"cut short: {len(raw)} bytes for samples of {bits} bits in {channels} channels")
    if not raw:
        raise ValueError("it holds no samples")
    numbers = _numbers(raw, kind, bits)
    if not np.isfinite(numbers).all():
        raise ValueError("samples that are not finite")
    return Wav(numbers.reshape(-1, channels), rate)


def _chunks(raw: bytes) -> dict[bytes, bytes]:
    """The parts of a WAV file by their names, of which the first counts."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        raise ValueError(f"no WAV file; accepted: {ACCEPTED}")
    found: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= len(raw):
        name, (size,) = raw[place : place + 4], struct.unpack_from("<I", raw, place + 4)
        content = raw[place + 8 : place + 8 + size]
        if name == b"data" and len(content) < size:
            raise ValueError(f"cut short: {len(content):,} bytes of samples, of {size:,}")
        found.setdefault(name, content)
        place += 8 + size + size % 2
    return found


def _numbers(raw: bytes, kind: int, bits: int) -> Float[np.ndarray, " n"]:
    if kind == FLOATING:
        return np.frombuffer(raw, f"<f{bits // 8}").astype(np.float64)
    if bits == 8:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 2**7
    if bits == 24:  # the upper bytes of 32 bits
        low_first = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        wide = np.concatenate([np.zeros_like(low_first[:, :1]), low_first], axis=1)
        return wide.reshape(-1).view("<i4") / 2**31
    return np.frombuffer(raw, f"<i{bits // 8}").astype(np.float64) / 2 ** (bits - 1)


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

"""Any folder of WAV files, as spectrograms; sub-folders, when there are any, are the labels, or a table `labels.csv` is."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float

from case_jax.audio import Stft, spectrogram
from case_jax.audio.wav import fitted, read_wav
from case_jax.data.folder import LabelledFolder
from case_jax.source import Example, UnreadableImageError

SUFFIXES = (".wav",)


def read_sound(
    path: Path, how: Stft, samples: int, *, name: str | None = None
) -> tuple[Float[np.ndarray, " L"], tuple[str, ...]]:
    """A WAV file as a classifier's sound, and what was done to it, see `audio.wav.fitted`.

    Raises:
        UnreadableImageError: when the file is missing or no WAV file that can be read; `name` (by default the file's) says which.
    """
    try:
        return fitted(read_wav(path), how.rate, samples)
    except (OSError, ValueError) as error:
        raise UnreadableImageError(path.name if name is None else name, str(error)) from error


class SoundFolder(LabelledFolder):
    """The WAV files below a folder as spectrograms, in sorted order of their paths.

    Args:
        root: the folder, see `LabelledFolder`.
        class_names: the classifier's classes; None takes the names of the sub-folders, in sorted order.
        stft: how spectrograms are made.
        samples: how long a sound is; files of another length or rate are changed, which runs count.

    Raises:
        CaseJaxError: as `LabelledFolder`.
    """

    def __init__(self, root: str | Path, class_names: tuple[str, ...] | None, *, stft: Stft, samples: int):
        super().__init__(root, class_names, SUFFIXES, what="sounds")
        self.stft, self.samples = stft, samples

    @property
    def fingerprint(self) -> str:
        """A digest of the spectrogram and of every file's relative path, label, size and time of change."""
        return self._digest(hashlib.sha256(f"{tuple(self.stft)} {self.samples}".encode()))

    def sound(self, index: int) -> Float[np.ndarray, " L"]:
        """Sound `index` as the classifier hears it."""
        return read_sound(self.files[index], self.stft, self.samples, name=self._name(index))[0]

    def __getitem__(self, index: int) -> Example:
        """Sound `index`; raises `UnreadableImageError` when it cannot be read."""
        sound, changes = read_sound(self.files[index], self.stft, self.samples, name=self._name(index))
        image = spectrogram(sound, self.stft)
        return self._example(index, image, changes)

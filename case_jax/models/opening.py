"""Data as a classifier wants them."""

from case_jax.data import Exif, open_sounds, open_source
from case_jax.models.preprocessing import Preprocessing, SoundPreprocessing
from case_jax.source import Source


def open_for(
    data: str,
    class_names: tuple[str, ...] | None,
    facts: Preprocessing | SoundPreprocessing,
    *,
    exif: Exif = "ignore",
    size: int | None = None,
    seed: int = 0,
) -> Source:
    """The data set of this name, preprocessed by a classifier's own facts: `open_source` for images, `open_sounds` for sounds.

    Args:
        data: as there.
        class_names: the classifier's classes; None takes the data's own.
        facts: how its images or sounds are read.
        exif: as `open_source`; sounds have none.
        size: number of scenes or mosaics; other data sets have their own size.
        seed: which of them.

    Raises:
        CaseJaxError: for data that do not exist, or are not for such a classifier.
    """
    if isinstance(facts, SoundPreprocessing):
        return open_sounds(data, class_names, stft=facts.stft, samples=facts.samples, size=size, seed=seed)
    how = {"resize": facts.resize, "crop": facts.crop, "interpolation": facts.interpolation}
    return open_source(data, class_names, **how, exif=exif, size=size, seed=seed)

"""A page that plays what the maps of one sound keep and leave."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from case_jax.audio import Stft
from case_jax.files import write_atomically
from case_jax.report.listening import players_of
from case_jax.report.page import template

if TYPE_CHECKING:
    from case_jax.evaluation.explain import Explanation


def write_listening(
    file: Path,
    found: "Explanation",
    sound: Float[np.ndarray, " L"],
    titles: Sequence[str],
    class_names: Sequence[str],
    how: Stft,
) -> Path:
    """Write a page that plays a sound and what every method's map of every target keeps and leaves of it; returns the file.

    Args:
        file: where to.
        found: the maps of the sound.
        sound: its samples.
        titles: one per method.
        class_names: names of all classes.
        how: the spectrogram is made.
    """
    maps = {
        f"{title}, {class_names[int(target)]}": found.maps[m, t]
        for m, title in enumerate(titles)
        for t, target in enumerate(found.targets)
        if not found.degenerate[m, t]
    }
    playing = players_of(found.example.name, sound, maps, how)
    html = template("heard").render(title=f"{found.example.name}: what maps keep of it", listening=[playing])
    write_atomically(file, html.encode())
    return file

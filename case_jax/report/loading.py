"""A run folder as the report needs it: rows, configuration, contrast sets, gallery."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8

from case_jax._checks import CaseJaxError
from case_jax.audio import Stft
from case_jax.metric_column import MetricColumn
from case_jax.report.spectrogram import upright, upright_pixels
from case_jax.results import RunFolder

Numbers = dict[str, dict[str, Any]]
"""`Summary.table` as method → column → number; a group of columns is absent where the run lacks its metric."""


class Method(NamedTuple):
    """A method of the run and what a reader of a table must know about it."""

    name: str
    title: str
    control: bool
    contrastive: bool
    options: dict[str, Any]
    class_blind: bool = False


class Gallery(NamedTuple):
    """A few images with all methods' finished maps of their two likeliest classes."""

    images: UInt8[np.ndarray, "n H W 3"]
    maps: Float[np.ndarray, "n M 2 H W"]
    degenerate: Bool[np.ndarray, "n M 2"]
    names: np.ndarray
    labels: Int[np.ndarray, "n L"]
    """All true labels of each image, −1 where it has fewer than L."""
    targets: Int[np.ndarray, "n 2"]
    probabilities: Float[np.ndarray, "n 2"]
    regions: Bool[np.ndarray, "n R H W"]
    region_classes: Int[np.ndarray, "n R"]
    methods: np.ndarray
    sounds: Float[np.ndarray, "n L"] | None = None
    """Of a run of sounds, whose images are spectrograms."""
    stft: Stft | None = None


class Run(NamedTuple):
    """All that a run folder holds."""

    path: Path
    rows: pd.DataFrame
    """Empty for a study that keeps sums alone."""
    done: int
    """Images that are done."""
    config: dict[str, Any]
    contrast: dict[str, Any]
    sessions: list[dict[str, Any]]
    excluded: list[dict[str, Any]]
    methods: list[Method]
    gallery: Gallery | None
    metric_columns: dict[str, list[MetricColumn]]
    """What metrics describe themselves, by the name of the metric."""
    changed: Mapping[str, int] = {}
    """How many images had to be changed to be shown, by what was done to them."""

    def class_name(self, index: int) -> str:
        """The name of a class, or its number where the run knows no names."""
        names = self.contrast.get("class_names") or []
        return str(names[index]) if 0 <= index < len(names) else f"class {index}"


def numbers_of(table: pd.DataFrame) -> Numbers:
    """A table indexed by method, as plain numbers."""
    return {
        str(name): {str(column): value for column, value in row.items()}
        for name, row in table.to_dict(orient="index").items()
    }


def methods_of(config: dict[str, Any]) -> list[Method]:
    """The methods of a run, in its order, as its configuration describes them."""
    return [
        Method(
            name,
            facts.get("title", name),
            facts.get("control", False),
            facts.get("contrastive", False),
            facts.get("options", {}),
            facts.get("class_blind", False),
        )
        for name, facts in config["methods"].items()
    ]


def _gallery(file: Path, how: Stft | None) -> Gallery | None:
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as stored:
        fields = {field: stored[field] for field in Gallery._fields if field in stored}
        gallery = Gallery(**fields | {"labels": fields["labels"].reshape(len(fields["names"]), -1)})
    if not len(gallery.images):
        return None
    return gallery if how is None else _heard(gallery, how)


def _heard(gallery: Gallery, how: Stft) -> Gallery:
    """A gallery of spectrograms as pictures are drawn: time to the right, frequency upwards."""
    assert gallery.sounds is not None, "a run of sounds keeps them"
    return gallery._replace(
        images=upright_pixels(gallery.images),
        maps=upright(gallery.maps),
        regions=upright(gallery.regions),
        stft=how,
    )


def sessions_of(folder: Path) -> list[dict[str, Any]]:
    """What is known of the times when a run was worked on, the last one last."""
    lines = (folder / "sessions.jsonl").read_text().splitlines()
    return [session for line in lines if (session := _session(line))]


def _session(line: str) -> dict[str, Any] | None:
    """One line of the log, or None where a crash tore it."""
    try:
        session = json.loads(line)
    except ValueError:
        return None
    return session if isinstance(session, dict) else None


def load_run(path: str | Path, *, done: int | None = None) -> Run:
    """Read a run folder.

    Args:
        path: the folder.
        done: images that are done, where the folder holds no rows to count.

    Raises:
        CaseJaxError: when it is no run folder, has no rows yet, or one of its files is missing or damaged.
    """
    folder = RunFolder(path)
    config, rows = folder.config(), folder.rows() if done is None else pd.DataFrame()
    try:
        contrast = json.loads((folder.path / "contrast.json").read_text())
        sessions = sessions_of(folder.path)
        how = config["data"].get("stft")
        gallery = _gallery(folder.path / "gallery.npz", None if how is None else Stft(**how))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CaseJaxError(f"run: {folder.path} cannot be read ({error}); run the same command again.") from error
    described = {
        name: [MetricColumn(**facts) for facts in found] for name, found in config.get("metric_columns", {}).items()
    }
    done = rows["image_id"].nunique() if done is None else done
    excluded, changed = folder.excluded(), folder.changed()
    return Run(
        folder.path, rows, done, config, contrast, sessions, excluded, methods_of(config), gallery, described, changed
    )

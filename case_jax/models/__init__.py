"""Classifiers: bundled networks, filled with weights from a package, a file or the hub; `MODELS` is the only dispatch."""

from case_jax.models.applications import Application
from case_jax.models.classifier import Classifier, load_classifier, with_new_head
from case_jax.models.entries import MODELS, ModelEntry, model
from case_jax.models.loaded import LoadedModel
from case_jax.models.opening import open_for
from case_jax.models.preprocessing import Preprocessing, SoundPreprocessing
from case_jax.models.tapping import load, tap_classifier
from case_jax.models.weights import load_weights, save_weights

__all__ = [
    "MODELS",
    "Application",
    "Classifier",
    "LoadedModel",
    "ModelEntry",
    "Preprocessing",
    "SoundPreprocessing",
    "load",
    "load_classifier",
    "load_weights",
    "model",
    "open_for",
    "save_weights",
    "tap_classifier",
    "with_new_head",
]

"""Data sets: sequences of images with stable ids; `opening` reads the names that the shell accepts."""

from case_jax.data.cifar100 import prepare_cifar100
from case_jax.data.crops import CachedCrops
from case_jax.data.decoding import EXIF, Exif
from case_jax.data.digit_scenes import DigitScenes
from case_jax.data.folder import ImageFolder, read_crop
from case_jax.data.imagenet import add_boxes, prepare_imagenet
from case_jax.data.opening import DATASETS, alike, open_sounds, open_source, require_outside, require_side
from case_jax.data.photos import PhotoMosaics, Photos
from case_jax.data.preprocess import INTERPOLATIONS, Crop, box_region, crop_encoded, crop_opened, preprocess
from case_jax.data.scene_options import options_of
from case_jax.data.sound_folder import SoundFolder, read_sound
from case_jax.data.sound_scenes import SoundScenes
from case_jax.data.tfds_images import TfdsImages
from case_jax.source import (
    NOBODY,
    SHARED,
    Audible,
    Evidence,
    Example,
    Located,
    Photographs,
    Source,
    Truth,
    UnreadableImageError,
)

__all__ = [
    "DATASETS",
    "EXIF",
    "INTERPOLATIONS",
    "NOBODY",
    "SHARED",
    "Audible",
    "CachedCrops",
    "Crop",
    "DigitScenes",
    "Evidence",
    "Example",
    "Exif",
    "ImageFolder",
    "Located",
    "PhotoMosaics",
    "Photographs",
    "Photos",
    "SoundFolder",
    "SoundScenes",
    "Source",
    "TfdsImages",
    "Truth",
    "UnreadableImageError",
    "add_boxes",
    "alike",
    "box_region",
    "crop_encoded",
    "crop_opened",
    "open_sounds",
    "open_source",
    "options_of",
    "prepare_cifar100",
    "prepare_imagenet",
    "preprocess",
    "read_crop",
    "read_sound",
    "require_outside",
    "require_side",
]

"""Networks fine-tuned on CIFAR-100, as in the CASE paper's study of seeds (its public code, `ablation/train_model.py`).

From ImageNet's weights with a fresh last layer: 20 epochs of batches of 32 by Adam (learning rate 1e-5, L2 5e-4), images of 224×224 pixels in
random shifts of up to 4 pixels, mirrored both ways, and turned by up to 45°. Deviation: the last epoch's network is taken; the public code
keeps a reference to the model that goes on learning where it means to keep the best one, which comes to the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import UInt8
from PIL import Image

from case_jax.data import TfdsImages
from case_jax.models import Classifier, Preprocessing, load_classifier, with_new_head
from case_jax.source import Example
from case_jax.training import Examples, Recipe
from experiments.families import trained

PIXELS = Preprocessing(224, 224, (0.509, 0.487, 0.442), (0.202, 0.200, 0.204))
EPOCHS, BATCH, RATE, DECAY = 20, 32, 1e-5, 5e-4
SHIFT, TURN = 4, 45.0
QUICK_STEPS, QUICK_BATCH = 2, 4


class Shaken:
    """CIFAR-100's training images, shown as the public code shows them."""

    def __init__(self, source: TfdsImages):
        self._source = source
        self.name, self.class_names, self.fingerprint = source.name, source.class_names, source.fingerprint

    def __len__(self) -> int:
        """Number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """The image as it is."""
        return self._source[index]

    def random_view(self, index: int, rng: np.random.Generator, /) -> Example:
        """The image shifted, mirrored and turned."""
        example = self._source[index]
        return example._replace(image=shaken(example.image, rng))


def shaken(image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Shifted by up to 4 pixels, mirrored left to right and upside down half of the time each, turned by up to 45°; black comes in."""
    height, width = image.shape[:2]
    top, left = rng.integers(0, 2 * SHIFT + 1, 2)
    moved = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))[top : top + height, left : left + width]
    moved = moved[:, :: rng.choice((-1, 1))][:: rng.choice((-1, 1))]
    return np.asarray(Image.fromarray(np.ascontiguousarray(moved)).rotate(rng.uniform(-TURN, TURN)))


def fine_tuned(name: str, weights: str | None, seed: int, folder: Path, *, quick: bool = False) -> Classifier:
    """A network fine-tuned on `tfds:cifar100:train`, now or before in this folder; the same call resumes.

    Args:
        name: of a bundled network.
        weights: of ImageNet; None takes the network's default.
        seed: of the fresh layer, the order and the views.
        folder: where the training is kept.
        quick: two steps, to prove that it runs.

    Raises:
        CaseJaxError: when data or weights are missing, or the folder holds another training.
    """
    source = Shaken(TfdsImages("cifar100", "train", resize=PIXELS.resize, crop=PIXELS.crop))
    classifier = with_new_head(load_classifier(name, weights=weights), source.class_names, seed=seed)
    steps = EPOCHS * len(source) // BATCH
    recipe = Recipe(QUICK_STEPS, QUICK_BATCH, seed) if quick else Recipe(steps, BATCH, seed, save_every=2000)
    config: dict[str, Any] = {
        "network": name, "weights": classifier.weights, "data": source.fingerprint, "rate": RATE, "decay": DECAY,
    }  # fmt: skip
    optimiser = optax.chain(optax.add_decayed_weights(DECAY), optax.adam(RATE))
    fresh = classifier._replace(preprocessing=PIXELS, preprocessing_source="as in the CASE paper's study")
    return trained(fresh, optimiser, Examples(source, seed=seed, augment=True), recipe, folder, config)

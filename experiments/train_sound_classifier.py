"""Train the default classifier of sounds on sound scenes and write the checkpoint that ships inside the package.

Question   Do soft targets make the two candidate classes of a sound scene compete, as on digit scenes?
Command    python -m experiments.train_sound_classifier
Cost       about 7 minutes of one CPU core
Expected   test scenes: the loud marker's class first in 99.8%, the soft marker's second in 99.8%; a rerun within one point
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro
from flax import nnx

from case_jax.data.sound_scenes import SoundScenes
from case_jax.models import MODELS, Classifier, save_weights
from case_jax.training import Examples, Recipe
from case_jax.training.classifier import adamw
from experiments.families import trained

NAME = "sound_cnn"


@dataclasses.dataclass(frozen=True)
class Config:
    """The run that made the shipped checkpoint."""

    steps: int = 1000
    batch: int = 32
    scenes: int = 20_000
    rate: float = 4e-3
    seed: int = 0
    test: int = 2000
    """Scenes on which the accuracy is measured."""
    folder: Path = Path("runs/train_sound_classifier")
    """Log and checkpoints of the training; the same command resumes it."""
    output: Path = Path("runs/sound_cnn.safetensors")


def sound_network(config: Config) -> Classifier:
    """The network of a seed, trained now or before."""
    entry = MODELS[NAME]
    assert entry.class_names is not None
    net = entry.build(entry.num_classes, rngs=nnx.Rngs(config.seed))
    words, facts = f"trained here, seed {config.seed}", entry.default_preprocessing
    fresh = Classifier(NAME, entry, net, words, {}, facts, "as sound scenes are made", entry.class_names)
    examples = Examples(SoundScenes("train", config.scenes, seed=config.seed), seed=config.seed)
    recipe = Recipe(config.steps, config.batch, config.seed, log_every=min(100, config.steps), save_every=100)
    optimiser, said = adamw(config.steps, rate=config.rate), dataclasses.asdict(config)
    asked = {name: said[name] for name in ("steps", "batch", "scenes", "rate", "seed")}
    return trained(fresh, optimiser, examples, recipe, config.folder / str(config.seed), asked)


def score(classifier: Classifier, size: int) -> dict[str, float]:
    """How often the loud marker's class is first, and the soft marker's second, on test scenes."""
    scenes, answer = SoundScenes("test", size), jax.jit(nnx.merge(*nnx.split(classifier.module)))
    images = (
        np.stack([scenes.image(i) for i in range(first, min(first + 100, size))]) for first in range(0, size, 100)
    )
    order = np.argsort(-np.concatenate([answer(batch) for batch in images]), axis=1)
    wanted = np.argsort(-np.stack([scenes.target(i) for i in range(size)]), axis=1, kind="stable")
    return {
        "accuracy": float((order[:, 0] == wanted[:, 0]).mean()),
        "rival_second": float((order[:, 1] == wanted[:, 1]).mean()),
    }


def main(config: Config) -> None:
    """Train, report, and write the weights."""
    classifier = sound_network(config)
    result = score(classifier, config.test)
    print(f"test: {result}")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    save_weights(config.output, classifier.module, metadata={"architecture": NAME, **result})
    print(f"wrote {config.output} ({config.output.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main(tyro.cli(Config))

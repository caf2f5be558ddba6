"""CASE of one class and of all classes of a full-size ResNet-50, beside its authors' procedure in PyTorch with the same weights.

Question   What does it save to differentiate the tail only, and in closed form for all classes at once?
Command    pip install ".[bench]" && python -m experiments.benchmarks.case_peer [--quick] [--out FILE.json]
Cost       about two minutes on 2 CPU cores
Expected   one class ≥ 5 × faster; all 1,000 classes ≥ 10,000 × (theirs timed for one class, 1,000 of which are 1,000 times that); maps equal
"""

import dataclasses
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tabulate import tabulate

from case_jax import METHODS, all_class_maps
from case_jax.contrast.choice import choose_contrast
from case_jax.methods import top_class_maps
from case_jax.models import tap_classifier
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.torch_peers import official_case, peer_versions, torch_pair


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    repeats: int = 7
    """Rounds of which the median is taken; all take turns."""
    batch: int = 8
    """Images at once where all classes are asked for."""
    quick: bool = False
    """ResNet-18 at 64×64, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    import torch  # type: ignore[import-not-found]

    name, side, layer = ("resnet18", 64, "layer4.1") if config.quick else ("resnet50", 224, "layer4.2")
    images = np.random.default_rng(0).normal(size=(config.batch, side, side, 3)).astype(np.float32)
    network, classifier = torch_pair(name)
    model = tap_classifier(classifier, jnp.asarray(images[0]), layer=layer)
    contrast = choose_contrast("topk_logits:5", model.num_classes).sets
    case = METHODS["case"].maps
    one = jax.jit(lambda params, x: top_class_maps(case, model, params, x, contrast=contrast, top=1))
    everything = jax.jit(jax.vmap(partial(all_class_maps, case, model, contrast=contrast), (None, 0)))
    forward = jax.jit(model.apply)

    order = np.argsort(-np.asarray(forward(model.params, images[0])))
    torch_image = torch.from_numpy(images[:1].transpose(0, 3, 1, 2).copy())
    theirs = partial(official_case, network, network.layer4[-1], torch_image, int(order[0]), order[1:6].tolist())
    calls = {
        "official": theirs,
        "one": lambda: jax.block_until_ready(one(model.params, images[0])),
        "all": lambda: jax.block_until_ready(everything(model.params, images)),
    }
    found = {call: function() for call, function in calls.items()}
    times: dict[str, list[float]] = {call: [] for call in calls}
    for _ in range(2 if config.quick else config.repeats):
        for call, function in calls.items():
            start = time.perf_counter()
            function()
            times[call].append(time.perf_counter() - start)
    seconds = {call: statistics.median(values) for call, values in times.items()}
    scale = np.abs(found["official"]).max()
    row = {
        "model": name,
        "official_one_class_ms": 1e3 * seconds["official"],
        "ours_one_class_ms": 1e3 * seconds["one"],
        "times_faster_one_class": seconds["official"] / seconds["one"],
        "ours_all_classes_ms_per_image": 1e3 * seconds["all"] / config.batch,
        "times_faster_all_classes": seconds["official"] * model.num_classes / (seconds["all"] / config.batch),
        "largest_difference_relative": float(np.abs(np.asarray(found["one"])[0] - found["official"]).max() / scale),
    }
    print(tabulate([row], headers="keys", floatfmt=".3g"))
    result = {
        **circumstances(peers=peer_versions()),
        "repeats": config.repeats,
        "case": [row],
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

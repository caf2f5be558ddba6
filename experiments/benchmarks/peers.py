"""Ablation-CAM and Score-CAM on a full-size ResNet-50, beside pytorch-grad-cam with the same weights in the same process.

Question   What does re-running only the tail, in closed form, save? Does Score-CAM run at the rate of its forward passes?
Command    pip install ".[bench]" && python -m experiments.benchmarks.peers [--quick] [--out FILE.json]
Cost       about eight minutes on 2 CPU cores, most of it pytorch-grad-cam's 2,048 and our own 2,048 forward passes
Expected   Ablation-CAM ≥ 200 × pytorch-grad-cam; Score-CAM ≥ 0.9 of the forward rate; maps equal to 2e-4
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tabulate import tabulate

from case_jax import METHODS, ask, finish_maps
from case_jax.imageops import rescale_map
from case_jax.models import tap_classifier
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.timing import interleaved
from experiments.benchmarks.torch_peers import peer_ablation, peer_versions, torch_pair


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    repeats: int = 5
    """Rounds of which the median is taken; the two long ones run once."""
    quick: bool = False
    """ResNet-18 at 64×64, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    name, side = ("resnet18", 64) if config.quick else ("resnet50", 224)
    image = np.random.default_rng(0).normal(size=(side, side, 3)).astype(np.float32)
    network, classifier = torch_pair(name)
    model = tap_classifier(classifier, jnp.asarray(image), layer="layer4.2" if name == "resnet50" else "layer4.1")
    batch, channels = model.chunk, model.activation_shape[-1]

    def maps(method: str, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        view = model.view(params, x)
        target = jnp.argmax(view.logits)
        return METHODS[method].maps(view, ask(view, target[None]))[0], target

    def compiled(function: Any, *shapes: jax.Array) -> Any:
        return partial(jax.jit(function).lower(model.params, *shapes).compile(), model.params, *shapes)

    one, many = jnp.asarray(image), jnp.asarray(np.broadcast_to(image, (batch, *image.shape)))
    ablation = compiled(partial(maps, "ablation_cam"), one)
    score = compiled(partial(maps, "score_cam"), one)
    forward = compiled(jax.vmap(model.apply, (None, 0)), many)
    single = compiled(model.apply, one)
    lowres, target = ablation()
    peer_map, peer_seconds = peer_ablation(network, image, int(target))
    ours = np.asarray(rescale_map(finish_maps(lowres[None], (side, side)))[0])
    fast = interleaved({"ablation": ablation, "single": single}, config.repeats)
    # The forward passes that Score-CAM needs, before and after it, so that both meet the same disturbances.
    rounds = -(-channels // batch)
    interleaved({"warm": forward}, 1)
    laps = []
    for work in ([forward] * (rounds // 2), [score], [forward] * (rounds - rounds // 2)):
        start = time.perf_counter()
        for call in work:
            jax.block_until_ready(call())
        laps.append(time.perf_counter() - start)
    row = {
        "model": name,
        "forward_ms": 1e3 * fast["single"],
        "ablation_cam_ms": 1e3 * fast["ablation"],
        "pytorch_grad_cam_ablation_ms": 1e3 * peer_seconds,
        "times_faster": peer_seconds / fast["ablation"],
        "largest_difference_of_final_maps": float(np.abs(ours - peer_map).max()),
        "score_cam_s": laps[1],
        "score_cam_rate_over_forward_rate": (laps[0] + laps[2]) / laps[1],
    }
    print(tabulate([row], headers="keys", floatfmt=".3g"))
    result = {
        **circumstances(peers=peer_versions()),
        "peers": [row],
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

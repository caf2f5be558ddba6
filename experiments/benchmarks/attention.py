"""What maps of transformers' methods cost: per class, against a forward pass, and in memory for all classes.

Question   What do gradient rollout and LeGrad of all classes cost in a ViT-B/16, and does their memory stay bounded?
Command    python -m experiments.benchmarks.attention [--quick] [--out FILE.json]
Cost       about five minutes of CPU time
Expected   a class: at most three forward passes; memory the same for 100 and for 1,000 classes but for the maps themselves
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from tabulate import tabulate

from case_jax import ask, tap_nnx
from case_jax.evaluation.cost import flops
from case_jax.methods import METHODS
from case_jax.models.vit import VisionTransformer
from case_jax.tap.view import TappedModel
from experiments.benchmarks.networks import random_network
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.timing import interleaved, temporary_bytes

COMPARED = ("attention_rollout", "gradient_rollout", "le_grad", "libra_grad", "grad_cam")


@dataclasses.dataclass(frozen=True)
class Config:
    """How many classes are timed, and how many are held in memory at once."""

    model: str = "vit_base_patch16_224"
    """A vision transformer of 14×14 patches and 12 blocks from `case-jax list models`."""
    methods: tuple[str, ...] = COMPARED
    """Names from `case-jax list methods`."""
    chunk: int = 16
    """Classes whose gradients are in memory at once."""
    timed: int = 32
    """Classes that are timed; the time of all is in proportion, chunk by chunk. 0 times nothing and counts operations alone."""
    memory: tuple[int, ...] = (100, 1000)
    """Numbers of classes for which a program is compiled and asked for its memory."""
    repeats: int = 3
    """Rounds of which the median is taken."""
    quick: bool = False
    """A tiny network, one round, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def tapped(config: Config) -> TappedModel:
    """The network with random weights, or a tiny one, tapped at its last block's first normalisation."""
    if config.quick:
        sizes: dict[str, Any] = {
            "width": 16,
            "depth": 2,
            "heads": 2,
            "hidden": 16,
            "patch": 8,
            "image_size": 32,
            "num_classes": 1000,
        }
        module, size, last = VisionTransformer(**sizes, rngs=nnx.Rngs(0)), 32, 1
    else:
        module, size, last = random_network(config.model), 224, 11
    image, side = jax.random.normal(jax.random.key(0), (size, size, 3)), 4 if config.quick else 14
    options = {"token_grid": (side, side), "prefix_tokens": 1, "chunk": config.chunk, "check": False}
    return tap_nnx(module, f"encoder.layers.encoder_layer_{last}.ln_1", image, **options)


def maps_of(model: TappedModel, name: str, classes: int, params: Any, image: jax.Array) -> jax.Array:
    """Maps of the first so many classes."""
    view = model.view(params, image)
    return METHODS[name].maps(view, ask(view, jnp.arange(classes)))


def measure(config: Config, model: TappedModel) -> list[dict[str, Any]]:
    """One row a method: operations and time of a class in forward passes, and memory of a program by its number of classes."""
    image = jax.random.normal(jax.random.key(1), model.image_shape)

    def of(name: str, classes: int) -> Any:
        return jax.jit(partial(maps_of, model, name, classes))

    def operations(function: Any) -> float:
        return flops(jax.make_jaxpr(function)(model.params, image).jaxpr)

    def compiled(function: Any) -> Any:
        return function.lower(model.params, image).compile()

    forward, seconds = jax.jit(model.apply), {}
    if config.timed:
        programs = {"forward": compiled(forward)} | {n: compiled(of(n, config.timed)) for n in config.methods}
        calls = {name: partial(run, model.params, image) for name, run in programs.items()}
        seconds = interleaved(calls, 1 if config.quick else config.repeats)
        print(f"forward pass: {seconds['forward']:.3f} s", flush=True)
    rows = []
    for name in config.methods:
        count = model.num_classes
        found = {"method": name, "passes_by_operations": operations(of(name, count)) / operations(forward) / count}
        if seconds:
            found["passes_by_time"] = seconds[name] / seconds["forward"] / config.timed
        rows.append(found | {f"MB_{n}_classes": temporary_bytes(compiled(of(name, n))) / 1e6 for n in config.memory})
        print(*rows[-1].values(), flush=True)
    return rows


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    rows = measure(config, tapped(config))
    print(tabulate(rows, headers="keys", floatfmt=".3g"))
    print(f"Forward passes are for one class; {config.chunk} classes are in memory at once.")
    return recorded(
        {**circumstances(), "model": config.model, "chunk": config.chunk, "timed": config.timed, "attention": rows},
        config.out,
    )


if __name__ == "__main__":
    main(tyro.cli(Config))

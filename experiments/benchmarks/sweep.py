"""What a sweep over all pairs of 1,000 classes costs, and whether its memory stays within the setting.

Question   How much dearer than a forward pass is counting all pairs? Are bits counted or multiplied? Is memory what was asked for?
Command    python -m experiments.benchmarks.sweep [--quick] [--out FILE.json]
Cost       about ten minutes on 2 CPU cores; weights are random, which changes no time
Expected   extra temporary memory at most the setting and the packed masks; products faster than counted bits
"""

import dataclasses
import json
import math
import platform
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Int, UInt32
from tabulate import tabulate

from case_jax import METHODS, finish_maps, parallel, topk_logits
from case_jax.evaluation.pair_counts import BYTES_A_PIXEL, empty_counts, make_counting_step, pairs_in
from case_jax.evaluation.run import versions
from case_jax.evaluation.step import Batch, Pixels, Protocol
from case_jax.evaluation.sweep import MEMORY
from case_jax.imageops import normalise_image
from case_jax.models import model as entry_of
from case_jax.ranking import pixel_count, shared_pixels, top_words
from case_jax.tap import TappedModel, tap_nnx
from experiments.benchmarks.core import interleaved, today
from experiments.benchmarks.networks import random_network

PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the benchmark."""

    model: str = "resnet50"
    """A name from `case-jax list models`, tapped at the CASE paper's layer."""
    side: int = 224
    """Height and width of the images."""
    tile: int = 8
    """Images a step."""
    repeats: int = 5
    """Rounds of which the median is taken."""
    quick: bool = False
    """ResNet-18, one image of 64×64, one round, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def counted_bits(rows: UInt32[Array, "R W"], columns: UInt32[Array, "C W"], *, block: int = 32) -> Int[Array, "R C"]:
    """`shared_pixels` the other way: bits of `rows & columns`, a block of words at a time."""

    def blocks(words: Array) -> Array:
        return jnp.moveaxis(words.reshape(len(words), -1, block), 1, 0)

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        both = pair[0][:, None] & pair[1][None]
        return total + jax.lax.population_count(both).astype(jnp.int32).sum(-1), None

    start = jnp.zeros((len(rows), len(columns)), jnp.int32)
    return jax.lax.scan(add, start, (blocks(rows), blocks(columns)))[0]


def compiled_step(model: TappedModel, methods: tuple[str, ...], images: np.ndarray, *, top: int, memory: int) -> Any:
    """The step of a sweep on one device, compiled, with the arguments for one call."""
    shape, count = images.shape[1:3], len(images)
    size = {"shape": shape, "tile": count, "methods": len(methods), "gradients": model.chunk}
    pairs = pairs_in(memory, top=top, pixels=pixel_count(5.0, shape), **size)
    protocol = Protocol({n: METHODS[n].maps for n in methods}, topk_logits(5, model.num_classes), {}, {}, PIXELS)
    step = partial(make_counting_step(protocol, model, pairs), share=parallel.ALONE)
    shapes = empty_counts(len(methods), model.num_classes, 1)
    counts = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    nowhere = np.zeros((count, 0, *shape), bool), np.zeros((count, 0), np.int32)
    batch = Batch(images, np.arange(count, dtype=np.int32), *nowhere)
    return jax.jit(step).lower(counts, model.params, batch).compile(), (counts, model.params, batch)


def steps_against_forward(model: TappedModel, images: np.ndarray, repeats: int) -> list[dict[str, Any]]:
    """All pairs, and pairs among the 20 likeliest classes, beside the plain forward pass."""
    normalised = jnp.stack([normalise_image(image, *PIXELS) for image in images])
    forward = jax.jit(jax.vmap(model.apply, (None, 0))).lower(model.params, normalised).compile()
    functions = {"forward": partial(forward, model.params, normalised)}
    cases = {}
    for methods in (("grad_cam",), ("case",), ("grad_cam", "case")):
        for top in (20, model.num_classes):
            name = f"{' + '.join(methods)}, {'all' if top == model.num_classes else top} classes"
            step, arguments = compiled_step(model, methods, images, top=top, memory=MEMORY)
            functions[name], cases[name] = partial(step, *arguments), {"methods": list(methods), "top": top}
    seconds = interleaved(functions, repeats)
    return [
        {
            **cases.get(name, {"methods": [], "top": 0}),
            "what": name,
            "ms_per_image": 1e3 * seconds[name] / len(images),
            "ratio_to_forward": seconds[name] / seconds["forward"],
        }
        for name in functions
    ]


def parts_of_a_step(classes: int, side: int, repeats: int) -> dict[str, float]:
    """Milliseconds for the maps of all classes of one image: enlarged and ranked, then compared in two ways."""
    rng = np.random.default_rng(0)
    raw = jnp.asarray(np.maximum(rng.standard_normal((classes, 7, 7), np.float32), 0))
    shape, count = (side, side), pixel_count(5.0, (side, side))

    @jax.jit
    def ranked(raw: Array) -> Array:
        return jax.lax.map(lambda m: top_words(finish_maps(m, shape), count), raw, batch_size=min(classes, 40))

    words = ranked(raw)
    product, bits = jax.jit(shared_pixels), jax.jit(counted_bits)
    assert bool((product(words, words) == bits(words, words)).all()), "the two ways disagree"
    seconds = interleaved(
        {
            "enlarge_and_rank_ms": lambda: ranked(raw),
            "int8_products_ms": lambda: product(words, words),
            "counted_bits_ms": lambda: bits(words, words),
        },
        repeats,
    )
    return {name: 1e3 * value for name, value in seconds.items()}


def memory_against_setting(model: TappedModel, images: np.ndarray, settings: tuple[int, ...]) -> list[dict[str, float]]:
    """Temporary memory of the step, all pairs of two methods, beside that of the forward pass."""
    normalised = jnp.zeros(images.shape, jnp.float32)
    forward = jax.jit(jax.vmap(model.apply, (None, 0))).lower(model.params, normalised).compile()
    words = len(images) * model.num_classes * images.shape[1] * images.shape[2] / 8
    rows = []
    for memory in settings:
        step, _ = compiled_step(model, ("grad_cam", "case"), images, top=model.num_classes, memory=memory)
        rows.append(
            {
                "setting_mb": memory / 1e6,
                "temporary_mb": temporary(step) / 1e6,
                "of_the_forward_pass_mb": temporary(forward) / 1e6,
                "packed_masks_mb": words / 1e6,
                "all_maps_would_be_mb": 2 * words * 32 / 1e6,
            }
        )
    return rows


def temporary(compiled: Any) -> float:
    """Bytes, where the platform tells."""
    return getattr(compiled.memory_analysis(), "temp_size_in_bytes", math.nan)


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    if config.quick:
        config = dataclasses.replace(config, model="resnet18", side=64, tile=1, repeats=1)
    images = np.random.default_rng(0).integers(0, 256, (config.tile, config.side, config.side, 3), np.uint8)
    entry = entry_of(config.model)
    layer = list(entry.taps.layers)[-1]
    shape = jnp.zeros(images.shape[1:])
    model = tap_nnx(random_network(config.model), layer, shape, **entry.taps.options(layer))
    least = 2 * config.tile * config.side**2 * BYTES_A_PIXEL
    settings = (least, 4 * least, MEMORY, 4 * MEMORY)
    result = {
        "date": today(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "devices": parallel.device_names(),
        "versions": versions(),
        "model": config.model,
        "layer": layer,
        "images": list(images.shape),
        "repeats": config.repeats,
        "steps": steps_against_forward(model, images, config.repeats),
        "parts": parts_of_a_step(model.num_classes, config.side, config.repeats),
        "memory": memory_against_setting(model, images, settings),
    }
    for table in ("steps", "memory"):
        print(tabulate(result[table], headers="keys", floatfmt=".3g"), end="\n\n")
    print(tabulate([result["parts"]], headers="keys", floatfmt=".3g"))
    if config.out:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main(tyro.cli(Config))

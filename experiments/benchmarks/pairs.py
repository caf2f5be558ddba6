"""What a sweep over all pairs of 1,000 classes costs, and whether its memory stays within the setting.

Question   How much dearer than a forward pass is counting all pairs? Are bits counted or multiplied? Is memory what was asked for?
Command    python -m experiments.benchmarks.pairs [--quick] [--out FILE.json]
Cost       about ten minutes on 2 CPU cores; weights are random, which changes no time
Expected   temporary memory of counting at most the setting and a few packed masks; products faster than counted bits
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Int, UInt32
from tabulate import tabulate

from case_jax import finish_maps, tag, tap_function
from case_jax.evaluation.studies.pair_counts import BYTES_A_PIXEL
from case_jax.evaluation.studies.pairs import MEMORY
from case_jax.imageops import normalise_image
from case_jax.models import model as entry_of
from case_jax.ranking import pixel_count, shared_pixels, top_words
from case_jax.tap import TappedModel, tag_head_input, tap_nnx
from experiments.benchmarks.counting_step import PIXELS, compiled_step
from experiments.benchmarks.random_network import random_network
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.timing import interleaved, temporary_bytes


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


def steps_against_forward(
    model: TappedModel, images: np.ndarray, groups: tuple[tuple[str, ...], ...], repeats: int
) -> list[dict[str, Any]]:
    """All pairs, and pairs among the 20 likeliest classes, beside the plain forward pass, for each group of methods."""
    normalised = jnp.stack([normalise_image(image, *PIXELS) for image in images])
    forward = jax.jit(jax.vmap(model.apply, (None, 0))).lower(model.params, normalised).compile()
    functions = {"forward": partial(forward, model.params, normalised)}
    cases = {}
    for methods in groups:
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


def pooled(classes: int, side: int) -> TappedModel:
    """A classifier that takes next to no memory itself: means of 32 × 32 pixels and a linear head."""

    def function(params: Array, x: Array) -> Array:
        cells = x.reshape(side // 32, 32, side // 32, 32, 3).mean((1, 3))
        return tag_head_input(tag(cells, "cells").mean((0, 1))) @ params

    params = jax.random.normal(jax.random.key(0), (3, classes))
    return tap_function(function, params, "cells", jnp.zeros((side, side, 3)), head_kernel=lambda p: p)


def memory_against_setting(images: np.ndarray, classes: int, settings: tuple[int, ...]) -> list[dict[str, float]]:
    """Temporary memory of counting alone: all pairs of two methods, one asked about all classes together, one in chunks."""
    model, masks = pooled(classes, images.shape[1]), len(images) * classes * images.shape[1] * images.shape[2] / 8
    rows = []
    for memory in settings:
        step, _ = compiled_step(model, ("grad_cam", "random"), images, top=classes, memory=memory)
        rows.append(
            {
                "setting_mb": memory / 1e6,
                "temporary_mb": temporary_bytes(step) / 1e6,
                "packed_masks_of_a_method_mb": masks / 1e6,
                "all_maps_of_a_method_mb": masks * 32 / 1e6,
            }
        )
    return rows


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    if config.quick:
        config = dataclasses.replace(config, model="resnet18", side=64, tile=1, repeats=1)
    images = np.random.default_rng(0).integers(0, 256, (config.tile, config.side, config.side, 3), np.uint8)
    entry = entry_of(config.model)
    layer = list(entry.taps.layers)[-1]
    shape = jnp.zeros(images.shape[1:])
    model = tap_nnx(random_network(config.model), layer, shape, **entry.taps.options(layer))
    groups = (("grad_cam", "case"),) if config.quick else (("grad_cam",), ("case",), ("grad_cam", "case"))
    least = 2 * config.tile * config.side**2 * BYTES_A_PIXEL
    settings = (least, MEMORY) if config.quick else (least, 4 * least, MEMORY, 4 * MEMORY)
    result = {
        **circumstances(),
        "model": config.model,
        "layer": layer,
        "images": list(images.shape),
        "repeats": config.repeats,
        "steps": steps_against_forward(model, images, groups, config.repeats),
        "parts": parts_of_a_step(model.num_classes, config.side, config.repeats),
        "memory": memory_against_setting(images, model.num_classes, settings),
    }
    for table in ("steps", "memory"):
        print(tabulate(result[table], headers="keys", floatfmt=".3g"), end="\n\n")
    print(tabulate([result["parts"]], headers="keys", floatfmt=".3g"))
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

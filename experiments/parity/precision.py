"""What fewer bits in convolutions and matrix products do to maps: how many of their top pixels change."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr

from case_jax import METHODS, confusion_sets, finish_maps
from case_jax.contrast import table
from case_jax.imageops import is_degenerate
from case_jax.ranking import pixel_count, top_mask
from case_jax.tap import TappedModel
from case_jax.tap.split import CALLS, evaluate, inner_jaxprs, read
from experiments.parity.goldens import Arrays, Network
from experiments.parity.maps import REFERENCE, maps_of

MANTISSA = {"bf16": 7, "tf32": 10}
"""Bits that are left of float32's 23."""
NATIVE = {("tpu", "bf16"): "bfloat16", ("gpu", "tf32"): "tensorfloat32"}
"""Devices that compute so themselves, and JAX's name for it; elsewhere the operands are rounded, which is what they do."""
PRODUCTS = ("conv_general_dilated", "dot_general")


class Change(NamedTuple):
    """A method's maps of one network at low precision against float32."""

    network: str
    method: str
    mean: float
    """Share of the top 5% pixels that are others, mean over images and targets."""
    largest: float
    maps: int
    """How many maps; those that are degenerate at either precision are left out."""


def rounded(function: Callable[..., jax.Array], bits: int) -> Callable[..., jax.Array]:
    """The same function with the operands of every convolution and matrix product rounded to a mantissa of so many bits."""

    def round_to(value: Any) -> Any:
        return jax.lax.reduce_precision(value, exponent_bits=8, mantissa_bits=bits)

    def run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            bodies = list(inner_jaxprs(eqn))
            if eqn.primitive.name in PRODUCTS:
                operands = [round_to(read(env, v)) for v in eqn.invars]
                out = eqn.primitive.bind(*operands, **eqn.params)
                env[eqn.outvars[0]] = out
            elif bodies and eqn.primitive.name in CALLS and not eqn.primitive.name.startswith("custom"):
                out = run(*bodies[0], [read(env, v) for v in eqn.invars])
                env.update(zip(eqn.outvars, out, strict=True))
            else:
                evaluate([eqn], env)
        return [read(env, v) for v in jaxpr.outvars]

    def call(*args: Any) -> jax.Array:
        closed = jax.make_jaxpr(function)(*args)
        return run(closed.jaxpr, closed.consts, jax.tree.leaves(args))[0]

    return call


def how(platform: str, precision: str) -> str:
    """In words, how the precision comes about on this platform."""
    if (platform, precision) in NATIVE:
        return f"{precision} as the {platform} computes it"
    return f"{precision} by rounding the operands of convolutions and matrix products to {MANTISSA[precision]} bits"


def changes(network: Network, precision: str, platform: str, case: Arrays | None) -> Iterator[Change]:
    """For every method, how many of the top 5% pixels are others than at float32 on the same device."""
    images = network.images()
    model = network.tap(images[0])
    if (platform, precision) in NATIVE:
        low, context = model, partial(jax.default_matmul_precision, NATIVE[platform, precision])
    else:
        low = replace(model, apply=rounded(model.apply, MANTISSA[precision]))
        context = contextlib.nullcontext
    shape = images.shape[1:3]
    methods = [(name, method, None) for name, method in REFERENCE.items()]
    if case is not None:
        classes = len(case["conf_matrix"])
        sets = table(confusion_sets(case["conf_matrix"], min(3, classes - 1)).indices, classes)
        methods += [(name, METHODS[name].maps, sets) for name in ("case", "case_span", "finer_cam")]
    for name, method, contrast in methods:
        compute = maps_of(network, method, contrast=contrast)
        exact = compute(model)
        with context():
            found = compute(low)
        other = changed_pixels(exact, found, shape)
        mean, largest = (float(other.mean()), float(other.max())) if len(other) else (float("nan"), float("nan"))
        yield Change(network.name, name, mean, largest, len(other))


def changed_pixels(exact: jax.Array, found: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """Share of the top 5% pixels that are others, of every map that is not degenerate on either side.

    Args:
        exact: maps at the layer's resolution, any leading axes.
        found: the same maps, computed otherwise.
        shape: of the images, at which pixels are ranked.
    """
    count = pixel_count(5, shape)
    usable = ~np.asarray(is_degenerate(exact) | is_degenerate(found))
    tops = [_tops(maps, shape, count) for maps in (exact, found)]
    return 1 - (tops[0] & tops[1]).sum((-2, -1))[usable] / count


def logits_change(network: Network, precision: str, platform: str) -> tuple[float, int]:
    """Largest change of a logit as a share of the largest logit, and in how many images the likeliest class changes."""
    images = network.images()
    model = network.tap(images[0])
    exact = logits_of(model, images)
    if (platform, precision) in NATIVE:
        with jax.default_matmul_precision(NATIVE[platform, precision]):
            found = logits_of(model, images)
    else:
        found = logits_of(replace(model, apply=rounded(model.apply, MANTISSA[precision])), images)
    error = float(np.abs(found - exact).max() / np.abs(exact).max())
    return error, int((found.argmax(1) != exact.argmax(1)).sum())


def logits_of(model: TappedModel, images: jax.Array) -> np.ndarray:
    """Of every image."""
    return np.asarray(jax.jit(jax.vmap(lambda x: model.apply(model.params, x)))(images))


def _tops(maps: jax.Array, shape: tuple[int, ...], count: int) -> np.ndarray:
    finished = finish_maps(maps, shape)
    flat = finished.reshape(-1, *shape)
    return np.asarray(jax.jit(jax.vmap(lambda m: top_mask(m, count)))(flat)).reshape(finished.shape)

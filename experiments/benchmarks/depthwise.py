"""What depthwise convolutions cost on CPU: as XLA computes them, as they are computed here, and in PyTorch.

Question   How much faster do networks with depthwise convolutions become, and are they as fast as in PyTorch?
Command    python -m experiments.benchmarks.depthwise [--quick] [--out FILE.json]
Cost       about five minutes on 2 idle CPU cores; with torch and torchvision installed these are timed, too
Expected   the convolutions alone ≥ 10 × XLA's; forward passes ≤ 1.5 × PyTorch's; equal up to the order of summation
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from tabulate import tabulate

from case_jax.models.convnext import ConvNeXtBlock
from case_jax.tap.depthwise import fast_depthwise
from experiments.benchmarks.core import interleaved
from experiments.benchmarks.networks import random_network
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.torch_peers import convnext_block_gradient, forward_pass, peer_versions
from experiments.families import FAMILIES


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks."""

    models: tuple[str, ...] = ("convnext_tiny", "convnext_large")
    """Names from `case-jax list models`; their forward passes of one image."""
    repeats: int = 7
    """Rounds of which the median is taken."""
    quick: bool = False
    """No networks, one round, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


class Case(NamedTuple):
    """Something to time."""

    what: str
    function: Callable[..., Any]
    """As it is written, depthwise convolutions left to XLA."""
    args: tuple[Any, ...]
    loss: Callable[..., Any] | None = None
    """Of the function's result: then the gradient in all arguments is timed."""
    peer: Callable[[], list[Callable[[], Any]]] | None = None
    """Makes the same in PyTorch, in its two memory formats."""


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A depthwise convolution of stride 1."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", feature_group_count=x.shape[-1], dimension_numbers=numbers
    )


def applied(module: nnx.Module) -> tuple[Callable[[Any, jax.Array], jax.Array], Any]:
    """A module as a function of its variables, and these."""
    graph, variables = nnx.split(module)
    return lambda variables, x: nnx.merge(graph, variables)(x), variables


def cases(config: Config) -> Iterator[Case]:
    """Convolutions alone, blocks, training, whole networks."""

    def sine(y: jax.Array) -> jax.Array:
        return jnp.sin(y).sum()

    for side, channels in ((56, 96), (28, 192), (14, 384), (7, 768))[: 1 if config.quick else 4]:
        x = jax.random.normal(jax.random.key(0), (1 if config.quick else 8, side, side, channels))
        where = "×".join(map(str, x.shape))
        args = (x, jax.random.normal(jax.random.key(1), (7, 7, 1, channels)))
        yield Case(f"7×7 convolution, {where}", convolution, args)
        yield Case(f"its gradient, {where}", convolution, args, sine)
        block, variables = applied(ConvNeXtBlock(channels, rngs=nnx.Rngs(0)))
        peer = partial(convnext_block_gradient, (len(x), channels, side, side))
        yield Case(f"gradient of a ConvNeXt block, {where}", block, (variables, x), sine, peer)
    entry = FAMILIES["ConvNeXt"].entry
    network, variables = applied(entry.build(entry.num_classes, rngs=nnx.Rngs(0)))
    scenes = jax.random.normal(jax.random.key(0), (32, 48, 48, 3))
    targets = jax.nn.one_hot(jnp.arange(32) % entry.num_classes, entry.num_classes)

    def entropy(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy(logits, targets).mean()

    yield Case("gradient of a training step, small ConvNeXt, 32 digit scenes", network, (variables, scenes), entropy)
    for name in () if config.quick else config.models:
        network, variables = applied(random_network(name))
        image = jax.random.normal(jax.random.key(0), (1, 224, 224, 3))
        yield Case(f"forward pass of {name}, 1 image", network, (variables, image), None, partial(forward_pass, name))


def peers() -> dict[str, str]:
    """PyTorch's versions, none where it is not installed."""
    return peer_versions(("torch", "torchvision")) if importlib.util.find_spec("torchvision") else {}


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Milliseconds both ways, in PyTorch where it is installed, and the largest difference as a share of the largest value."""

    def compiled(function: Callable[..., Any]) -> Callable[[], Any]:
        if (loss := case.loss) is not None:
            plain = function
            function = jax.grad(lambda args: loss(plain(*args)))
            return partial(jax.jit(lambda *args: function(args)).lower(*case.args).compile(), *case.args)
        return partial(jax.jit(function).lower(*case.args).compile(), *case.args)

    functions = {"xla": compiled(case.function), "ours": compiled(fast_depthwise(case.function))}
    found = [jax.tree.leaves(f()) for f in functions.values()]
    apart = max(float(jnp.abs(a - b).max() / jnp.abs(a).max()) for a, b in zip(*found, strict=True))
    if case.peer is not None and peers():
        functions |= {f"torch {i}": peer for i, peer in enumerate(case.peer())}
    seconds = interleaved(functions, repeats)
    torch = min((s for name, s in seconds.items() if name.startswith("torch")), default=None)
    return {
        "what": case.what,
        "xla_ms": 1e3 * seconds["xla"],
        "ours_ms": 1e3 * seconds["ours"],
        "times_faster": seconds["xla"] / seconds["ours"],
        "torch_ms": torch and 1e3 * torch,
        "ours_to_torch": torch and seconds["ours"] / torch,
        "largest_difference": apart,
    }


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    rows = []
    for case in cases(config):
        rows.append(measure(case, 1 if config.quick else config.repeats))
        print(*(f"{value:.3g}" if isinstance(value, float) else value for value in rows[-1].values()), flush=True)
    print(tabulate(rows, headers="keys", floatfmt=".3g"))
    return recorded({**circumstances(peers=peers()), "depthwise": rows}, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Maps of all classes against the plain forward pass, at full size: rates, ratios, memory."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax

from case_jax import METHODS, all_class_maps, topk_logits
from case_jax.models import model as entry_of
from case_jax.tap import TappedModel, tap_nnx
from case_jax.tap.precision import PRECISIONS, at_precision
from experiments.benchmarks.accelerator.timetable import Job
from experiments.benchmarks.random_network import random_network
from experiments.benchmarks.timing import interleaved, peak_bytes, temporary_bytes

OTHERS = {
    "vgg19_bn": (64, 128),
    "convnext_tiny": (32, 64),
    "vit_base_patch16_224": (32, 64),
    "convnext_large": (32, 64),
    "densenet201": (64, 256),
}
"""The usual and the larger batch, as far as class weights leave memory; what takes longest to compile comes last."""
REPEATS, SECONDS = 7, 3.0


class Case(NamedTuple):
    """One row."""

    model: str
    precision: str
    batch: int
    side: int = 224

    def __str__(self) -> str:
        return f"{self.model}, {self.precision}, {self.batch} images"


RESNET = tuple(Case("resnet50", precision, 64) for precision in PRECISIONS)
"""What `precision` compares, too."""
QUICK = tuple(Case("digit_resnet", precision, 2, 48) for precision in PRECISIONS)


def cases() -> Iterator[Case]:
    """ResNet-50 at three precisions; the others in float32; fewer bits; other batches."""
    yield from RESNET
    for precision in ("float32", "bf16", "tf32"):
        yield Case("resnet50", precision, 256)
        yield from (Case(name, precision, usual) for name, (usual, _) in OTHERS.items())
    yield from (Case("resnet50", "float32", batch) for batch in (32, 128))
    yield from (Case(name, "float32", larger) for name, (_, larger) in OTHERS.items())


def jobs(quick: bool) -> Iterator[Job]:
    """One row a case."""
    yield from (Job(str(case), partial(measure, case)) for case in (QUICK if quick else cases()))


class Programs(NamedTuple):
    """Compiled for one case."""

    calls: dict[str, Callable[[], jax.Array]]
    temporary: dict[str, float]
    route: str
    seconds: float
    """Tapping and compiling."""


@cache
def tapped(name: str, side: int) -> TappedModel:
    """The network with random weights, at the CASE paper's layer."""
    entry = entry_of(name)
    layer = list(entry.taps.layers)[-1]
    return tap_nnx(random_network(name), layer, jax.numpy.zeros((side, side, 3)), **entry.taps.options(layer))


@cache
def programs(case: Case) -> Programs:
    """Forward pass, all-class CASE and all-class Grad-CAM, compiled beside each other, kept for whoever asks again."""
    start = time.perf_counter()
    model = at_precision(tapped(case.model, case.side), case.precision)
    images = jax.random.normal(jax.random.key(0), (case.batch, case.side, case.side, 3))
    contrast = topk_logits(5, model.num_classes)
    functions: dict[str, Callable[..., jax.Array]] = {"forward": model.apply}
    for method in ("case", "grad_cam"):
        functions[method] = partial(all_class_maps, METHODS[method].maps, model, contrast=contrast)

    def compiled(function: Callable[..., jax.Array]) -> Any:
        with jax.default_matmul_precision("highest"):  # a setting of each thread
            return jax.jit(jax.vmap(function, (None, 0))).lower(model.params, images).compile()

    with ThreadPoolExecutor(len(functions)) as pool:
        found = dict(zip(functions, pool.map(compiled, functions.values()), strict=True))
    return Programs(
        {name: partial(program, model.params, images) for name, program in found.items()},
        {name: temporary_bytes(program) for name, program in found.items()},
        "closed form" if model.head_kernel else "pullback",
        time.perf_counter() - start,
    )


def measure(case: Case) -> dict[str, Any]:
    """Rates and ratios; temporary memory as compiled, and the most that the device has had in use up to here."""
    made = programs(case)
    took = interleaved(made.calls, REPEATS, seconds=SECONDS)
    peak, forward = peak_bytes(), took["forward"]
    return {
        "route": made.route,
        "forward_images_per_s": case.batch / forward,
        "case_over_forward": took["case"] / forward,
        "grad_cam_over_forward": took["grad_cam"] / forward,
        "case_images_per_s": case.batch / took["case"],
        "extra_mb_per_image": (made.temporary["case"] - made.temporary["forward"]) / case.batch / 1e6,
        "temporary_gb": made.temporary["case"] / 1e9,
        "device_peak_so_far_gb": None if peak is None else peak / 1e9,
        "compile_s": made.seconds,
    }

"""What class maps, the evaluation step and the pipeline cost on this machine.

Question   Are all classes' maps as good as free? Does the pipeline keep the device busy? What does the import cost?
Command    python -m experiments.benchmarks.core [--quick] [--out FILE.json]
Cost       about four minutes on 2 CPU cores
Expected   all-class maps ≤ 1.1 × forward at the closed-form layers; pipeline/step ≥ 0.9; import ≤ 1.3 × jax + flax
"""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from tabulate import tabulate

from case_jax import METHODS, all_class_maps, parallel
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Evaluate, Pixels, Subject, prepare, run
from case_jax.imageops import normalise_image
from case_jax.models import load_classifier, tap_classifier
from case_jax.results import RunFolder
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.resident import resident_step
from experiments.benchmarks.timing import interleaved


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the benchmark."""

    quick: bool = False
    """Small sizes, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def class_maps_against_forward(batch: int, repeats: int) -> list[dict[str, Any]]:
    """All classes' CASE maps (confusion-like sets of 5) against the plain forward pass, per layer and route."""
    classifier = load_classifier()
    facts = classifier.preprocessing
    scenes = DigitScenes("test", batch)
    images = jnp.stack([normalise_image(scenes[i].image, facts.mean, facts.std) for i in range(batch)])
    rows = []
    for layer in ("blocks.2", "blocks.2.conv2", "blocks.1"):
        model = tap_classifier(classifier, images[0], layer=layer)
        routes = {"declared" if model.head_kernel else "pullback": model}
        if model.head_kernel:
            routes["pullback"] = dataclasses.replace(model, head_kernel=None)
        contrast = choose_contrast("topk_logits:5", model.num_classes).sets
        functions = {"forward": jax.jit(jax.vmap(partial(model.apply, model.params)))}
        for name, route in routes.items():
            functions[name] = jax.jit(
                jax.vmap(partial(all_class_maps, METHODS["case"].maps, route, model.params, contrast=contrast))
            )
        found = interleaved({name: partial(f, images) for name, f in functions.items()}, repeats)
        rows += [
            {
                "layer": layer,
                "route": "closed form" if name == "declared" else name,
                "ms_per_image": 1e3 * found[name] / batch,
                "ratio_to_forward": found[name] / found["forward"],
            }
            for name in routes
        ]
    return rows


def pipeline_against_step(images: int, tile: int) -> dict[str, float]:
    """Images per second of a whole evaluation against its compiled step on batches that are already on the device."""
    classifier = load_classifier()
    facts = classifier.preprocessing
    pixels, source = Pixels(facts.mean, facts.std), DigitScenes("test", images)
    model = tap_classifier(classifier, normalise_image(source[0].image, *pixels))
    contrast = choose_contrast("topk_logits:5", model.num_classes)
    job = prepare(Evaluate(), Subject(source, model, contrast, pixels), tile=tile, part=4 * tile)
    step = resident_step(job)

    def pipeline() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run(job, RunFolder(Path(folder) / "run"), progress=False)

    def bare() -> None:
        for _ in range(-(-images // (tile * parallel.device_count()))):
            jax.block_until_ready(step())

    found = interleaved({"pipeline": pipeline, "step": bare}, 5)
    rates = {name: images / seconds for name, seconds in found.items()}
    return {
        "pipeline_images_per_s": rates["pipeline"],
        "step_images_per_s": rates["step"],
        "ratio": rates["pipeline"] / rates["step"],
    }


def import_cost(repeats: int) -> dict[str, float]:
    """Seconds to import case_jax against importing jax and flax, each in fresh processes, taking turns."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

    def seconds(modules: str) -> float:
        return float(
            subprocess.run(
                [sys.executable, "-c", code.format(modules)], capture_output=True, text=True, check=True
            ).stdout
        )

    pairs = [(seconds("jax, flax"), seconds("case_jax")) for _ in range(repeats)]
    base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"jax_flax_s": base, "case_jax_s": ours, "ratio": ours / base}


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    repeats = 2 if config.quick else 9
    maps = class_maps_against_forward(4 if config.quick else 32, repeats)
    pipeline = pipeline_against_step(16 if config.quick else 512, 8 if config.quick else 32)
    imported = import_cost(1 if config.quick else 9)
    print(tabulate(maps, headers="keys", floatfmt=".3f"))
    for title, values in (("pipeline", pipeline), ("import", imported)):
        print(title, ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
    result = {
        **circumstances(),
        "all_class_maps": maps,
        "pipeline": pipeline,
        "import": imported,
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

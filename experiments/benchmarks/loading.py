"""What it costs to fill ResNet-50 from a weight file.

Question   Are 25.6 million parameters in 102 MB of safetensors loaded fast, and without copies of copies?
Command    python -m experiments.benchmarks.loading [--quick] [--out FILE.json]
Cost       about half a minute on 2 CPU cores; arrays of the right shapes under torchvision's names, values at random
Expected   ≤ 3 s beyond the imports; peak memory beyond the imports ≤ 2.5 × the file
"""

import dataclasses
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from safetensors.numpy import save_file
from tabulate import tabulate

from experiments.benchmarks.record import circumstances, recorded

KEYS = Path(__file__).parents[2] / "tests" / "goldens" / "keys" / "torchvision.json.gz"

# Both numbers are differences within one fresh process, which has already computed something.
PROBE = """
import resource, sys, threading, time
import jax, numpy
from case_jax.models import load_classifier, resnet
jax.block_until_ready(jax.numpy.ones(3) + 1)
status = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
before, peak, running = status(), [0], [True]
def watch():
    while running[0]:
        peak[0] = max(peak[0], status())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
classifier = load_classifier(sys.argv[1], weights=sys.argv[2])
from flax import nnx
jax.block_until_ready(jax.tree.leaves(nnx.state(classifier.module)))
seconds = time.perf_counter() - start
running[0] = False
thread.join()
print(seconds, peak[0] - before)
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """How often."""

    repeats: int = 5
    """Fresh processes of which the median is taken."""
    quick: bool = False
    """ResNet-18, once, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    name = "resnet18" if config.quick else "resnet50"
    shapes = json.loads(gzip.decompress(KEYS.read_bytes()))["networks"][name]
    rng = np.random.default_rng(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        counters = {
            key: np.zeros(shape, np.int64) for key, shape in shapes.items() if key.endswith("num_batches_tracked")
        }
        arrays = {key: rng.random(shape, np.float32) for key, shape in shapes.items() if key not in counters}
        save_file(arrays | counters, file)
        size = file.stat().st_size
        for _ in range(1 if config.quick else config.repeats):
            command = [sys.executable, "-c", PROBE, name, str(file)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append([float(value) for value in out.split()])
    seconds, peak = (statistics.median(column) for column in zip(*found, strict=True))
    row = {
        "model": name,
        "parameters": sum(a.size for key, a in arrays.items() if "running" not in key),
        "file_mb": size / 1e6,
        "seconds": seconds,
        "peak_over_file": peak / size,
    }
    print(tabulate([row], headers="keys", floatfmt=".3g"))
    result = {
        **circumstances(),
        "loading": [row],
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

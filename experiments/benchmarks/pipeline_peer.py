"""The whole diagnostic on the embedded default, each as a process of its own: `case-jax evaluate`, and the same work image by image
through pytorch-grad-cam.

Question   What does a user wait for the class-sensitivity and fidelity tests of Grad-CAM and CASE, start-up included?
Command    pip install ".[bench]" && python -m experiments.benchmarks.pipeline_peer [--quick] [--out FILE.json]
Cost       about ten minutes on 2 CPU cores, nearly all of it PyTorch's
Expected   ≥ 10 × faster; the same median agreement
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tabulate import tabulate

from case_jax.data import DigitScenes
from case_jax.metrics import PERCENTS
from case_jax.results import RunFolder
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.torch_peers import digit_network, official_case, peer_versions

CONTRAST = 5


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    images: int = 1000
    """Digit scenes."""
    repeats: int = 3
    """Runs of ours of which the median is taken; PyTorch's runs once."""
    quick: bool = False
    """Four scenes, to prove that it runs."""
    peer: bool = False
    """Do PyTorch's work in this process: what the comparison starts."""
    out: Path | None = None
    """JSON file to write."""


def peer(images: int) -> dict[str, float]:
    """Both tests through pytorch-grad-cam and the official CASE, one image at a time; median agreements."""
    import torch  # type: ignore[import-not-found]
    from pytorch_grad_cam import GradCAM  # type: ignore[import-not-found]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-not-found]
    from safetensors.numpy import load_file

    import case_jax.models

    [weights] = Path(case_jax.models.__file__).parent.rglob("digit_resnet.safetensors")
    network = digit_network(load_file(weights))
    layer, scenes = network.blocks[-1], DigitScenes("test", images)
    agreement: dict[str, list[float]] = {"grad_cam": [], "case": []}
    with GradCAM(model=network, target_layers=[layer]) as cam:
        for i in range(images):
            pixels = torch.from_numpy((scenes[i].image.astype(np.float32) / 255 - 0.1) / 0.2).permute(2, 0, 1)[None]
            with torch.no_grad():
                p = torch.softmax(network(pixels), 1)[0].numpy()
            order = np.argsort(-p, kind="stable")

            def case(target: int, pixels: Any = pixels, order: np.ndarray = order) -> np.ndarray:
                others = [int(c) for c in order if c != target][:CONTRAST]
                small = torch.from_numpy(official_case(network, layer, pixels, target, others))[None, None]
                return torch.nn.functional.interpolate(small, pixels.shape[2:], mode="bilinear")[0, 0].numpy()

            found = {
                "grad_cam": [cam(pixels, [ClassifierOutputTarget(int(c))])[0] for c in order[:2]],
                "case": [case(int(c)) for c in order[:2]],
            }
            for name, maps in found.items():
                ranks = [np.argsort(-m.ravel(), kind="stable") for m in maps]
                count = int(0.05 * maps[0].size)
                agreement[name].append(len(np.intersect1d(ranks[0][:count], ranks[1][:count])) / count)
                for percent in PERCENTS:
                    removed = pixels.clone().reshape(3, -1)
                    removed[:, torch.from_numpy(ranks[0][: int(percent / 100 * maps[0].size)].copy())] = 0
                    with torch.no_grad():
                        torch.softmax(network(removed.reshape(pixels.shape)), 1)[0, order[0]].item()
    return {name: statistics.median(values) for name, values in agreement.items()}


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    images = 4 if config.quick else config.images
    if config.peer:
        print(json.dumps(peer(images)))
        return {}
    ours = []
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(n) for n in range(1 if config.quick else config.repeats)]
        for run in runs:
            command = ["evaluate", "--methods", "grad_cam", "case", "--metrics", "sensitivity", "fidelity"]
            options = ["--contrast", f"topk_logits:{CONTRAST}", "--limit", str(images), "--out", str(run)]
            start = time.perf_counter()
            words = [sys.executable, "-m", "case_jax.cli", *command, *options]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ours.append(time.perf_counter() - start)
        rows = RunFolder(runs[0]).rows()
    start = time.perf_counter()
    words = [sys.executable, "-m", "experiments.benchmarks.pipeline_peer", "--peer", "--images", str(images)]
    theirs = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    seconds = time.perf_counter() - start
    median = {name: float(rows.loc[rows["method"] == name, "F"].median()) for name in ("grad_cam", "case")}
    row = {
        "images": images,
        "ours_s": statistics.median(ours),
        "pytorch_s": seconds,
        "times_faster": seconds / statistics.median(ours),
        **{f"median_F_{name}_ours": value for name, value in median.items()},
        **{f"median_F_{name}_pytorch": theirs[name] for name in median},
    }
    print(tabulate([row], headers="keys", floatfmt=".3g"))
    result = {
        **circumstances(devices=False, peers=peer_versions()),
        "pipeline": [row],
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

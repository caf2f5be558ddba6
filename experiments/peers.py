"""The field beside us: the same images and weights through pytorch-grad-cam and Quantus.

Question   Do Quantus' random-logit test and pixel flipping, on pytorch-grad-cam's maps, rank methods as ours do on ours? What does each take?
Command    pip install ".[bench]" && python -m experiments.peers [--quick]
Cost       about 5 minutes on 2 CPU cores, nearly all of it the peers'
Expected   the same ranking by pixel flipping, though the numbers differ; random-logit, whose SSIM is another one there, nearly the same
"""

import dataclasses
import time
import warnings
from functools import partial
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from safetensors.numpy import load_file

from case_jax import METHODS
from case_jax._checks import require
from case_jax.imageops import normalise_image
from experiments.all import lacking
from experiments.benchmarks.torch_peers import digit_network
from experiments.claim import Answer, Finding, Table, from_shell, keep
from experiments.families import SHIPPED
from experiments.fidelity import kendall
from experiments.subjects import Subject, Where, asked_by_name, only

PEERS = {
    "grad_cam": "GradCAM", "hires_cam": "HiResCAM", "grad_cam_plus_plus": "GradCAMPlusPlus", "xgrad_cam": "XGradCAM",
    "layer_cam": "LayerCAM", "eigen_cam": "EigenCAM", "eigen_grad_cam": "EigenGradCAM", "ablation_cam": "AblationCAM",
}  # fmt: skip
STEPS = 24


@dataclasses.dataclass(frozen=True)
class Config:
    """Images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(
        default_factory=lambda: Where(networks=(SHIPPED,), limit=100)
    )
    out: Path = Path("experiments/results/peers")


def explained(name: str, model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """pytorch-grad-cam's finished maps, (B, 1, H, W), as Quantus wants them."""
    import pytorch_grad_cam  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-not-found]

    with getattr(pytorch_grad_cam, name)(model=model, target_layers=[model.blocks[-1]]) as cam:
        asked = [ClassifierOutputTarget(int(c)) for c in np.asarray(targets).ravel()]
        return cam(torch.as_tensor(np.asarray(inputs), dtype=torch.float32), asked)[:, None]


def theirs(subject: Subject, names: list[str]) -> pd.DataFrame:
    """Quantus' two scores of pytorch-grad-cam's maps of the likeliest class; lower is better in both."""
    import quantus  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    examples = [subject.source[i] for i in range(len(subject.source))]
    x = np.stack([np.asarray(normalise_image(e.image, *subject.pixels)) for e in examples]).transpose(0, 3, 1, 2)
    with as_file(files("case_jax.models") / "digit_resnet.safetensors") as file:
        network = digit_network(load_file(file))
    with torch.no_grad():
        y = network(torch.from_numpy(x)).argmax(1).numpy()
    right = np.flatnonzero(y == np.array([e.label for e in examples]))
    # its own integration calls a function that NumPy no longer has: curves, and their mean here
    flip = quantus.PixelFlipping(features_in_step=x[0].size // STEPS, perturb_baseline="black", disable_warnings=True)
    logit = quantus.RandomLogit(num_classes=25, seed=0, disable_warnings=True)
    found = []
    for name in names:
        explain = partial(explained, PEERS[name])
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of maps that are all zero
            maps = explain(network, x, y)
            flipped = flip(network, x[right], y[right], a_batch=maps[right], channel_first=True, softmax=True)
            other = logit(network, x, y, a_batch=maps, explain_func=explain, channel_first=True)
        seconds = time.perf_counter() - start
        found.append([name, np.nanmean(flipped), np.nanmean(other), 1e3 * seconds / len(x)])
    return pd.DataFrame(found, columns=["method", "pixel_flipping", "random_logit", "ms"])


def ours(subject: Subject, names: list[str]) -> tuple[pd.DataFrame, float]:
    """Deletion AUC and SSIM to a random class's map; and milliseconds an image and method, compilation and all."""
    start = time.perf_counter()
    rows = subject.rows(
        f"peers-{time.time_ns()}", asked_by_name(names), contrast="topk_logits:5", metrics=("deletion_insertion", "random_logit"),
        options={"deletion_insertion": {"steps": STEPS}},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    right = rows[rows["label"] == rows["top1"]].groupby("method", sort=False)["deletion_auc"].mean()
    other = rows.groupby("method", sort=False)["ssim_random"].mean()
    return pd.DataFrame({"deletion_auc": right, "ssim_random": other}).reset_index(), 1e3 * seconds / len(rows)


def answer(config: Config) -> Answer:
    """Both sides on the shipped classifier."""
    missing = lacking("peers")
    require(not missing, "environment", f"no {', '.join(missing)}", "the extra `bench`: pip install '.[bench]'")
    require(config.where.offline, "data", config.where.data, "digit scenes; PyTorch's side has their classifier alone")
    subject = only(config.where)
    names = list(PEERS)[: 3 if config.where.quick else None]
    mine, ms = ours(subject, names)
    table = mine.merge(theirs(subject, names), on="method").assign(ms_ours=ms)
    flips, logits = (
        kendall(table["deletion_auc"].round(4).to_numpy(), table["pixel_flipping"].round(4).to_numpy()),
        kendall(table["ssim_random"].round(4).to_numpy(), table["random_logit"].round(4).to_numpy()),
    )
    shown = table.assign(method=[METHODS[n].title for n in table["method"]])
    shown[shown.columns[1:5]] = shown[shown.columns[1:5]].map("{:.3f}".format)
    shown[["ms", "ms_ours"]] = shown[["ms", "ms_ours"]].map("{:.1f}".format)
    shown.columns = [
        "method",
        "deletion AUC",
        "SSIM to a random class",
        "Quantus: pixel flipping",
        "Quantus: random logit",
        "peers, ms",
        "ours, ms",
    ]
    versions = ", ".join(f"{p} {version(p)}" for p in ("quantus", "grad-cam", "torch"))
    findings = [
        Finding(
            "Pixel flipping ranks methods alike here and in Quantus.",
            "reproduced" if flips > 0.8 else "in part" if flips > 0.3 else "not reproduced",
            f"Kendall's τ {flips:.2f} over {len(table)} methods of pytorch-grad-cam ({versions}).",
        ),
        Finding(
            "The random-logit test ranks methods alike here and in Quantus.",
            "reproduced" if logits > 0.8 else "in part" if logits > 0.3 else "not reproduced",
            f"Kendall's τ {logits:.2f}; Quantus flattens maps to a line before it takes their SSIM, and draws other random classes.",
        ),
        Finding(
            "What does it take?",
            "answered",
            f"An image and method through both tests: {table['ms'].median():.0f} ms (median over methods) with the peers, {ms:.1f} ms here, compilation included, "
            f"over {len(subject.source)} images.",
        ),
    ]
    return Answer(findings, {"peers": Table("The same images and weights", table, shown)}, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    keep(answer(config), config, config.out)


if __name__ == "__main__":
    from_shell(main, Config)

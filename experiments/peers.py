"""The field beside us: the same images and weights through pytorch-grad-cam and Quantus.

Question   Do Quantus' random-logit test and pixel flipping, on pytorch-grad-cam's maps, rank methods as ours do on ours? What does each take?
Command    pip install ".[bench]" && python -m experiments.peers [--quick] [--again]
Cost       about a minute on 2 CPU cores, once the extra is installed
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
from experiments.claim import Estimate, Finding, place
from experiments.estimates import distinct, orders
from experiments.families import SHIPPED
from experiments.kept import Answer, Numbers, Table, carry_out, from_shell
from experiments.networks import Subject, Where, asked_by_name, only

PEERS = {
    "grad_cam": "GradCAM", "hires_cam": "HiResCAM", "grad_cam_plus_plus": "GradCAMPlusPlus", "xgrad_cam": "XGradCAM",
    "layer_cam": "LayerCAM", "eigen_cam": "EigenCAM", "eigen_grad_cam": "EigenGradCAM", "ablation_cam": "AblationCAM",
}  # fmt: skip
SHOWN = {
    "deletion_auc": "deletion AUC",
    "ssim_random": "SSIM to a random class",
    "pixel_flipping": "Quantus: pixel flipping",
    "random_logit": "Quantus: random logit",
}
SIGN = "; pytorch-grad-cam leaves the sign of Eigen-CAM and Eigen-Grad-CAM to its linear algebra, so that half of the maps may be the other way round"
STEPS, DECIMALS = 24, 4
SAME = 0.5
"""A Kendall's τ above which two tests rank methods alike: of four pairs of methods, three in the same order."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Images and where the answer goes."""

    where: tyro.conf.OmitArgPrefixes[Where] = dataclasses.field(default_factory=lambda: Where(networks=(SHIPPED,)))
    again: bool = False
    """Run nothing: conclude again from what `out` holds."""
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
    """Quantus' two scores of pytorch-grad-cam's maps of the likeliest class, a row per image and method; lower is better in both.

    Pixel flipping is NaN where the classifier is wrong. `ms` is the time an image, the same in all rows of a method.
    """
    import quantus  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    examples = [subject.source[i] for i in range(len(subject.source))]
    x = np.stack([np.asarray(normalise_image(e.image, *subject.pixels)) for e in examples]).transpose(0, 3, 1, 2)
    with as_file(files("case_jax.models") / "digit_resnet.safetensors") as file:
        network = digit_network(load_file(file))
    with torch.no_grad():
        y = network(torch.from_numpy(x)).argmax(1).numpy()
    right = y == np.array([e.label for e in examples])
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
        ms = 1e3 * (time.perf_counter() - start) / len(x)
        scores = pd.DataFrame({"image_id": [e.image_id for e in examples], "random_logit": np.array(other, float)})
        scores.loc[right, "pixel_flipping"] = np.mean(flipped, axis=1)
        found.append(scores.assign(method=name, ms=ms))
    return pd.concat(found)


def ours(subject: Subject, names: list[str]) -> pd.DataFrame:
    """Deletion AUC, NaN where the classifier is wrong, and SSIM to a random class's map, a row per image and method; and milliseconds, compilation and all."""
    start = time.perf_counter()
    rows = subject.rows(
        f"peers-{time.time_ns()}", asked_by_name(names), contrast="topk_logits:5", metrics=("deletion_insertion", "random_logit"),
        options={"deletion_insertion": {"steps": STEPS}},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    rows["deletion_auc"] = rows["deletion_auc"].where(rows["label"] == rows["top1"])
    return rows[["image_id", "method", "deletion_auc", "ssim_random"]].assign(ms_ours=1e3 * seconds / len(rows))


def alike(table: pd.DataFrame, test: str, first: str, second: str, further: str) -> Finding:
    """Whether a test ranks methods as the peer's does; methods that both scores find equal count once."""
    means = distinct(table[[first, second]], DECIMALS)
    tau = orders(test, means[first].round(DECIMALS), means[second].round(DECIMALS), margin=SAME)
    return Finding(
        f"{test} ranks methods alike here and in Quantus (τ above {SAME:g}).", place("digit_scenes", "one small network"), [tau], "universal",
        measure="Kendall's τ of the two orders of methods", note=f"The unit is the method: {tau.n} of pytorch-grad-cam, those that are one counted once{further}.",
    )  # fmt: skip


def measured(config: Config) -> Numbers:
    """Both sides on the shipped classifier: a row per image and method, and times."""
    missing = lacking("peers")
    require(not missing, "environment", f"no {', '.join(missing)}", "the extra `bench`: pip install '.[bench]'")
    require(config.where.offline, "data", config.where.data, "digit scenes; PyTorch's side has their classifier alone")
    subject = only(config.where)
    names = list(PEERS)[: 3 if config.where.quick else None]
    scores = ours(subject, names).merge(theirs(subject, names), on=["image_id", "method"], validate="1:1")
    table = scores.drop(columns="image_id").groupby("method", sort=False).mean().loc[names].reset_index()
    facts = {
        "images": len(subject.source),
        **{package: version(package) for package in ("quantus", "grad-cam", "torch")},
    }
    return Numbers({}, {"peers": table, "versions": pd.DataFrame([facts])})


def concluded(numbers: Numbers, config: Config) -> Answer:
    """Whether both sides rank methods alike, and what they take."""
    table, facts = numbers.tables["peers"], numbers.tables["versions"]
    columns = {
        "method": [METHODS[n].title for n in table["method"]],
        **{words: table[c].map("{:.3f}".format) for c, words in SHOWN.items()},
        "peers, ms": table["ms"].map("{:.1f}".format),
        "ours, ms": table["ms_ours"].map("{:.1f}".format),
    }
    images, *versions = (f"{value}" if name == "images" else f"{name} {value}" for name, value in facts.iloc[0].items())
    times = [
        Estimate(side, float(table[column].median()), n=int(images), unit="images")
        for side, column in (("the peers", "ms"), ("here", "ms_ours"))
    ]
    findings = [
        alike(table, "Pixel flipping", "deletion_auc", "pixel_flipping", SIGN),
        alike(
            table, "The random-logit test", "ssim_random", "random_logit",
            f"{SIGN}; Quantus flattens maps to a line before it takes their SSIM, and draws other random classes",
        ),
        Finding(
            "What does it take?", place("digit_scenes", "one small network"), times, measure="milliseconds an image and method, both tests",
            note=f"Median over methods; ours with the insertion curve, which comes with the deletion curve, and with compilation ({', '.join(versions)}).",
        ),
    ]  # fmt: skip
    tables = {
        "peers": Table("The same images and weights", table, pd.DataFrame(columns)),
        "versions": Table("What ran", facts),
    }
    return Answer(findings, tables, {})


def main(config: Config) -> None:
    """Answer, and keep it."""
    carry_out(config, measured, concluded)


if __name__ == "__main__":
    from_shell(main, Config)

"""A masker's training step on the digit classifier, beside the same step in plain PyTorch with the same weights.

Question   What does a compiled step save where networks are small?
Command    pip install ".[bench]" && python -m experiments.benchmarks.masker_peer [--quick] [--out FILE.json]
Cost       about a minute on 2 CPU cores
Expected   the same losses; a ratio above 1
"""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import tyro
from safetensors.numpy import load_file
from tabulate import tabulate

from case_jax.data import DigitScenes
from case_jax.models import load_classifier
from case_jax.training import Examples
from experiments.benchmarks.masker_steps import Mode, both_steps
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.timing import interleaved
from experiments.benchmarks.torch_peers import digit_network, peer_versions


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    repeats: int = 9
    """Rounds of which the median is taken; all take turns."""
    batch: int = 72
    """Images of a step."""
    quick: bool = False
    """Two images, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def compared(mode: Mode, config: Config) -> dict[str, Any]:
    """Both steps with the same weights and images, in turns."""
    import case_jax.models

    classifier = load_classifier()
    [file] = Path(case_jax.models.__file__).parent.rglob("digit_resnet.safetensors")
    network = digit_network(load_file(file))
    read = {"2": network.blocks[1], "3": network.blocks[2]}
    batch = next(Examples(DigitScenes("train", config.batch)).batches(0, 1, config.batch))
    steps = both_steps(classifier, network, read, batch, mode)
    seconds = interleaved({"ours": steps.ours, "pytorch": steps.theirs}, repeats=config.repeats)
    return {
        "classifier": mode,
        "ours_ms_per_image": 1e3 * seconds["ours"] / config.batch,
        "pytorch_ms_per_image": 1e3 * seconds["pytorch"] / config.batch,
        "times_faster": seconds["pytorch"] / seconds["ours"],
        "first_loss_ours": steps.first_loss_ours,
        "first_loss_pytorch": steps.first_loss_theirs,
    }


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    if config.quick:
        config = dataclasses.replace(config, batch=2, repeats=1)
    rows = [compared(mode, config) for mode in get_args(Mode)]
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    result = {
        **circumstances(peers=peer_versions()),
        "batch": config.batch,
        "repeats": config.repeats,
        "steps": rows,
    }
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

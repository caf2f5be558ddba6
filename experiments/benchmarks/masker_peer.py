"""A masker's training step on the digit classifier, beside the same step in plain PyTorch with the same weights.

Question   What does a compiled step save where networks are small?
Command    pip install ".[bench]" && python -m experiments.benchmarks.masker_peer [--quick] [--out FILE.json]
Cost       about a minute on 2 CPU cores
Expected   the same losses; a ratio above 1
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from safetensors.numpy import load_file
from tabulate import tabulate

from case_jax import parallel
from case_jax.data import DigitScenes
from case_jax.masking import Ingredients, masker_task, networks
from case_jax.models import load_classifier
from case_jax.models.weights import flat_state
from case_jax.training import Batch, Examples, Keys
from case_jax.training.loop import PRECISION
from experiments.benchmarks.core import interleaved
from experiments.benchmarks.record import circumstances, recorded
from experiments.benchmarks.torch_peers import digit_network, peer_versions

MODES = ("fixed", "alongside")


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


def torch_masker(arrays: dict[str, np.ndarray]) -> Any:
    """The masking model that reads the last two of the digit classifier's stages, with these weights of ours."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    class Masker(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleDict()
            for stage, inputs in (("2", 32), ("3", 48)):
                self.branches[stage] = nn.Sequential(nn.Conv2d(inputs, 64, 1, bias=False), nn.BatchNorm2d(64))
            self.final = nn.Conv2d(128, 1, 3, padding=1)

        def forward(self, maps: dict[str, Any]) -> Any:
            parts = [torch.relu(branch(maps[stage])) for stage, branch in self.branches.items()]
            up = [nn.functional.interpolate(p, scale_factor=2, mode="bilinear", align_corners=False) for p in parts]
            mask = torch.sigmoid(self.final(torch.cat(up, 1)))
            return nn.functional.interpolate(mask, scale_factor=2, mode="nearest")

    masker = Masker()
    names = {"conv.kernel": "0.weight", "bn.scale": "1.weight", "bn.bias": "1.bias", "bn.mean": "1.running_mean"}
    names |= {"bn.var": "1.running_var"}
    state = {}
    for path, array in arrays.items():
        tensor = torch.from_numpy(np.array(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))
        stage, _, leaf = path.removeprefix("branches.").partition(".")
        known = {"final.kernel": "final.weight", "final.bias": "final.bias"}
        state[known.get(path) or f"branches.{stage}.{names[leaf]}"] = tensor
    missing, unexpected = masker.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return masker.train()


class TorchStep:
    """The step in plain PyTorch: forward passes, losses, two optimisers."""

    def __init__(self, mode: str, weights: dict[str, np.ndarray], masker: dict[str, np.ndarray]):
        import torch  # type: ignore[import-not-found]

        self.mode, self.network, self.masker = mode, digit_network(weights), torch_masker(masker)
        if mode != "fixed":
            self.network.train()
        self.maps: dict[str, Any] = {}
        for stage, block in (("2", self.network.blocks[1]), ("3", self.network.blocks[2])):
            block.register_forward_hook(lambda _m, _i, out, stage=stage: self.maps.update({stage: out}))
        self.masker_optimiser = torch.optim.Adam(self.masker.parameters(), 1e-3, weight_decay=1e-4)
        settings = {"momentum": 0.9, "weight_decay": 1e-4}
        self.optimiser = torch.optim.SGD(self.network.parameters(), 1e-3, **settings)

    def __call__(self, images: Any, labels: Any, answers: Any) -> float:
        """One step; the masker's loss before it."""
        import torch  # type: ignore[import-not-found]
        from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812

        learns = self.mode != "fixed"
        with torch.set_grad_enabled(learns):
            clean = self.network(images)
        if learns:
            self.optimiser.zero_grad()
            F.cross_entropy(clean, answers).backward()
            self.optimiser.step()
        mask = self.masker({stage: m.detach() for stage, m in self.maps.items()})
        found = clean.detach().argmax(1) == labels
        inside, outside = self.network(images * mask), self.network(images * (1 - mask))
        size = mask.mean((1, 2, 3))
        loss_in = F.cross_entropy(inside, labels) - F.relu((inside.argmax(1) == labels).float() - size).mean()
        log = F.log_softmax(outside, 1)
        entropy = -(log.exp() * log).sum(1) * found.float()
        confused = (found & (outside.argmax(1) != labels)).float()
        weight = 15.0 if learns else 10.0
        loss_out = (-entropy - weight * F.relu(confused - size)).mean()
        steps = (mask[:, :, 1:] - mask[:, :, :-1]).square().sum() + (mask[..., 1:] - mask[..., :-1]).square().sum()
        edges = mask[:, :, [0, -1]].square().sum() + mask[..., [0, -1]].square().sum()
        loss = loss_in + loss_out + 1e-3 * (steps + 0.3 * edges) / (2 * len(images))
        mine = ()
        if learns:
            both = F.cross_entropy(inside, answers) + F.cross_entropy(outside, answers)
            mine = torch.autograd.grad(both, list(self.network.parameters()), retain_graph=True)
        self.masker_optimiser.zero_grad()
        loss.backward(inputs=list(self.masker.parameters()))
        torch.nn.utils.clip_grad_norm_(self.masker.parameters(), 10)
        self.masker_optimiser.step()
        if learns:
            for parameter, gradient in zip(self.network.parameters(), mine, strict=True):
                parameter.grad = gradient
            self.optimiser.step()
        return loss.item()


def compared(mode: str, config: Config) -> dict[str, Any]:
    """Both steps with the same weights and images, in turns."""
    import torch  # type: ignore[import-not-found]

    import case_jax.models

    classifier = load_classifier()
    facts = classifier.preprocessing
    out = Ingredients().masked_out
    assert out is not None
    made_of = Ingredients(classifier=mode, masked_out=out._replace(size_weight=10.0 if mode == "fixed" else 15.0))  # type: ignore[arg-type]
    stages = classifier.entry.taps.stages
    nets = networks(classifier.module, stages, made_of, (48, 48, 3), num_classes=25, seed=0)
    task = masker_task(nets, made_of, mean=facts.mean, std=facts.std)
    batch = next(Examples(DigitScenes("train", config.batch)).batches(0, 1, config.batch))

    def one(state: Any, batch: Batch) -> Any:
        key = jax.random.key(0)
        return task.step(state, batch, Keys(key, key))

    step = parallel.over_devices(one, precision=PRECISION)
    state = parallel.replicate(jax.tree.map(np.asarray, task.state))
    given = parallel.shard(Batch(*(a[None] for a in batch)))
    [file] = Path(case_jax.models.__file__).parent.rglob("digit_resnet.safetensors")
    masker = nets.masker.module(nets.masker.variables)
    arrays = {path: np.asarray(variable[...]) for path, variable in flat_state(masker).items()}
    peer = TorchStep(mode, load_file(file), arrays)
    pixels = (batch.images.astype(np.float32) / 255 - np.array(facts.mean, np.float32)) / np.array(
        facts.std, np.float32
    )
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    labels, answers = torch.from_numpy(batch.labels.astype(np.int64)), torch.from_numpy(batch.targets)
    losses = (float(step(state, given)[1]["loss"][0]), peer(images, labels, answers))
    functions = {
        "ours": lambda: jax.block_until_ready(step(state, given)),
        "pytorch": lambda: peer(images, labels, answers),
    }
    seconds = interleaved(functions, repeats=config.repeats)
    return {
        "classifier": mode,
        "ours_ms_per_image": 1e3 * seconds["ours"] / config.batch,
        "pytorch_ms_per_image": 1e3 * seconds["pytorch"] / config.batch,
        "times_faster": seconds["pytorch"] / seconds["ours"],
        "first_loss_ours": losses[0],
        "first_loss_pytorch": losses[1],
    }


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    if config.quick:
        config = dataclasses.replace(config, batch=2, repeats=1)
    rows = [compared(mode, config) for mode in MODES]
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

"""A masker's training step as this library compiles it, and the same step in plain PyTorch, with the same weights."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from case_jax import parallel
from case_jax.masking import Ingredients, masker_task, networks
from case_jax.models import Classifier
from case_jax.models.weights import flat_state
from case_jax.training import Batch, Keys
from case_jax.training.loop import PRECISION
from experiments.benchmarks.torch_peers import torch_device

Mode = Literal["fixed", "alongside"]


class Steps(NamedTuple):
    """Both steps, and the loss that each had at its first call."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    first_loss_ours: float
    first_loss_theirs: float


def both_steps(classifier: Classifier, network: Any, read: Mapping[str, Any], batch: Any, mode: Mode) -> Steps:
    """The default masker of a classifier, its step ready to be called on one batch again and again.

    Args:
        classifier: ours.
        network: the same in PyTorch, with the same weights.
        read: its modules whose outputs the masker reads, by the numbers that our masker gives to its stages.
        batch: images as uint8, labels, targets.
        mode: whether the classifier stays as it is or learns alongside.
    """
    import torch  # type: ignore[import-not-found]

    facts, shape = classifier.preprocessing, batch.images.shape[1:]
    out = Ingredients().masked_out
    assert out is not None
    made_of = Ingredients(classifier=mode, masked_out=out._replace(size_weight=10.0 if mode == "fixed" else 15.0))
    classes = len(classifier.class_names)
    nets = networks(classifier.module, classifier.entry.taps.stages, made_of, shape, num_classes=classes, seed=0)
    task = masker_task(nets, made_of, mean=facts.mean, std=facts.std)

    def one(state: Any, batch: Batch) -> Any:
        key = jax.random.key(0)
        return task.step(state, batch, Keys(key, key))

    step = parallel.over_devices(one, precision=PRECISION)
    state = parallel.replicate(jax.tree.map(np.asarray, task.state))
    given = parallel.shard(Batch(*(a[None] for a in batch)))
    masker = nets.masker.module(nets.masker.variables)
    arrays = {path: np.asarray(variable[...]) for path, variable in flat_state(masker).items()}
    device = torch_device()
    peer = TorchStep(mode, network.to(device), read, torch_masker(arrays, _first_shape(nets, shape)).to(device))
    mean, std = (np.asarray(values, np.float32) for values in (facts.mean, facts.std))
    pixels = (batch.images.astype(np.float32) / 255 - mean) / std
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device)
    labels = torch.from_numpy(batch.labels.astype(np.int64)).to(device)
    answers = torch.from_numpy(batch.targets).to(device)
    first_loss = float(step(state, given)[1]["loss"][0])
    return Steps(
        lambda: jax.block_until_ready(step(state, given)),
        lambda: peer(images, labels, answers),
        first_loss,
        peer(images, labels, answers),
    )


def _first_shape(nets: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the first stage's map, at which masks are made."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    maps = jax.eval_shape(lambda v, x: nets.classifier(v, x, train=False)[1], nets.classifier.variables, image)
    return maps[0].shape[1:3]


def torch_masker(arrays: Mapping[str, np.ndarray], shape: tuple[int, int]) -> Any:
    """The masking model in PyTorch, with these weights of ours; `shape` is the first stage's."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    class Masker(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleDict()
            for path, array in arrays.items():
                if path.endswith(".conv.kernel"):
                    *_, inputs, width = array.shape
                    convolution = nn.Conv2d(inputs, width, 1, bias=False)
                    self.branches[path.split(".")[1]] = nn.Sequential(convolution, nn.BatchNorm2d(width))
            self.final = nn.Conv2d(arrays["final.kernel"].shape[2], 1, 3, padding=1)

        def forward(self, maps: Mapping[str, Any], size: Any) -> Any:
            parts = [torch.relu(branch(maps[stage])) for stage, branch in self.branches.items()]
            up = [nn.functional.interpolate(p, shape, mode="bilinear", align_corners=False) for p in parts]
            mask = torch.sigmoid(self.final(torch.cat(up, 1)))
            return nn.functional.interpolate(mask, size, mode="nearest")

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

    def __init__(self, mode: Mode, network: Any, read: Mapping[str, Any], masker: Any):
        import torch  # type: ignore[import-not-found]

        self.mode, self.network, self.masker = mode, network.train(mode != "fixed"), masker
        self.maps: dict[str, Any] = {}
        for stage, module in read.items():
            module.register_forward_hook(lambda _m, _i, out, stage=stage: self.maps.update({stage: out}))
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
        mask = self.masker({stage: m.detach() for stage, m in self.maps.items()}, images.shape[2:])
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

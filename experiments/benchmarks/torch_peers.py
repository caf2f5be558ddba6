"""What the PyTorch world does today, written anew: the networks and the procedures that ours are timed beside."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from case_jax import parallel
from case_jax._checks import require
from case_jax.models import Classifier, load_classifier


def torchvision_network(name: str, file: Path) -> Any:
    """torchvision's network with random weights of a network in training, which are also written to a file."""
    import torch  # type: ignore[import-not-found]
    import torchvision  # type: ignore[import-not-found]
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():  # statistics as after training, so that activations keep their size
        network.train()(torch.randn(8, 3, 128, 128))
    save_file(network.state_dict(), file)
    return network.eval()


def torch_pair(name: str) -> tuple[Any, Classifier]:
    """`torchvision_network`, and ours with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        return torchvision_network(name, file), load_classifier(name, weights=str(file))


def torch_device() -> str:
    """Where PyTorch finds the chip that JAX uses; the processors where JAX uses those.

    Raises:
        CaseJaxError: where PyTorch does not reach JAX's device: nothing can be compared there.
    """
    import torch  # type: ignore[import-not-found]

    platform = parallel.platform()
    found = "cpu" if platform == "cpu" else "cuda" if platform == "gpu" and torch.cuda.is_available() else None
    require(found, "torch", f"PyTorch {torch.__version__}, which does not reach JAX's {platform}", "one that does")
    assert found is not None, "that has been required"
    return found


def in_both_formats(network: Any, x: Any, run: Callable[[Any, Any], Any]) -> list[Callable[[], Any]]:
    """What calls `run(network, x)`, with channels first in memory and with channels last."""
    import torch  # type: ignore[import-not-found]

    formats = (torch.contiguous_format, torch.channels_last)
    return [
        partial(run, copy.deepcopy(network).to(memory_format=f), x.detach().clone(memory_format=f)) for f in formats
    ]


def forward_pass(name: str) -> list[Callable[[], Any]]:
    """What runs torchvision's network on one image of 224×224, for each memory format."""
    import torch  # type: ignore[import-not-found]
    import torchvision  # type: ignore[import-not-found]

    network = torchvision.models.get_model(name, weights=None).eval()
    return in_both_formats(network, torch.randn(1, 3, 224, 224), torch.inference_mode()(lambda net, x: net(x)))


def convnext_block_gradient(shape: tuple[int, int, int, int]) -> list[Callable[[], Any]]:
    """What takes the gradient of `Σ sin(block(x))` in x and the parameters of torchvision's block, x (B, K, h, w), for each memory format."""
    import torch  # type: ignore[import-not-found]
    from torchvision.models.convnext import CNBlock  # type: ignore[import-not-found]

    def gradient(block: Any, x: Any) -> Any:
        x.requires_grad_()
        return torch.autograd.grad(block(x).sin().sum(), (x, *block.parameters()))

    return in_both_formats(CNBlock(shape[1], 1e-6, 0.0).eval(), torch.randn(*shape), gradient)


def digit_network(weights: dict[str, np.ndarray]) -> Any:
    """The shipped digit-scene classifier in PyTorch; `blocks.2` is its last post-activation map."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    class Same(nn.Conv2d):
        """Flax pads the even side of a strided convolution behind only."""

        def forward(self, x: Any) -> Any:
            if self.stride == (2, 2) and self.kernel_size == (3, 3):
                x = nn.functional.pad(x, (0, 1, 0, 1))
            return super().forward(x)

    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        return Same(inputs, outputs, size, stride, padding=0 if stride == 2 or size == 1 else 1, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int = 1):
            super().__init__()
            self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
            self.shortcut = conv(inputs, outputs, 1, stride) if (inputs, stride) != (outputs, 1) else nn.Identity()

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.shortcut(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.bn = conv(3, 16, 3, 2), nn.BatchNorm2d(16)
            self.blocks = nn.ModuleList([Block(16, 16), Block(16, 32, 2), Block(32, 48)])
            self.head = nn.Linear(48, 25)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.bn(self.stem(x)))
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((2, 3)))

    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
    state = {}
    for key, array in weights.items():
        owner, _, leaf = key.rpartition(".")
        turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state[f"{owner}.{names[leaf]}"] = torch.from_numpy(np.ascontiguousarray(turned))
    network = Network().eval()
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return network


def official_case(network: Any, layer: Any, image: Any, target: int, contrast: Sequence[int]) -> np.ndarray:
    """CASE of one class as its authors' code computes it: one forward and k + 1 full backward passes; map at the layer's resolution.

    Args:
        network: a torch classifier.
        layer: its module at which the map is made.
        image: one normalised image, (1, 3, H, W).
        target: class.
        contrast: the k classes it is set against.
    """
    import torch  # type: ignore[import-not-found]

    kept: dict[str, Any] = {}
    forwards = layer.register_forward_hook(lambda _module, _inputs, output: kept.update(activation=output.detach()))
    backwards = layer.register_full_backward_hook(
        lambda _module, _inputs, outputs: kept.update(gradient=outputs[0].detach())
    )
    try:
        image = image.clone().requires_grad_()  # as pytorch-grad-cam does: gradients go all the way down
        logits = network(image)
        weights = []
        for index in (target, *contrast):
            network.zero_grad()
            logits[0, index].backward(retain_graph=True)
            weights.append(kept["gradient"][0].mean((1, 2)))
    finally:
        forwards.remove()
        backwards.remove()
    alpha, mean = weights[0], torch.stack(weights[1:]).mean(0)
    alpha = alpha - (alpha @ mean) / (mean @ mean + 1e-8) * mean
    return torch.relu((alpha[:, None, None] * kept["activation"][0]).sum(0)).cpu().numpy()


def peer_ablation(network: Any, image: np.ndarray, target: int) -> tuple[np.ndarray, float]:
    """pytorch-grad-cam's finished Ablation-CAM map, and its seconds."""
    import torch  # type: ignore[import-not-found]
    from pytorch_grad_cam import AblationCAM  # type: ignore[import-not-found]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-not-found]

    with AblationCAM(model=network, target_layers=[network.layer4[-1]]) as cam:
        start = time.perf_counter()
        found = cam(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()), [ClassifierOutputTarget(target)])
        return found[0], time.perf_counter() - start


def peer_versions(packages: Sequence[str] = ("torch", "torchvision", "grad-cam")) -> dict[str, str]:
    """Versions of what ours is timed beside."""
    from importlib.metadata import version

    return {package: version(package) for package in packages}

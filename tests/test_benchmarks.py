"""The benchmarks run, and what they say holds numerically; no time is asserted."""

import json

from experiments.benchmarks import data, loading, networks


def test_all_class_maps_beside_the_forward_pass(tmp_path):
    result = networks.main(networks.Config(models=("resnet18",), quick=True, out=tmp_path / "networks.json"))
    (row,) = result["networks"]
    assert row["route"] == "closed form"
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

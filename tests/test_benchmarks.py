"""The benchmarks run, and what they say holds numerically; no time is asserted."""

import json

import pytest

from experiments.benchmarks import attention, data, depthwise, loading, networks, pairs


def test_all_class_maps_beside_the_forward_pass(tmp_path):
    result = networks.main(networks.Config(models=("resnet18",), quick=True, out=tmp_path / "networks.json"))
    (row,) = result["networks"]
    assert row["route"] == "closed form"
    assert row["largest_difference_to_pullback"] < 1e-5
    assert row["ratio_to_forward"] > 0
    assert json.loads((tmp_path / "networks.json").read_text()) == result


def test_memory_of_transformers_methods_does_not_grow_with_the_classes(tmp_path):
    chosen = attention.Config(methods=("gradient_rollout", "le_grad"), timed=0, quick=True, out=tmp_path / "a.json")
    result = attention.main(chosen)
    for row in result["attention"]:
        maps = 1000 * 4 * 4 * 4 / 1e6
        assert 0 < row["MB_100_classes"] <= row["MB_1000_classes"] <= row["MB_100_classes"] + 2 * maps
    rollout, le_grad = (row["passes_by_operations"] for row in result["attention"])
    assert 0 < le_grad < rollout < 1.2  # LeGrad's backward passes end at each attention
    assert json.loads((tmp_path / "a.json").read_text()) == result


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


@pytest.mark.slow
def test_counting_all_pairs_of_classes(tmp_path):
    result = pairs.main(pairs.Config(quick=True, out=tmp_path / "pairs.json"))
    assert [row["top"] for row in result["steps"]] == [0, 20, 1000]
    assert all(row["ratio_to_forward"] > 0 for row in result["steps"])
    first, *_, last = (row["temporary_mb"] for row in result["memory"])
    assert 0 < first <= last < result["memory"][-1]["setting_mb"]
    assert json.loads((tmp_path / "pairs.json").read_text()) == result


@pytest.mark.slow
def test_depthwise_convolutions_both_ways(tmp_path):
    result = depthwise.main(depthwise.Config(quick=True, out=tmp_path / "depthwise.json"))
    assert len(result["depthwise"]) == 4
    for row in result["depthwise"]:
        assert row["largest_difference"] < 2e-5
        assert min(row["xla_ms"], row["ours_ms"]) > 0
    assert json.loads((tmp_path / "depthwise.json").read_text()) == result

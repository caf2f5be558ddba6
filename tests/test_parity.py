"""The parity command: all stored numbers, folders of other sizes, and that a wrong number fails."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import ask, grad_cam
from case_jax.imageops import finish_maps, rescale_map
from experiments.parity import compare, goldens
from experiments.parity.__main__ import run
from experiments.parity.precision import rounded

STORED = Path(__file__).parent / "goldens"


@pytest.mark.slow
def test_everything_stored_agrees(capsys, tmp_path):
    """Of one network; the other tests compare the rest with what is stored of all five."""
    network = "convnext"
    for file in STORED.glob(f"{network}*.npz"):
        shutil.copy(file, tmp_path)
    assert run(["--goldens", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "FAIL" not in table
    for quantity in ("logits", "grads", "scorecam final", "ablationcam lowres_large", "case k=5 maps", "drop_swapped"):
        assert any(line.startswith(network) and f" {quantity} " in line for line in table.splitlines()), quantity
    assert "rounding noise in the reference" in table


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A folder of the same format with 13 classes and 72×56 images: the stored ResNet with another head, numbers by plain JAX."""
    folder = tmp_path_factory.mktemp("other")
    rng = np.random.default_rng(0)
    with np.load(STORED / "resnet_basic.npz") as file:
        arrays = {key: file[key] for key in file.files if key.startswith("state/") or key == "target_layer"}
    arrays["state/fc.weight"] = rng.normal(0, 0.2, (13, 24)).astype(np.float32)
    arrays["state/fc.bias"] = rng.normal(0, 0.1, 13).astype(np.float32)
    arrays["x"] = rng.normal(0, 1, (2, 3, 72, 56)).astype(np.float32)
    network = goldens.network("other", arrays)
    images = network.images()
    model = network.tap(images[0])
    views = [model.view(model.params, x) for x in images]
    targets = np.array([[12, 0, 3], [5, 11, 3]])
    jacobians = [np.asarray(jax.jacrev(v.tail)(v.activation)) for v in views]
    low = [np.asarray(grad_cam(v, ask(v, jnp.asarray(t)))) for v, t in zip(views, targets, strict=True)]
    arrays |= {
        "logits": np.stack([v.logits for v in views]),
        "act": np.stack([np.moveaxis(v.activation, -1, 0) for v in views]),
        "gradcam_weights": np.stack([j.mean((1, 2)) for j in jacobians]),
        "grads": np.stack([np.moveaxis(j[t], -1, 1) for j, t in zip(jacobians, targets, strict=True)]),
        "targets": targets,
    }
    maps = {
        "lowres/gradcam": np.stack(low),
        "relerr/gradcam": np.full((2, 3), 1e-7, np.float32),
        "final/gradcam": np.asarray(rescale_map(finish_maps(jnp.asarray(np.stack(low)), (72, 56)))),
    }
    np.savez(folder / "other.npz", **arrays)
    np.savez(folder / "other_maps.npz", **maps)
    return folder


def test_sizes_are_read_from_the_files(other, capsys):
    assert run(["--goldens", str(other)]) == 0
    table = capsys.readouterr().out
    assert "7 of 7 pass, 0 not compared" in table
    assert "gradcam_weights, closed form" in table


@pytest.mark.parametrize(
    ("array", "line"), [("logits", "logits"), ("gradcam_weights", "gradcam_weights, closed form"), ("grads", "grads")]
)
def test_a_wrong_number_fails(other, tmp_path, capsys, array, line):
    with np.load(other / "other.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays[array] = arrays[array] + 1e-3 * np.abs(arrays[array]).max()
    np.savez(tmp_path / "other.npz", **arrays)
    assert run(["--goldens", str(tmp_path)]) == 1
    assert f"FAIL: other, {line}" in capsys.readouterr().out


def test_low_precision_is_reported_and_not_judged(other, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("experiments.parity.precision.REFERENCE", {"gradcam": grad_cam})
    assert run(["--goldens", str(other), "--precision", "bf16"]) == 0
    table = capsys.readouterr().out
    assert "bf16 by rounding the operands" in table
    assert "top-5% pixels changed" in table


def test_rounded_products_have_the_error_of_their_bits():
    a, b = (jnp.asarray(np.random.default_rng(i).normal(size=(64, 64)), jnp.float32) for i in (0, 1))
    function = jax.jit(lambda a, b: jax.nn.relu(a @ b) + 1.0)
    exact = np.asarray(function(a, b))
    plain = np.asarray(a.astype(jnp.bfloat16).astype(jnp.float32) @ b.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(jax.jit(rounded(function, 7))(a, b), np.maximum(plain, 0) + 1, rtol=1e-5, atol=1e-5)
    errors = [float(np.abs(np.asarray(rounded(function, bits)(a, b)) - exact).max()) for bits in (7, 10, 23)]
    assert errors[0] > 4 * errors[1] > errors[2]
    assert errors[2] < 1e-5


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_numbers_is_refused(tmp_path, capsys, folder):
    assert run(["--goldens", str(tmp_path / folder)]) == 2
    assert "goldens: no .npz files in" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(other, capsys):
    assert run(["--goldens", str(other), "--device", "abacus"]) == 2
    assert "device: 'abacus' is not there" in capsys.readouterr().err


def test_verdicts_by_hand():
    reference, near, far = np.array([1.0, -4.0]), np.array([1.0, -4.00004]), np.array([1.0001, -4.0])
    assert compare.relative("n", "q", near, reference, 2e-5).verdict == "pass"
    assert compare.relative("n", "q", far, reference, 2e-5).verdict == "FAIL"
    assert compare.relative("n", "q", far, reference, 2e-5, scale=8).verdict == "pass"
    assert compare.absolute("n", "q", far, reference, 2e-4).verdict == "pass"
    assert compare.absolute("n", "q", [np.nan, -4], reference, 2e-4).verdict == "FAIL"
    assert compare.exact("n", "q", [1, 2], [1, 2]).verdict == "pass"
    assert compare.exact("n", "q", [1, 2], [1, 3]).verdict == "FAIL"


def test_agreements_are_numbers_of_pixels():
    shares = np.arange(2509) / 2508  # of the top 5% of 224×224; as float32, 21 of them round to another sixth digit
    narrow = shares.astype(np.float32)
    assert (narrow.astype(np.float64).round(6) != shares.round(6)).any()
    assert compare.pixels("n", "q", narrow, shares, 2508)[1:] == ("q, pixels", 0.0, 0.0, "exact", "pass")
    one_more = compare.pixels("n", "q", [17 / 2508, 0.5], [18 / 2508, 0.5], 2508)
    assert (one_more.verdict, one_more.absolute) == ("FAIL", 1)
    for other in (17.5 / 2508, np.nan):  # no number of pixels
        assert compare.pixels("n", "q", [other], [other], 2508).verdict == "FAIL"

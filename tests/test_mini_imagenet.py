"""A miniature ImageNet from its archive to rows, however many images, devices and processes take part in a step."""

import io
import tarfile

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from PIL import Image
from processes import cpu_environment, on_devices, start, start_two, succeed
from random_weights import write_random_weights

from case_jax.data.imagenet import prepare_imagenet
from case_jax.models.resnet import BasicBlock, Bottleneck
from case_jax.results import RunFolder
from case_jax.stats import summarise

pytestmark = pytest.mark.slow

IMAGES, TRUNCATED = 10, 7
NARROW = {"widths": (8, 16, 16, 32), "stem": 8}
SMALL = {"pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.875, "interpolation": "bilinear"}}


def photograph(number):
    """A piece of one of the two photographs that come with scikit-learn, as JPEG."""
    rng = np.random.default_rng(number)
    whole = sklearn.datasets.load_sample_images().images[number % 2]
    top, left = rng.integers(0, 200), rng.integers(0, 400)
    buffer = io.BytesIO()
    Image.fromarray(whole[top : top + 100 + number, left : left + 150]).save(buffer, "JPEG")
    return buffer.getvalue()[: -500 if number == TRUNCATED else None]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Words and environment of an evaluation of the prepared images."""
    data, weights = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("weights")
    with tarfile.open(data / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in range(1, IMAGES + 1):
            entry, content = tarfile.TarInfo(f"./ILSVRC2012_val_{number:08d}.JPEG"), photograph(number)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    prepare_imagenet(data / "ILSVRC2012_img_val.tar", data_dir=data)
    file = write_random_weights(weights, "resnet18", 1000, SMALL, block=BasicBlock, depths=(2, 2, 2, 2), **NARROW)
    words = ["evaluate", "--model", "resnet18", "--weights", file, "--data", "tfds:imagenet2012:validation"]
    words += ["--methods", "grad_cam", "case", "--metrics", "sensitivity", "fidelity", "--fidelity-percents", "50"]
    words += ["--contrast", "topk_logits:3"]
    # Bits of optimised programs are compared in test_processes; a network of this size takes long to optimise.
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TFDS_DATA_DIR": str(data)}
    return words, cpu_environment(tmp_path_factory.mktemp("xla")) | quick


@pytest.fixture(scope="module")
def one_device(evaluated, tmp_path_factory):
    return rows_of(*evaluated, tmp_path_factory.mktemp("one"), 4)


def rows_of(words, environment, out, tile, begin=lambda words, environment: [start(words, environment)]):
    succeed(begin([*words, "--tile", tile, "--part", tile, "--out", out], environment))
    return RunFolder(out).rows()


def test_devices_and_processes_change_no_bit(evaluated, one_device, tmp_path):
    words, environment = evaluated
    assert one_device.groupby("method").size().to_dict() == {"grad_cam": IMAGES - 1, "case": IMAGES - 1}
    for count in (2, 8):
        rows = rows_of(words, on_devices(environment, count), tmp_path / f"{count}", 4)
        pd.testing.assert_frame_equal(rows, one_device, check_exact=True)
    rows = rows_of(words, environment, tmp_path / "two", 4, start_two)
    pd.testing.assert_frame_equal(rows, one_device, check_exact=True)
    assert [e["name"] for e in RunFolder(tmp_path / "two").excluded()] == [f"ILSVRC2012_val_{TRUNCATED:08d}.JPEG"]


@pytest.mark.parametrize("tile", [1, 7, 32])
def test_batch_size_moves_scores_by_less_than_the_tolerance(evaluated, one_device, tmp_path, tile):
    rows = rows_of(*evaluated, tmp_path / "run", tile)
    assert (rows["top1"] == one_device["top1"]).all()
    for column in ("F", "F_plus", "p_removed_50"):
        np.testing.assert_allclose(rows[column], one_device[column], atol=1e-2)
    verdicts = [summarise(r, resamples=20).table["sensitive_0.5"].tolist() for r in (rows, one_device)]
    assert verdicts[0] == verdicts[1]


def test_the_paper_s_masker_of_a_resnet_50_trains(evaluated, tmp_path):
    """Its hyper-parameters are the defaults; three steps of two images."""
    file = write_random_weights(tmp_path, "resnet50", 1000, SMALL, block=Bottleneck, depths=(3, 4, 6, 3), **NARROW)
    words = ["train", "masker", "--model", "resnet50", "--weights", file, "--data", "tfds:imagenet2012:validation"]
    words += ["--augment", "--batch", 2, "--share", 0.1, "--epochs", 3, "--out", tmp_path / "run"]
    succeed([start(words, evaluated[1])])
    config = RunFolder(tmp_path / "run").config()["masker"]
    assert (config["stages"], config["width"], config["masked_out"]["size_weight"]) == (None, 64, 10.0)
    assert (config["masker_rate"], config["classifier_rate"], config["history_size"]) == (1e-3, 1e-3, 30)
    curves = pd.read_csv(tmp_path / "run" / "log.csv")
    assert curves["step"].tolist() == [3]
    assert np.isfinite(curves).all(axis=None)

"""Sweeps as whole processes: on tables of devices, and killed."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from processes import cpu_environment, end, on_devices, start, start_two, succeed

from case_jax.evaluation.studies.pair_sums import tiles_counted
from case_jax.results import RunFolder

pytestmark = pytest.mark.slow

ON_DEVICES = """
import sys
import numpy as np
from case_jax import METHODS
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import PairAgreement, Pixels, Subject
from case_jax.evaluation.studies import prepare_pairs, run_pairs
from case_jax.imageops import normalise_image
from case_jax.models import load_classifier, tap_classifier

classifier = load_classifier()
pixels, source = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std), DigitScenes("test", 21)
image = normalise_image(source[0].image, *pixels)
model = tap_classifier(classifier, image, layer="blocks.1")  # weights are pulled back, gradients taken: what shards must not sum
methods = {name: METHODS[name].maps for name in ("case", "saliency")}
found = {}
for top in (None, 6):  # 25 and 6 classes, which 4 and 8 do not divide
    for shards in (int(n) for n in sys.argv[2:] if top is None or int(n) in (1, 4)):
        study, subject = PairAgreement(top, class_shards=shards), Subject(source, model, choose_contrast("topk_logits:4", 25), pixels, methods)
        done = run_pairs(prepare_pairs(study, subject, tile=4), None)
        assert done.counted == 21
        for kind in ("overlap", "images", "degenerate"):
            found[f"{top} {shards} {kind}"] = getattr(done, kind)
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**cpu_environment(tmp_path_factory.mktemp("xla")), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def test_every_table_of_devices_gives_the_sums_of_one_device(environment, tmp_path):
    """(8, 1) bit for bit; (4, 2), (2, 4) and (1, 8) too on this machine, but other shapes may move a pixel in 100,000."""
    for devices, shards in ((1, ("1",)), (8, ("1", "2", "4", "8"))):
        command = [sys.executable, "-c", ON_DEVICES, str(tmp_path / f"{devices}.npz"), *shards]
        subprocess.run(command, env=on_devices(environment, devices), timeout=240, check=True)
    one, eight = (np.load(tmp_path / f"{devices}.npz") for devices in (1, 8))
    for top in (None, 6):
        reference = one[f"{top} 1 overlap"]
        assert reference.sum() > 0
        np.testing.assert_array_equal(eight[f"{top} 1 overlap"], reference)
        for shards in (1, 2, 4, 8) if top is None else (1, 4):
            np.testing.assert_array_equal(eight[f"{top} {shards} images"], one[f"{top} 1 images"])
            np.testing.assert_array_equal(eight[f"{top} {shards} degenerate"], one[f"{top} 1 degenerate"])
            assert np.abs(eight[f"{top} {shards} overlap"] - reference).sum() <= 1e-5 * reference.sum()


WORDS = (
    *("pairs", "--limit", 120, "--tile", 8, "--save-seconds", 0, "--contrast", "topk_logits:3"),
    *("--methods", "case", "random"),
)
TILES = 15


def into(out):
    return [*WORDS, "--out", out]


def sums(out):
    with np.load(out / "pairs.npz") as found:
        return found["agreement"], found["images"]


def counted(out):
    return tiles_counted(RunFolder(out)) if (out / "parts").exists() else 0


def wait_for_more(started, out, before):
    deadline = time.monotonic() + 120
    while counted(out) <= before and started[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert counted(out) > before


@pytest.fixture(scope="module")
def unbroken(environment, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    succeed([start(into(out), environment)])
    assert json.loads((out / "summary.json").read_text())["counts"]["images"] == 120
    return sums(out)


def test_shard_map_counts_the_same_integers(environment, unbroken, tmp_path):
    succeed([start([*into(tmp_path), "--mapper", "shard_map"], on_devices(environment, 8))])
    np.testing.assert_array_equal(sums(tmp_path), unbroken)


def test_a_killed_sweep_ends_with_the_integers_of_an_unbroken_one(environment, unbroken, tmp_path):
    for kill in (signal.SIGKILL, signal.SIGTERM):
        before = counted(tmp_path)
        started = start(into(tmp_path), environment)
        wait_for_more(started, tmp_path, before)
        started[0].send_signal(kill)
        status, errors = end(started, 60)
        assert status in (-kill, 128 + kill), errors
    assert "the same command resumes" in errors
    assert counted(tmp_path) < TILES  # some work was left
    succeed([start(into(tmp_path), environment)])
    np.testing.assert_array_equal(sums(tmp_path), unbroken)


def test_two_processes_count_what_one_does_and_resume_as_one(environment, unbroken, tmp_path):
    both = start_two(into(tmp_path), environment)
    wait_for_more(both[0], tmp_path, 1)
    both[1][0].send_signal(signal.SIGKILL)
    status, errors = end(both[0], 60)
    assert status != 0
    assert "process 0 of 2 has ended before the run was complete" in errors
    end(both[1], 60)
    left = TILES - counted(tmp_path)
    assert left > 0
    succeed(start_two(into(tmp_path), environment))
    np.testing.assert_array_equal(sums(tmp_path), unbroken)
    assert len(list((tmp_path / "parts").glob("sums-*.npz"))) == 2

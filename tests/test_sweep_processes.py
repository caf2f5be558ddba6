"""Sweeps as whole processes: on tables of devices, and killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ON_DEVICES = """
import sys
import numpy as np
from case_jax import METHODS
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation.step import Pixels
from case_jax.evaluation.sweep import sweep
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
        done = sweep(source, model, choose_contrast("topk_logits:4", 25), methods, pixels=pixels, top=top, tile=4, class_shards=shards)
        assert done.counted == 21
        for kind in ("overlap", "images", "degenerate"):
            found[f"{top} {shards} {kind}"] = getattr(done, kind)
np.savez(sys.argv[1], **found)
"""


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": flags}


def test_every_table_of_devices_gives_the_sums_of_one_device(tmp_path):
    """(8, 1) bit for bit; (4, 2), (2, 4) and (1, 8) too on this machine, but other shapes may move a pixel in 100,000."""
    for devices, shards in ((1, ("1",)), (8, ("1", "2", "4", "8"))):
        command = [sys.executable, "-c", ON_DEVICES, str(tmp_path / f"{devices}.npz"), *shards]
        subprocess.run(command, env=environment(devices), timeout=240, check=True)
    one, eight = (np.load(tmp_path / f"{devices}.npz") for devices in (1, 8))
    for top in (None, 6):
        reference = one[f"{top} 1 overlap"]
        assert reference.sum() > 0
        np.testing.assert_array_equal(eight[f"{top} 1 overlap"], reference)
        for shards in (1, 2, 4, 8) if top is None else (1, 4):
            np.testing.assert_array_equal(eight[f"{top} {shards} images"], one[f"{top} 1 images"])
            np.testing.assert_array_equal(eight[f"{top} {shards} degenerate"], one[f"{top} 1 degenerate"])
            assert np.abs(eight[f"{top} {shards} overlap"] - reference).sum() <= 1e-5 * reference.sum()


TO_KILL = """
from case_jax import METHODS
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation.step import Pixels
from case_jax.evaluation.sweep import sweep
from case_jax.imageops import normalise_image
from case_jax.models import load_classifier, tap_classifier
from case_jax.results import RunFolder

def run(out):
    classifier = load_classifier()
    pixels, source = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std), DigitScenes("test", 120)
    model = tap_classifier(classifier, normalise_image(source[0].image, *pixels))
    methods = {name: METHODS[name].maps for name in ("case", "random")}
    contrast = choose_contrast("topk_logits:3", 25)
    return sweep(source, model, contrast, methods, pixels=pixels, tile=8, folder=RunFolder(out), save_seconds=0, progress=False)
"""


def test_a_killed_sweep_ends_with_the_integers_of_an_unbroken_one(tmp_path):
    here = {}
    exec(TO_KILL, here)
    command = [sys.executable, "-c", TO_KILL + "import sys\nrun(sys.argv[1])", str(tmp_path / "killed")]
    file = tmp_path / "killed" / "parts" / "sums-000000.npz"
    counted = []
    for _ in range(2):
        before = file.stat().st_mtime_ns if file.exists() else 0
        process = subprocess.Popen(command, env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if file.exists() and file.stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with np.load(file) as sums:
            counted.append(len(sums["tiles"]))
    assert 0 < counted[0] < 15  # some work was left
    found, unbroken = here["run"](tmp_path / "killed"), here["run"](tmp_path / "unbroken")
    for name in ("overlap", "images", "degenerate"):
        np.testing.assert_array_equal(getattr(found, name), getattr(unbroken, name))
    assert (found.counted, found.missing) == (120, 0)

"""Fifty thousand images through the whole path."""

import subprocess
import sys

import pytest

from case_jax.results import RunFolder

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys
import jax, jax.numpy as jnp, numpy as np
import case_jax
from case_jax.contrast.choice import choose_contrast
from case_jax.evaluation import Evaluate, Pixels, Subject, prepare, run
from case_jax.results import RunFolder
from case_jax.source import Example

N = 50_000

class Noise:
    name, class_names, fingerprint = "noise", None, "v1"

    def __len__(self):
        return N

    def __getitem__(self, i):
        if i in (N // 10, N - 1):
            pages = int(open("/proc/self/statm").read().split()[1])
            print("rss", i, pages * os.sysconf("SC_PAGE_SIZE"), flush=True)
        return Example(i, f"noise {i}", np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8), -1)

def network(params, x):
    return case_jax.tag(jax.nn.relu(x @ params["mix"]), "a").mean((0, 1)) @ params["head"]

rng = np.random.default_rng(0)
params = {"mix": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "head": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}
model = case_jax.tap_function(network, params, "a", jnp.zeros((8, 8, 3)))
contrast, pixels = choose_contrast("topk_logits:1", 3), Pixels((0.5,) * 3, (0.25,) * 3)
job = prepare(Evaluate(("sensitivity",)), Subject(Noise(), model, contrast, pixels, ("grad_cam",)), tile=50, part=500)
run(job, RunFolder(sys.argv[1]))
"""


def test_memory_is_flat_and_no_row_is_lost(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    at = {int(i): int(size) for _, i, size in map(str.split, done.stdout.splitlines())}
    assert at[49_999] < 1.05 * at[5_000], at
    rows = RunFolder(tmp_path / "run").rows()
    assert rows["image_id"].tolist() == list(range(50_000))

"""Whole processes: killed and resumed, on one device and on eight."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from case_jax.results import RunFolder

pytestmark = pytest.mark.slow

COMMAND = (
    sys.executable,
    "-m",
    "case_jax.cli",
    "evaluate",
    "--methods",
    "grad_cam",
    "case",
    "random",
    "--contrast",
    "topk_logits:3",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A shared compilation cache, so that twelve starts compile once."""
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "JAX_PLATFORMS": "cpu"}


def complete(arguments, environment):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_ten_kills_and_the_rows_of_an_unbroken_run(environment, tmp_path):
    arguments = ["--limit", 400, "--tile", 8, "--part", 8]
    complete([*arguments, "--out", tmp_path / "unbroken"], environment)
    folder = RunFolder(tmp_path / "killed")
    rng = np.random.default_rng(0)
    moments = []
    for kill in range(10):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--out", str(folder.path)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        # half of the kills come at any moment before the first new part, half right after one
        written = len(list(folder.parts.glob("*.parquet")))
        deadline = time.monotonic() + (rng.uniform(0, 6) if kill % 2 else 120)
        while (
            time.monotonic() < deadline
            and process.poll() is None
            and len(list(folder.parts.glob("*.parquet"))) == written
        ):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(len(list(folder.parts.glob("*.parquet"))))
    assert moments[-1] > 0, moments
    assert moments[-1] < 50, moments  # some work was left for the last resumption
    complete([*arguments, "--out", folder.path], environment)
    pd.testing.assert_frame_equal(folder.rows(), RunFolder(tmp_path / "unbroken").rows(), check_exact=True)


def test_one_and_eight_devices_give_the_same_bits(environment, tmp_path):
    arguments = ["--limit", 150, "--tile", 8, "--part", 16]
    rows = []
    for devices in (1, 8):
        flags = {**environment, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        complete([*arguments, "--out", tmp_path / str(devices)], flags)
        rows.append(RunFolder(tmp_path / str(devices)).rows())
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    session = (tmp_path / "8" / "sessions.jsonl").read_text()
    assert session.count("cpu:") == 8


def test_a_run_may_be_resumed_on_another_number_of_devices(environment, tmp_path):
    arguments = ["--limit", 96, "--tile", 8, "--part", 8]
    folder = RunFolder(tmp_path / "run")
    complete([*arguments, "--out", folder.path], environment)
    whole = folder.rows()
    for part in (0, 5, 11):
        folder.part(part).unlink()
    complete(
        [*arguments, "--out", folder.path], {**environment, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    )
    pd.testing.assert_frame_equal(folder.rows(), whole, check_exact=True)

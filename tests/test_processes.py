"""Whole processes: killed in every way and resumed, on one device and on eight, one process and two."""

import json
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from processes import cpu_environment, end, on_devices, start, start_two, succeed

from case_jax.results import RunFolder

pytestmark = pytest.mark.slow

WORDS = (
    *("evaluate", "--limit", 200, "--tile", 8, "--part", 16),
    *("--methods", "grad_cam", "case", "eigen_cam", "eigen_grad_cam", "random"),
    *("--metrics", "sensitivity", "fidelity", "--contrast", "topk_logits:3"),
)
PARTS = 13


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return cpu_environment(tmp_path_factory.mktemp("xla"))


def into(out):
    return [*WORDS, "--out", out]


def complete(out, environment, *more):
    succeed([start([*into(out), *more], environment)])
    return RunFolder(out).rows()


def parts(folder):
    return len(list(folder.parts.glob("part-*.parquet")))


def wait_for_parts(started, folder, count):
    deadline = time.monotonic() + 180
    while parts(folder) < count and started[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert parts(folder) >= count, end(started, 10)[1]


def same(rows, others):
    pd.testing.assert_frame_equal(rows, others, check_exact=True)


@pytest.fixture(scope="module")
def unbroken(environment, tmp_path_factory):
    return complete(tmp_path_factory.mktemp("unbroken") / "run", environment)


def test_ten_kills_and_the_rows_of_an_unbroken_run(environment, unbroken, tmp_path):
    folder, rng, moments = RunFolder(tmp_path / "run"), np.random.default_rng(0), []
    for kill in range(10):
        started = start(into(folder.path), environment)
        if kill % 2 and parts(folder) < PARTS - 3:  # right after a part was written
            wait_for_parts(started, folder, parts(folder) + 1)
        else:  # at any moment
            time.sleep(rng.uniform(0, 2))
        asks = kill % 3 == 1
        started[0].send_signal(signal.SIGTERM if asks else signal.SIGKILL)
        status, errors = end(started, 60)
        assert not asks or status in (-signal.SIGTERM, 128 + signal.SIGTERM), errors
        moments.append(parts(folder))
    assert 0 < moments[-1] < PARTS, moments  # some work was done, and some was left for the last resumption
    same(complete(folder.path, environment), unbroken)
    assert not list(folder.parts.glob("begun-*"))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_both_resume(environment, unbroken, tmp_path, killed):
    folder = RunFolder(tmp_path / "run")
    both = start_two(into(folder.path), environment)
    wait_for_parts(both[0], folder, 2)
    both[killed][0].send_signal(signal.SIGKILL)
    status, errors = end(both[1 - killed], 60)
    assert status != 0
    assert f"process {1 - killed} of 2 has ended before the run was complete" in errors
    assert "start the same command in every process again" in errors
    end(both[killed], 60)
    assert parts(folder) < PARTS
    succeed(start_two(into(folder.path), environment))
    same(RunFolder(folder.path).rows(), unbroken)
    assert {json.loads(line)["process"] for line in (folder.path / "pace.jsonl").read_text().splitlines()} == {0, 1}
    assert (folder.path / "report.html").exists()


def test_processes_of_another_configuration_do_not_mix(environment, tmp_path):
    both = start_two(into(tmp_path / "run"), environment, ("--seed", 0), ("--seed", 1))
    (first, _), (second, errors) = (end(started, 120) for started in both)
    assert first != 0
    assert second == 2
    assert "holds a run with another configuration" in errors
    assert "seed: the folder has 0, this run 1" in errors


def test_the_number_of_devices_changes_no_bit(environment, unbroken, tmp_path):
    folder = RunFolder(tmp_path / "run")
    same(complete(folder.path, on_devices(environment, 8)), unbroken)
    assert (folder.path / "sessions.jsonl").read_text().count("cpu:") == 8
    for devices, others in ((4, range(0, PARTS, 2)), (2, (1, 5, 12))):
        for part in others:
            folder.part(part).unlink()
        same(complete(folder.path, on_devices(environment, devices)), unbroken)


def test_shard_map_changes_no_bit(environment, unbroken, tmp_path):
    same(complete(tmp_path / "run", on_devices(environment, 8), "--mapper", "shard_map"), unbroken)


def test_a_full_disk_keeps_what_is_there(environment, unbroken, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", disk], capture_output=True, check=False)

    if mount("-o", "size=100k").returncode != 0:
        pytest.skip("small file systems cannot be mounted here")
    try:
        folder = RunFolder(disk / "run")
        status, errors = end(start(into(folder.path), environment), 300)
        assert status == 2, errors
        assert "No space left on device" in errors
        assert 0 < parts(folder) < PARTS
        assert mount("-o", "remount,size=20m").returncode == 0
        same(complete(folder.path, environment), unbroken)
    finally:
        subprocess.run(["umount", disk], check=True)

"""Confusions counted by whole processes: on one device and on eight, by one process and by two, killed and resumed."""

import json
import signal
import time

import numpy as np
import pytest
from processes import cpu_environment, end, on_devices, start, start_two, succeed

from case_jax.results import RunFolder

pytestmark = pytest.mark.slow

WORDS = (
    *("evaluate", "--limit", 8, "--tile", 4, "--part", 4, "--methods", "case", "--metrics", "sensitivity"),
    *("--contrast", "confusion:5", "--contrast-limit"),
)
LIMIT, MANY = 1010, 20_000


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return cpu_environment(tmp_path_factory.mktemp("xla"))


def into(out, limit=LIMIT):
    return [*WORDS, limit, "--out", out]


def files(out):
    return sorted(out.glob("confusions/*/sums-*.npz"))


def sums(out):
    """Everything that was counted, and the contrast sets that came of it."""
    found = {"confused": 0, "probabilities": 0}
    for file in files(out):
        with np.load(file) as stored:
            found = {name: total + stored[name] for name, total in found.items()}
    (drawn,) = out.glob("confusions/*/drawn.json")
    contrast = json.loads((out / "contrast.json").read_text())
    return {
        **found,
        "drawn": json.loads(drawn.read_text())["indices"],
        "table": contrast["table"],
        "images": contrast["images"],
    }


def same(out, other):
    found, expected = sums(out), sums(other)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)
    assert RunFolder(out).rows().equals(RunFolder(other).rows())


@pytest.fixture(scope="module")
def one(environment, tmp_path_factory):
    """One process on one device."""
    out = tmp_path_factory.mktemp("one") / "run"
    succeed([start(into(out), environment)])
    assert sums(out)["confused"].sum() == LIMIT
    return out


@pytest.fixture(scope="module")
def many(environment, tmp_path_factory):
    """The same over so many images that it can be stopped halfway."""
    out = tmp_path_factory.mktemp("many") / "run"
    succeed([start(into(out, MANY), environment)])
    return out


@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_changes_no_bit(environment, one, tmp_path, devices):
    succeed([start(into(tmp_path / "run"), on_devices(environment, devices))])
    same(tmp_path / "run", one)


def test_two_processes_count_a_share_each_and_nothing_again(environment, one, tmp_path):
    out = tmp_path / "run"
    succeed(start_two(into(out), environment))
    same(out, one)
    shares = [np.load(file)["tiles"].tolist() for file in files(out)]
    assert [len(share) for share in shares] == [16, 16]
    before = [file.stat().st_mtime_ns for file in files(out)]
    for process in start_two(into(out), environment):
        status, errors = end(process, 300)
        assert status == 0, errors
        assert "confusions: counted before" in errors
    assert [file.stat().st_mtime_ns for file in files(out)] == before


def test_two_processes_finish_what_one_has_begun_and_the_other_way_round(environment, one, tmp_path):
    """Of two processes' files the first is lost; of one process's file a copy holds too much."""
    out = tmp_path / "run"
    succeed(start_two(into(out), environment))
    files(out)[0].unlink()
    succeed([start(into(out), environment)])
    same(out, one)
    files(out)[1].unlink()
    succeed(start_two(into(out), environment))
    same(out, one)


def wait_for_drawn(started, out):
    deadline = time.monotonic() + 180
    while not list(out.glob("confusions/*/drawn.json")) and started[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1.5)  # some batches
    assert not (out / "config.json").exists(), end(started, 10)[1]  # still counting


def counted(out):
    return sum(len(np.load(file)["tiles"]) for file in files(out))


def test_a_counting_that_is_told_to_stop_keeps_what_it_has(environment, many, tmp_path):
    out = tmp_path / "run"
    started = start(into(out, MANY), environment)
    wait_for_drawn(started, out)
    started[0].send_signal(signal.SIGTERM)
    status, errors = end(started, 60)
    assert status in (-signal.SIGTERM, 128 + signal.SIGTERM), errors
    assert "confusions counted so far are kept, and the same command goes on from there" in errors
    assert 0 < counted(out) < MANY // 32
    succeed([start(into(out, MANY), environment)])
    same(out, many)


def test_a_killed_process_ends_the_other_and_both_go_on(environment, many, tmp_path):
    out = tmp_path / "run"
    both = start_two(into(out, MANY), environment)
    wait_for_drawn(both[0], out)
    both[1][0].send_signal(signal.SIGKILL)
    status, errors = end(both[0], 60)
    assert status != 0
    assert "process 0 of 2 has ended before the run was complete" in errors
    end(both[1], 60)
    succeed(start_two(into(out, MANY), environment))
    same(out, many)


def test_processes_that_count_something_else_do_not_mix(environment, tmp_path):
    both = start_two(into(tmp_path / "run"), environment, ("--seed", 0), ("--seed", 1))
    (first, _), (second, errors) = (end(started, 120) for started in both)
    assert first != 0
    assert second == 2
    assert "this process finds no images in" in errors
    assert "Start every process with the same command" in errors

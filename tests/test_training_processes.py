"""Trainings over whole processes: the parameters of one process, killed, stopped and gone on in another number of them."""

import re
import signal
import time

import numpy as np
import pytest
from PIL import Image
from processes import cpu_environment, end, on_devices, start, start_two, succeed
from safetensors.numpy import load_file

from case_jax.results import RunFolder
from case_jax.training.loop import read_curves

pytestmark = pytest.mark.slow

STEPS = 20
TORN = "09/1.png"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return cpu_environment(tmp_path_factory.mktemp("xla"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three photographs of each of 25 classes, one of them torn."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(75):
        file = folder / f"{number // 3:02}" / f"{number % 3}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(file)
    (folder / TORN).write_bytes((folder / TORN).read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def masker(photographs):
    """The words of a training with everything in it: a learning classifier, its past, both optimisers, random views, a torn image."""
    return (
        *("train", "masker", "--classifier", "history", "--history-size", 3, "--history-every", 4, "--width", 8),
        *("--data", f"folder:{photographs}", "--augment", "--targets", "two", "--class-conditional"),
        *("--share", 1, "--batch", 12, "--epochs", 4, "--save-every", 2, "--decay-epochs", 2),
    )  # epochs of 6 steps


@pytest.fixture(scope="module")
def unbroken(environment, masker, tmp_path_factory):
    """That training in one process with four devices."""
    return alone(masker, tmp_path_factory.mktemp("unbroken") / "run", environment)


def alone(words, out, environment):
    succeed([start([*words, "--out", out], on_devices(environment, 4))])
    return out


def both(words, out, environment):
    return start_two([*words, "--out", out], on_devices(environment, 2))


def newest(out):
    """The step of the newest checkpoint."""
    return max((int(step.name) for step in (out / "checkpoints").glob("[0-9]*") if step.name.isdigit()), default=0)


def begun(words, out, environment):
    """Two processes that have gone on to another checkpoint."""
    before, started = newest(out), both(words, out, environment)
    deadline = time.monotonic() + 240
    while newest(out) == before and started[0][0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert newest(out) > before, end(started[0], 10)[1]
    return started


def same(out, other):
    """The same files of parameters, bit for bit."""
    names = sorted(file.name for file in out.glob("*.safetensors"))
    assert names == sorted(file.name for file in other.glob("*.safetensors"))
    assert names
    for name in names:
        found, expected = load_file(out / name), load_file(other / name)
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array, err_msg=f"{name}: {key}")


def log_of(out):
    """Its lines without the seconds."""
    return [{**row, "seconds": 0} for row in read_curves(out / "log.csv")]


def test_two_processes_train_the_masker_of_one(environment, masker, unbroken, tmp_path):
    out = tmp_path / "run"
    succeed(both(masker, out, environment))
    same(out, unbroken)
    assert log_of(out) == log_of(unbroken)
    found = [RunFolder(folder).unreadable() for folder in (out, unbroken)]
    assert list(found[0]) == [TORN]
    assert found[0] == found[1]
    assert len((out / "sessions.jsonl").read_text().splitlines()) == 1
    assert (out / "report.html").exists()


def test_two_processes_train_the_classifier_of_one(environment, tmp_path):
    """From random parameters by Adam, which makes 5e-3 of a wrong last bit in twenty steps."""
    words = ("train", "classifier", "--fresh", "--limit", 80, "--share", 0.2, "--batch", 16, "--epochs", STEPS)
    one = alone(words, tmp_path / "one", environment)
    assert read_curves(one / "log.csv")[-1]["step"] == STEPS
    succeed(both(words, tmp_path / "two", environment))
    same(tmp_path / "two", one)
    assert log_of(tmp_path / "two") == log_of(one)


def test_stopped_and_killed_processes_end_alike_and_one_alone_goes_on(environment, masker, unbroken, tmp_path):
    """A signal to one process stops both at one step; a killed one, be it the one where they meet, ends the other, which says how to go on."""
    out = tmp_path / "run"
    started = begun(masker, out, environment)
    started[1][0].send_signal(signal.SIGTERM)
    ends = [end(one, 60) for one in started]
    words = [
        re.findall(r"stopped by SIGTERM; step (\d+) of 24 is kept, and the same command goes on", e) for _, e in ends
    ]
    assert words == [[str(newest(out))]] * 2, ends
    assert all(status != 0 for status, _ in ends)
    for killed in (0, 1):
        started = begun(masker, out, environment)
        started[killed][0].send_signal(signal.SIGKILL)
        status, errors = end(started[1 - killed], 60)
        end(started[killed], 60)
        assert status != 0
        assert "start the same command in every process again" in errors
        assert newest(out) < 24
        assert not (out / "masker.safetensors").exists()
    same(alone(masker, out, environment), unbroken)
    assert log_of(out)[-1] == log_of(unbroken)[-1]
    steps = [row["step"] for row in log_of(out)]  # a line more where the signal came between two
    assert steps == sorted({*steps, *(row["step"] for row in log_of(unbroken))})


def test_a_batch_that_all_devices_cannot_share_is_refused(environment, tmp_path):
    for started in both(("train", "infiller", "--batch", 10), tmp_path / "run", environment):
        status, errors = end(started, 120)
        assert status == 2
        assert "batch: got 10; accepted: a multiple of the number of devices of all 2 processes, 4." in errors
    assert not (tmp_path / "run").exists()

"""A run in which nothing moves any more says what it waits for, keeps what it has and ends; compiling is no stall."""

import os
import re
import socket
import threading
import time

import jax
import pandas as pd
import pytest
from processes import COMMANDS, cpu_environment, end, on_devices, start, succeed

from case_jax import CaseJaxError, parallel, stopping
from case_jax.data import DigitScenes
from case_jax.methods import METHODS
from case_jax.results import RunFolder
from case_jax.stall import FIRST, LEAST, STATUS, TIMES, Stall, require_stall
from case_jax.stopping import Stopping

MINUTE = 60.0


def minutes_until(stall):
    """Looks once a minute, until the loop has stood still for too long."""
    return next(minute for minute in range(1, 1000) if stall.waited(MINUTE)) - 1


def test_minutes_that_are_given_are_the_limit_from_the_start():
    stall = Stall(3)
    stall.moved("anything")
    assert not stall.waited(MINUTE)  # before this look it has moved
    assert minutes_until(stall) == 2


def test_without_minutes_the_limit_is_learnt_from_the_batches():
    stall = Stall(None)
    assert minutes_until(stall) == FIRST
    stall = Stall(None)
    for wait in (40, 1, 2):  # the first batch may take longer
        for _ in range(wait):
            assert not stall.waited(MINUTE)
        stall.finished()
    assert stall.minutes == TIMES * 40
    quick = Stall(None)
    for _ in range(3):
        quick.finished()
        assert not quick.waited(1.0)
    assert quick.minutes == LEAST
    quick.finished()
    assert minutes_until(quick) == LEAST


def test_devices_that_work_on_the_first_batch_have_not_stalled():
    stall = Stall(None)
    assert not any(stall.waited(MINUTE, busy=True) for _ in range(999))
    stall.finished()
    assert (
        next(n for n in range(999) if stall.waited(MINUTE, busy=True)) == LEAST
    )  # later batches tell how long one takes
    given = Stall(2)
    assert next(n for n in range(999) if given.waited(MINUTE, busy=True)) == 2


def test_every_sign_of_life_starts_anew():
    stall = Stall(2)
    for _ in range(10):
        assert not stall.waited(MINUTE)
        assert not stall.waited(MINUTE)
        stall.moved("the next image")
    assert stall.waits_for == "the next image"


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), -float("inf")])
def test_other_minutes_are_refused(minutes):
    with pytest.raises(CaseJaxError, match=r"stall: got .*; accepted: a number of minutes above 0"):
        require_stall(minutes)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_minutes_are_refused_before_anything_is_read(shell, command):
    status, _, err = shell(*COMMANDS[command], "--stall", 0)
    assert status == 2
    assert "stall: got 0.0; accepted: a number of minutes above 0" in err


@pytest.fixture
def exits(monkeypatch):
    """Where a process would end: statuses, and an event that is set then."""

    def leave(status):
        statuses.append(status)
        ended.set()

    statuses, ended = [], threading.Event()
    monkeypatch.setattr(os, "_exit", leave)
    return statuses, ended


def stuck_reading(monkeypatch, ended, index):
    read = DigitScenes.__getitem__

    def slow(self, i):
        if i == index and len(self) > index + 1:  # in the run's own images
            ended.wait(60)
        return read(self, i)

    monkeypatch.setattr(DigitScenes, "__getitem__", slow)


KEPT = {
    "evaluate": "all that was computed is kept, and the same command resumes",
    "pairs": "the sums written last are kept, and the same command resumes",
    "localise": "all that was computed is kept, and the same command resumes",
    "sanity": "all that was computed is kept, and the same command resumes",
    "grid-pointing": "nothing of it is kept, and the same command starts anew",
    "train": "step 0 of 4 is kept, and the same command goes on there",
}


@pytest.mark.parametrize(
    "command", [c if c == "evaluate" else pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS]
)
def test_images_that_never_come_end_every_command(shell, exits, monkeypatch, command):
    statuses, ended = exits
    stuck_reading(monkeypatch, ended, 10)
    status, _, err = shell(*COMMANDS[command], "--stall", 0.06, "--out", "run")
    assert status == 0, err  # `os._exit` has returned, and the image has come
    assert statuses == [STATUS]
    batch = r"the batch of step \d" if command == "train" else r"tile \d"
    waits = f"waits for images to be read, (the first ones|those behind {batch})"
    assert re.search(f"no batch has finished for 0.06 minutes: process 0 of 1 {waits}; {KEPT[command]}", err), err


def stuck_in_the_step(ended, after):
    calls = []

    def wait(maps):
        calls.append(1)
        if len(calls) > after:
            ended.wait(60)
        return maps

    def stuck(view, query):
        maps = METHODS["grad_cam"].maps(view, query)
        like = jax.ShapeDtypeStruct(maps.shape, maps.dtype)
        return jax.pure_callback(wait, like, maps, vmap_method="sequential")

    return METHODS["grad_cam"]._replace(maps=stuck)


def test_a_device_that_never_answers_ends_the_run_and_what_was_done_is_kept(shell, exits, monkeypatch, tmp_path):
    statuses, ended = exits
    monkeypatch.setitem(METHODS, "stuck", stuck_in_the_step(ended, after=9))
    seen, write = [], RunFolder.write_begun
    monkeypatch.setattr(RunFolder, "write_begun", lambda *a: seen.append(a[2].tiles) or write(*a))
    words = ("--methods", "stuck", "--limit", 15, "--tile", 3, "--part", 30, "--metrics", "sensitivity")
    status, _, err = shell(
        "evaluate", *words, "--contrast", "topk_logits:3", "--stall", 0.02, "--out", tmp_path / "run"
    )
    assert status == 0, err
    assert statuses == [STATUS]
    assert seen in ([2], [3])  # two or three tiles of three images each had come back
    assert "process 0 of 1 waits for its device (cpu:cpu), which got tile 3 last; all that was computed is kept" in err
    assert "give --stall MINUTES where a batch may take longer" in err


def test_compiling_for_longer_than_the_limit_is_no_stall(shell, exits, monkeypatch):
    slow = []

    def delay(event, seconds, **_):
        if "backend_compile" in event and parallel.compiling():
            slow.append(seconds)
            time.sleep(3)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(delay)
    try:
        status, _, err = shell(*COMMANDS["evaluate"], "--stall", 0.02, "--out", "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(delay)
    assert slow
    assert status == 0, err
    assert exits[0] == []


def numbers(count):
    yield from range(count)


@pytest.mark.parametrize("works", [True, False])
def test_the_first_batch_may_take_as_long_as_processors_work_on_it(exits, monkeypatch, works):
    monkeypatch.setattr("case_jax.stall.FIRST", 0.02)
    statuses, ended = exits
    with Stopping(lambda: "nothing", stall=None) as stopped:
        for _ in stopped.until(numbers(1)):
            end_of_batch = time.process_time() + 2.5
            while works and time.process_time() < end_of_batch:
                pass
            assert works or ended.wait(60)
    assert statuses == ([] if works else [STATUS])


def test_what_cannot_be_kept_does_not_hold_up_the_end(exits, monkeypatch, capsys):
    statuses, ended = exits

    def broken():
        raise OSError("disk full")

    def hanging():
        ended.wait(60)
        return "never said"

    monkeypatch.setattr(stopping, "KEEPING", 0.5)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    for keep in (broken, hanging):
        with Stopping(keep, stall=0.01) as stopped:
            for _ in stopped.until(numbers(1)):
                assert ended.wait(60)
        ended.clear()
    assert statuses == [STATUS, STATUS]
    assert capsys.readouterr().err.count("which got 0 last; more than was written before could not be kept") == 2


def test_in_a_thread_stalls_are_seen_too(exits):
    def run():
        with Stopping(lambda: "nothing", stall=0.01) as stopped:
            for _ in stopped.until(numbers(1)):
                ended.wait(60)

    statuses, ended = exits
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert statuses == [STATUS]


def test_a_loop_that_has_ended_is_watched_no_longer(exits):
    with Stopping(lambda: "nothing", stall=0.01) as stopped:
        assert list(stopped.until(numbers(3))) == [0, 1, 2]
    time.sleep(1)
    assert exits[0] == []
    assert not [thread for thread in threading.enumerate() if thread.name == "case_jax-stall"]


# --- whole processes -----------------------------------------------------------------------------------------------------------

STUCK = """
import os, threading
import jax
from case_jax import cli
from case_jax.methods import METHODS

calls = []

def wait(maps):
    calls.append(1)
    if len(calls) > int(os.environ.get("STUCK_AFTER", 10**9)):
        threading.Event().wait()
    return maps

def stuck(view, query):
    maps = METHODS["grad_cam"].maps(view, query)
    return jax.pure_callback(wait, jax.ShapeDtypeStruct(maps.shape, maps.dtype), maps, vmap_method="sequential")

METHODS["stuck"] = METHODS["grad_cam"]._replace(maps=stuck)
cli.main()
"""
WORDS = (
    *("evaluate", "--limit", 120, "--tile", 4, "--part", 12, "--methods", "stuck", "random"),
    *("--metrics", "sensitivity", "--contrast", "topk_logits:3", "--stall", 0.05),
)
PROGRAM = ("-c", STUCK)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return cpu_environment(tmp_path_factory.mktemp("xla"))


def stuck_after(environment, images):
    return {**environment, "STUCK_AFTER": str(images)}


@pytest.fixture(scope="module")
def unbroken(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    succeed([start([*WORDS, "--out", folder], environment, PROGRAM)])
    return RunFolder(folder).rows()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_stalled_process_ends_and_the_next_one_ends_with_the_same_rows(environment, unbroken, tmp_path, devices):
    folder, environment = RunFolder(tmp_path / "run"), on_devices(environment, devices)
    words = [*WORDS, "--out", folder.path]
    for images in (0, 50):  # in the first batch, of which nothing is kept, and behind a few
        status, errors = end(start(words, stuck_after(environment, images), PROGRAM), 120)
        assert status == STATUS, errors
        its = "its device (cpu:cpu)" if devices == 1 else "its 8 devices (cpu:cpu)"
        said = rf"case-jax: no batch has finished for 0.05 minutes: process 0 of 1 waits for {re.escape(its)}, which got tile \d+ last; "
        assert re.search(said + "all that was computed is kept, and the same command resumes", errors), errors
        assert 'File "<string>", line 12 in wait' in errors  # every thread's stack says where
        assert bool(folder.done()) == (images > 0)
    succeed([start(words, environment, PROGRAM)])
    pd.testing.assert_frame_equal(folder.rows(), unbroken, check_exact=True)


@pytest.mark.slow
def test_a_stalled_process_ends_the_others_and_all_resume(environment, unbroken, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = ("--coordinator", f"localhost:{free.getsockname()[1]}", "--process-count", 2)
    words = [*WORDS, "--out", tmp_path / "run", *meeting, "--process-id"]
    whole = start([*words, 0], environment, PROGRAM)
    stalled = start([*words, 1], stuck_after(environment, 20), PROGRAM)
    status, errors = end(stalled, 120)
    assert status == STATUS, errors
    assert "process 1 of 2 waits for its device" in errors
    assert "start the same command in every process again" in errors
    status, errors = end(whole, 60)
    assert status not in (0, STATUS)
    assert "process 0 of 2 has ended before the run was complete" in errors
    succeed([start([*WORDS, "--out", tmp_path / "run"], environment, PROGRAM)])
    pd.testing.assert_frame_equal(RunFolder(tmp_path / "run").rows(), unbroken, check_exact=True)

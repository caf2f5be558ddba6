"""The benchmark of accelerators: it runs without what a plain machine lacks, keeps what it has, and says what it left out."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from case_jax import __version__, canaries
from experiments.benchmarks.accelerator import __main__ as command
from experiments.benchmarks.accelerator import exactness, pack, sections, timetable
from experiments.benchmarks.accelerator.tables import markdown
from experiments.benchmarks.accelerator.timetable import Job, Section

REPOSITORY = Path(__file__).parents[1]
ABSENT = ("tyro", "tabulate", "tensorflow_datasets", "huggingface_hub", "array_record", "torch")
PACKED = ("jaxtyping", "wadler_lindig")

PLAIN_MACHINE = f"""
import runpy, sys

class PlainMachine:
    "A finder to whom some packages are not installed, and others lie in wheels alone."

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            return None
        if name in {PACKED}:
            path = [entry for entry in sys.path if entry.endswith(".whl")]
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(PlainMachine, sys.meta_path)
runpy.run_module("experiments.benchmarks.accelerator", run_name="__main__", alter_sys=True)
"""


def wheel_of(package, folder):
    """An installed package as a wheel."""
    origin = Path(find_spec(package).origin).parent
    with zipfile.ZipFile(folder / f"{package}-1-py3-none-any.whl", "w") as archive:
        for file in sorted(origin.rglob("*.py")):
            archive.write(file, file.relative_to(origin.parent))


@pytest.mark.slow
def test_everything_runs_with_the_packages_of_a_plain_machine(tmp_path):
    for package in PACKED:
        wheel_of(package, tmp_path)
    words = ["--quick", "--packed", str(tmp_path), "--out", str(tmp_path / "found.json")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_MACHINE, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [s["section"] for s in found["sections"]] == list("abcdefg")
    assert found["versions"]["case-jax"] == __version__
    states = {s["section"]: s["state"] for s in found["sections"]}
    for letter in "de":
        assert states.pop(letter).startswith("left out: torch")
    assert set(states.values()) == {"finished"}
    rows = {row["what"]: row for s in found["sections"] for row in s["rows"]}
    assert not [row for row in rows.values() if "left_out" in row or "failed" in row]
    canary = rows["expressions computed wrong before"]
    assert (canary["wrong"] == "none") == (canary["largest_difference"] <= canaries.BOUND)
    for part in ("logits and class weights", "CASE"):
        assert rows[f"resnet_basic, {part}, float32"]["missed"] == "none"
        assert rows[f"resnet_basic, {part}, float32"]["of"] > 5
    assert rows["resnet_basic, tf32 against float32"]["logits"] == 0  # processors have no such units
    assert 1e-4 < rows["resnet_basic, bf16 against float32"]["logits"] < 0.1
    assert rows["digit_resnet, bf16, 2 images"]["route"] == "closed form"
    assert rows["sensitivity and fidelity, float32"]["images"] == 4
    assert 0 < rows["sensitivity, float32"]["devices_at_work"] <= 1.5
    assert rows["case, pairs of all classes"]["over_forward"] > 0
    assert 0 <= rows["pixels of the likeliest class's CASE map"]["bf16_changed"] < 0.5
    assert "| case, pairs of the 20 likeliest |" in done.stdout


STUCK = """
import signal, sys, time
from experiments.benchmarks.accelerator import __main__ as command, sections
from experiments.benchmarks.accelerator.timetable import Job, Section

def stuck():
    print("stuck with an alarm in", round(signal.getitimer(signal.ITIMER_REAL)[0]), flush=True)
    time.sleep(600)

one = Section("a", "Done", 60, lambda quick: [Job("first", lambda: {"n": 1})])
two = Section("b", "Stuck", 60, lambda quick: [Job("second", lambda: {"n": 2}), Job("third", stuck)])
three = Section("c", "Never", 60, lambda quick: [Job("fourth", lambda: {"n": 4})])
sections.SECTIONS = (one, two, three)
command.main(["--out", sys.argv[1]])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGALRM])
def test_what_is_cut_off_keeps_its_rows(tmp_path, number):
    out = tmp_path / "found.json"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", STUCK, str(out)]
    with subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stdout if line.startswith("stuck"))
        process.send_signal(number)
        assert process.wait(60) == -number
    assert command.LIMIT - 120 < int(line.split()[-1]) <= command.LIMIT
    found = json.loads(out.read_text())["sections"]
    assert [s["state"] for s in found] == ["finished", "begun", "not begun"]
    assert [row["n"] for s in found for row in s["rows"]] == [1, 2]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def job(self, name, seconds):
        def run():
            self.now += seconds
            return {"took": seconds}

        return Job(name, run)


def ran(*chosen, quick=False, clock):
    records, kept = timetable.not_begun(chosen), []
    fine = timetable.run(chosen, records, lambda: kept.append(json.dumps(records)), quick=quick, clock=clock)
    return fine, records, kept


def test_budgets_by_hand():
    """After 12 of 20 s there is room for half of 12, after 17 not for half of 8.5; what is left goes on, an overrun is taken from the third."""
    clock = Clock()
    jobs = [[("a1", 12), ("a2", 5), ("a3", 1)], [("b1", 14)], [("c1", 1), ("c2", 1)]]
    chosen = [
        Section(letter, "", budget, lambda quick, names=names: [clock.job(*n) for n in names])
        for letter, budget, names in zip("abc", (20, 10, 3), jobs, strict=True)
    ]
    fine, records, kept = ran(*chosen, clock=clock)
    assert fine
    assert [(row["what"], row.get("left_out")) for r in records for row in r["rows"]] == [
        ("a1", None), ("a2", None), ("a3", "budget"), ("b1", None), ("c1", None), ("c2", None),
    ]  # fmt: skip
    assert [r["seconds"] for r in records] == [17, 14, 2]
    assert len(kept) == 6 + 2 * 3
    clock = Clock()
    late = Section("b", "", 3, lambda quick: [clock.job("b1", 1)])
    overrun = Section("a", "", 2, lambda quick: [clock.job("a1", 9)])
    assert ran(overrun, late, clock=clock)[1][1]["rows"] == [{"what": "b1", "left_out": "budget"}]
    assert ran(overrun, late, quick=True, clock=clock)[1][1]["rows"][0]["took"] == 1


def test_failures_and_obstacles_are_said(capsys):
    def broken():
        raise ValueError("no such\nthing")

    failing = Section("a", "Failing", 9, lambda quick: [Job("one", broken), Job("two", lambda: {"n": 2.0})])
    blocked = Section("b", "Blocked", 9, lambda quick: [Job("never", broken)], lambda: "no torch")
    fine, records, _ = ran(failing, blocked, clock=Clock())
    assert not fine
    assert records[0]["rows"][0]["failed"] == "ValueError: no such"
    assert records[0]["rows"][1]["n"] == 2
    assert records[1]["state"] == "left out: no torch"
    assert "Traceback" in capsys.readouterr().err
    text = markdown({"date": "today", "devices": ["gpu:X"], "versions": {"jax": "1"}, "sections": records})
    assert "| what | n | seconds |\n| --- | --- | --- |\n| two | 2 | 0 |" in text
    assert "Failed: one (ValueError: no such)." in text
    assert "**(b) Blocked** (left out: no torch)" in text


def test_the_table_of_a_file(tmp_path, capsys):
    rows = [{"what": "x", "n": 12345.6}, {"what": "y", "m": None}, {"what": "z", "left_out": "budget"}]
    section = {"section": "a", "title": "T", "budget_s": 5, "state": "finished", "seconds": 1.0, "rows": rows}
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"date": "d", "devices": ["cpu"], "versions": {}, "sections": [section]}))
    assert command.main(["--table", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"**(a) T** (finished, 1 of 5 s)", "| x | 12,346 |", "| y |  |", "Left out: z (budget)."} <= set(lines)


def test_budgets_fit_the_limit():
    assert sum(s.budget for s in sections.SECTIONS) + 20 <= command.LIMIT < 480
    names = [job.name for s in sections.SECTIONS for job in s.jobs(False)]
    assert len(set(names)) == len(names)


def test_bad_input_is_refused(tmp_path, monkeypatch, capsys):
    assert command.main(["--quick", "--only", "z", "--out", str(tmp_path / "never.json")]) == 2
    assert "only: 'z' is unknown" in capsys.readouterr().err
    assert not (tmp_path / "never.json").exists()
    with pytest.raises(SystemExit):
        command.main(["--table", str(tmp_path / "nowhere.json")])
    assert "nowhere.json is no file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no wheels in"):
        pack.put_behind(tmp_path)


@pytest.mark.parametrize(("status", "message"), [(0, "not pure Python"), (1, "pip could not collect")])
def test_a_pack_that_would_not_run_elsewhere_is_refused(tmp_path, monkeypatch, status, message):
    (tmp_path / "x-1-cp311-cp311-linux_x86_64.whl").touch()
    monkeypatch.setattr(pack.subprocess, "run", lambda words: subprocess.CompletedProcess(words, status))
    with pytest.raises(SystemExit, match=message):
        pack.collect(tmp_path)


def test_a_wrong_expression_is_counted(monkeypatch):
    monkeypatch.setattr(canaries, "errors", lambda: {"1 + 1": 0.5, "1 + 2": 1e-7})
    row = exactness.expressions()
    assert row == {"expressions": 2, "largest_difference": 0.5, "wrong": "1 + 1 (5.0e-01)"}

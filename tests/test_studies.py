"""What one study can, all can: a table of studies and options, through the shell."""

import json

import pytest
from processes import COMMANDS

from case_jax.results import RunFolder

STUDIES = [name for name in COMMANDS if name != "train"]


@pytest.fixture(scope="module")
def helped():
    """The help of every study, read once."""
    return {}


@pytest.mark.parametrize("option", [
    "--data", "--methods", "--limit", "--out", "--seed", "--tile", "--memory", "--precision", "--crops", "--plan", "--stall", "--mapper",
    "--coordinator", "--process-id", "--process-count", "--pod", "--contrast", "--contrast-data", "--contrast-limit", "--set", "--weights",
    "--layer",
])  # fmt: skip
@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_every_option(shell, helped, study, option):
    if study not in helped:
        helped[study] = shell(study, "--help")[1]
    assert option in helped[study]


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_writes_a_page_that_can_be_written_again(shell, tmp_path, study):
    status, out, err = shell(*COMMANDS[study], "--out", "run")
    assert status == 0, err
    page = (tmp_path / "run" / "report.html").read_bytes()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["study"] == study.replace("-", "_")
    assert max(map(len, out.splitlines())) < 800
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert table
    assert max(map(len, table)) <= 110
    (tmp_path / "run" / "report.html").unlink()
    status, _, err = shell("report", "run")
    assert status == 0, err
    assert (tmp_path / "run" / "report.html").read_bytes() == page


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_can_be_planned_and_then_leaves_nothing(shell, tmp_path, study):
    status, out, err = shell(*COMMANDS[study], "--out", "run", "--plan")
    assert status == 0, err
    assert "forward pass" in out
    assert "Predicted for chips" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("study", ["evaluate", "localise", "sanity", "grid-pointing"])
def test_rows_do_not_depend_on_the_part(shell, tmp_path, study):
    words = [word for word in COMMANDS[study] if word not in ("--part",)]
    if study == "evaluate":
        words = ["evaluate", *COMMANDS["localise"][1:], "--metrics", "sensitivity"]
    for name, part in (("a", 3), ("b", 12)):
        status, _, err = shell(*words, "--out", name, "--part", part)
        assert status == 0, err
    a, b = (RunFolder(tmp_path / name).rows() for name in "ab")
    assert a.equals(b)
    assert len(a)

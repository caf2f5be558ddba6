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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the smallest run of a study, and what its command printed; run once."""
    folder, printed = tmp_path_factory.mktemp("studies"), {}

    def of(shell, study):
        if study not in printed:
            status, printed[study], err = shell(*COMMANDS[study], "--out", folder / study)
            assert status == 0, err
        return folder / study, printed[study]

    return of


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_writes_a_page_that_can_be_written_again(shell, runs, study):
    run, out = runs(shell, study)
    page = (run / "report.html").read_bytes()
    config = json.loads((run / "config.json").read_text())
    assert config["study"] == study.replace("-", "_")
    assert max(map(len, out.splitlines())) < 800
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert table
    assert max(map(len, table)) <= 110
    (run / "report.html").unlink()
    status, _, err = shell("report", run)
    assert status == 0, err
    assert (run / "report.html").read_bytes() == page


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_can_be_planned_and_then_leaves_nothing(shell, tmp_path, study):
    status, out, err = shell(*COMMANDS[study], "--out", "run", "--plan")
    assert status == 0, err
    assert "forward pass" in out
    assert "Predicted for chips" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("study", ["evaluate", "localise", "sanity", "grid-pointing"])
def test_rows_do_not_depend_on_the_part(shell, runs, tmp_path, study):
    run = RunFolder(runs(shell, study)[0])
    part = 12 if run.config()["part"] == 3 else 3
    words = [*COMMANDS[study]]
    if "--part" in words:
        at = words.index("--part")
        del words[at : at + 2]
    status, _, err = shell(*words, "--part", part, "--out", "other")
    assert status == 0, err
    other = RunFolder(tmp_path / "other")
    assert other.config()["part"] == part != run.config()["part"]
    assert other.rows().equals(run.rows())
    assert len(other.rows())
